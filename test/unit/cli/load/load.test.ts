import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { WriteStream } from 'node:tty';
import { test } from 'node:test';
import type { IncrementRequest } from '#product/cli/load/increment-requests.js';
import { LoadHistory } from '#product/cli/load/load-history.js';
import { parseLoadOptions } from '#product/cli/load/load-options.js';
import { LoadProgress } from '#product/cli/load/load-progress.js';
import { Outcomes } from '#product/cli/load/outcomes.js';
import { StartError } from '#product/core/errors.js';
import { eventually } from '../../../support/eventually.js';
import { temporaryDirectory } from '../../../support/journal-fixtures.js';
import { runLoadCommand } from '../../../support/load-command.js';

/** The sentence that refuses a command line. */
function refusal(line: string, environment: Readonly<Record<string, string>> = {}): string {
  try {
    parseLoadOptions(line === '' ? [] : line.split(' '), environment);
  } catch (error) {
    assert.ok(error instanceof StartError);
    assert.equal(error.exitCode, 64);
    assert.equal(error.problems.length, 1);
    return error.message;
  }
  assert.fail(`${line} is accepted`);
}

test('a wrong command line is refused with one sentence', () => {
  const cases: readonly (readonly [line: string, sentence: RegExp])[] = [
    ['--speed 9', /^Unknown option '--speed'; see --help\.$/],
    ['--token secret', /^Unknown option '--token'; see --help\.$/],
    ['fast', /^Unexpected argument 'fast'; see --help\.$/],
    ['--rate', /^Option '--rate.*' argument missing; see --help\.$/],
    ['--json=1', /--json.* does not take an argument; see --help\.$/],
    ['--rate 0', /^--rate takes a number above 0, at most 1000000, not "0"\.$/],
    ['--rate 1e3', /^--rate takes/],
    ['--duration NaN', /^--duration takes/],
    ['--connections 1.5', /^--connections takes a whole number from 1 to 10000, not "1\.5"\.$/],
    ['--increments 0', /^--increments takes/],
    ['--keys random', /^--keys takes fixed, uniform or zipf, not "random"\.$/],
    ['--keys fixed --key-count 2', /^--keys fixed is one key/],
    ['--zipf-exponent 2', /^--zipf-exponent goes with --keys zipf\.$/],
    ['--key-bytes 10', /^--key-bytes takes a whole number from 21 to 2048, not "10"\.$/],
    ['--prefix=', /^--prefix takes a text/],
    [`--prefix ${'p'.repeat(2048)}`, /^--prefix is too long/],
    ['--prefix p --delete', /^--delete does not go with --prefix/],
    ['--url localhost:3333', /^--url takes a URL that begins with http/],
    ['--url http://me:secret@host', /^--url takes a URL without credentials/],
    ['--seed 4294967296', /^--seed takes/],
    ['--token-file /nowhere/token', /^--token-file cannot be read: ENOENT/],
  ];
  for (const [line, sentence] of cases) assert.match(refusal(line), sentence);
});

test('a file of --history that cannot be written ends the command', () => {
  assert.throws(() => new LoadHistory('/nowhere/history'), /^StartError: --history cannot be written: ENOENT/);
});

test('the token comes from a file or the environment, and no message has it', (t) => {
  const file = join(temporaryDirectory(t), 'token');
  writeFileSync(file, ' from-file \n');
  const environment = { SUMMING_COUNTERS_TOKEN: 'from-environment' };
  assert.equal(parseLoadOptions([], {})?.token, undefined);
  assert.equal(parseLoadOptions([], environment)?.token, 'from-environment');
  assert.equal(parseLoadOptions(['--token-file', file], environment)?.token, 'from-file');
  const two = refusal('', { SUMMING_COUNTERS_TOKEN: 'secret-one secret-two' });
  assert.equal(two, 'SUMMING_COUNTERS_TOKEN does not hold one bearer token.');
  writeFileSync(file, '');
  assert.equal(refusal(`--token-file ${file}`), 'The file of --token-file does not hold one bearer token.');
});

test('the progress on a terminal is a bar of its width with the figures since the last one', async () => {
  const written: string[] = [];
  const output = { isTTY: true, columns: 60, write: (text: string) => written.push(text) };
  const outcomes = new Outcomes(1);
  const progress = new LoadProgress(outcomes, 1, output as unknown as WriteStream);
  outcomes.acknowledge({ keyNumbers: [0, 0] } as unknown as IncrementRequest, 3, 0);
  outcomes.lostConnections = 7;
  await eventually('a bar', () => Promise.resolve(written.length > 0));
  progress.stop();
  assert.match(written[0] ?? '', /^\r\[=+ +\] 0\/1 s {2}[1-9]\d* req\/s {2}[1-9]\d* incr\/s {2}p50 /);
  assert.equal(written[0]?.length, '\r'.length + 59 + '\x1b[K'.length);
  assert.equal(written.at(-1), '\r\x1b[K');
});

test('each run has a prefix and a seed of its own, and --key-bytes is the length of every key', () => {
  const [one, two] = [parseLoadOptions([], {}), parseLoadOptions([], {})];
  assert.notEqual(one?.prefix, two?.prefix);
  assert.notEqual(one?.seed, two?.seed);
  const given = parseLoadOptions(['--prefix', 'é:', '--key-bytes', '40', '--seed', '7'], {});
  assert.equal(given?.keyDigits, 37);
  assert.equal(given.seed, 7);
});

test('the command prints help of at most 80 columns, and refuses with exit code 64', async () => {
  const help = await runLoadCommand(['--help']);
  assert.equal(help.code, 0);
  assert.deepEqual(
    help.out.split('\n').filter((line) => line.length > 80),
    [],
  );
  const wrong = await runLoadCommand(['--rate', 'fast']);
  assert.equal(wrong.code, 64);
  assert.equal(wrong.out, '');
  assert.equal(wrong.err, 'summing-counters-load: --rate takes a number above 0, at most 1000000, not "fast".\n');
});

async function listen(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // A listening TCP server has an address with a port.
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test('a server that does not answer, or that is none of ours, is one sentence and exit code 1', async () => {
  const server = createServer((_, response) => response.end('hello'));
  const url = await listen(server);
  try {
    const other = await runLoadCommand(['--url', url]);
    assert.equal(other.code, 1);
    assert.equal(
      other.err,
      'summing-counters-load: GET /counters is answered 200, which is not an answer of summing-counters.\n',
    );
  } finally {
    server.close();
  }
  const none = await runLoadCommand(['--url', url]);
  assert.equal(none.code, 1);
  assert.equal(none.out, '');
  assert.match(
    none.err,
    /^summing-counters-load: http:\S+ does not answer: connect ECONNREFUSED 127\.0\.0\.1:\d+\.\n$/,
  );
});
