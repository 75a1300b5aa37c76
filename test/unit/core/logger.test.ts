import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { createLogger, printablePrefix, type LogFields } from '#product/core/logger.js';

/** The written lines. */
function recorder(level: Parameters<typeof createLogger>[0], fields?: LogFields) {
  const lines: string[] = [];
  return { lines, logger: createLogger(level, fields, { write: (line) => lines.push(line) }) };
}

test('a line is one JSON object with level, time, fields and message', () => {
  const { lines, logger } = recorder('info', { shard: 2 });
  logger.info({ keys: 3 }, 'flushed');
  const [line = ''] = lines;
  assert.ok(line.endsWith('\n'));
  const parsed: unknown = JSON.parse(line);
  assert.ok(typeof parsed === 'object' && parsed !== null && 'time' in parsed);
  const { time, ...rest } = parsed;
  assert.deepEqual(rest, { level: 'info', shard: 2, keys: 3, msg: 'flushed' });
  assert.ok(typeof time === 'string' && Math.abs(Date.parse(time) - Date.now()) < 60_000);
});

test('lines below the level are not written', () => {
  const { lines, logger } = recorder('warn');
  logger.debug({}, 'no');
  logger.info({}, 'no');
  logger.warn({}, 'yes');
  logger.error({}, 'yes');
  assert.equal(lines.length, 2);
  const silent = recorder('silent');
  silent.logger.error({}, 'no');
  assert.deepEqual(silent.lines, []);
});

test('secrets are not written: in a field, one level below, in a URL, or in the text of an error', () => {
  const { lines, logger } = recorder('debug', { databaseUrl: 'hunter2' });
  const url = 'postgresql://me:hunter2@db:5432/counters';
  logger.info({ password: 'hunter2', token: 'hunter2', config: { authTokens: ['hunter2'] } }, 'one');
  logger.info({ headers: { authorization: 'Bearer hunter2' }, url }, `connects to ${url}`);
  logger.error({ err: new Error(`cannot reach ${url}`) }, 'two');
  assert.equal(lines.length, 3);
  assert.ok(!lines.join('').includes('hunter2'), lines.join(''));
  assert.ok(lines.join('').includes('postgresql://***@db:5432/counters'));
});

test('the message of an error and those of its causes are written once each', () => {
  const { lines, logger } = recorder('info');
  const disk = new Error('ENOSPC: no space left on device, write');
  const journal = new Error(`The journal cannot be written: ${disk.message}`, { cause: disk });
  logger.error({ err: new Error('The group was refused.', { cause: journal }) }, 'Disk full; refusing increments');
  const { err } = JSON.parse(lines[0] ?? '') as { err: Record<string, string> };
  assert.equal(
    err['message'],
    'The group was refused: The journal cannot be written: ENOSPC: no space left on device, write',
  );
  assert.equal(lines[0]?.split('ENOSPC').length, 2, lines[0]);
  assert.equal(lines[0]?.split('The group was refused').length, 2, lines[0]);
  assert.match(err['stack'] ?? '', /^Error\n +at [^]*\ncaused by Error\n +at [^]*\ncaused by Error\n +at /);
});

test('the errors of a host with several addresses are written once each', () => {
  const { lines, logger } = recorder('info');
  const errors = [new Error('connect ECONNREFUSED ::1:5432'), new Error('connect ECONNREFUSED 127.0.0.1:5432')];
  logger.error({ err: new Error('PostgreSQL is away.', { cause: new AggregateError(errors) }) }, 'Away');
  assert.match(
    lines[0] ?? '',
    /"message":"PostgreSQL is away: connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127/,
  );
  assert.equal(lines[0]?.split('ECONNREFUSED').length, 3, lines[0]);
});

test('a circle of causes ends', () => {
  const { lines, logger } = recorder('info');
  const error = new Error('round');
  error.cause = new Error('and round', { cause: error });
  logger.error({ err: error }, 'A circle');
  assert.match(lines[0] ?? '', /"message":"round: and round"/);
});

const product = JSON.stringify(import.meta.resolve('#product/core/logger.js'));

test('the last line of a thread that ends at once is not lost, even if the main thread is busy', () => {
  const worker = `import(${product}).then(({ createLogger }) => {
    createLogger('info', { shard: 1 }).info({}, 'last words');
    process.exit(3);
  });`;
  const main = `const { Worker } = require('node:worker_threads');
    const gone = new Int32Array(new SharedArrayBuffer(4));
    new Worker(${JSON.stringify(worker)}, { eval: true });
    // The event loop of the main thread never runs, so it cannot forward output of the worker; then it is killed.
    Atomics.wait(gone, 0, 0, 2000);
    process.kill(process.pid, 'SIGKILL');`;
  const { stdout, signal } = spawnSync(process.execPath, ['-e', main], { encoding: 'utf8' });
  assert.equal(signal, 'SIGKILL');
  assert.match(stdout, /"shard":1,"msg":"last words"/);
});

test('on a terminal a line is readable text', () => {
  const program = `import(${product}).then(({ createLogger }) => createLogger('info').warn({ keys: 3 }, 'flushed late'))`;
  const command = `${process.execPath} -e ${JSON.stringify(program)}`;
  const output = execFileSync('script', ['-qec', command, '/dev/null'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  assert.match(output, /WARN/);
  assert.match(output, /flushed late/);
  assert.doesNotMatch(output, /"level"/);
});

test('a key in a log line is at most 64 bytes of whole characters, without control characters', () => {
  const prefix = (key: string): string => printablePrefix(Buffer.from(key));
  assert.equal(prefix('page:/home 😀 é'), 'page:/home 😀 é');
  assert.equal(prefix('a\n\u001b[31m\u202e\u2028b'), 'a\ufffd\ufffd[31m\ufffd\ufffdb');
  assert.equal(prefix('x'.repeat(64)), 'x'.repeat(64));
  assert.equal(prefix('x'.repeat(65)), `${'x'.repeat(64)}…`);
  assert.equal(prefix(`${'x'.repeat(62)}😀`), `${'x'.repeat(62)}…`);
  assert.equal(printablePrefix(Buffer.from([0x70, 0xff])), 'p\ufffd');
});
