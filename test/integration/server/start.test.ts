import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { settings } from '#product/config/settings.js';
import { createTestDatabase } from '../../support/database.js';
import { increment, send } from '../../support/http.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, temporaryDirectory } from '../../support/server.js';
import { assertCleanStop, committedSums, serves } from '../../support/suite-server.js';
import { own, ownNode, refusedStart } from '../../support/own.js';

const MAIN = new URL('../../../../dist/main.js', import.meta.url).pathname;
const UWS = new URL('../../../../dist/http/uws.js', import.meta.url).href;

/** Runs Node to its end. */
async function run(args: readonly string[]): Promise<{ code: number | null; out: string }> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, out };
}

describe('the start', { concurrency: 2 }, () => {
  test('--help and -h print every setting and end with 0', async () => {
    for (const option of ['--help', '-h']) {
      const { code, out } = await run([MAIN, option]);
      assert.equal(code, 0);
      for (const { variable } of Object.values(settings)) assert.match(out, new RegExp(`^${variable} `, 'm'));
      for (const line of out.split('\n')) assert.ok(line.length <= 80, line);
    }
  });

  test('an unknown argument ends the start with 78 before it creates anything', async () => {
    for (const args of [['--port=80'], ['serve'], ['--verbose', '--help'], ['--help', 'me'], ['--version', '-v']]) {
      const { code, out } = await run([MAIN, ...args]);
      assert.deepEqual([code, out], [78, '']);
    }
  });

  test('a start with invalid values lists all of them and ends with 78', async () => {
    const env = {
      PORT: '70000',
      SHARDS: '0',
      JOURNAL: 'paper',
      MAX_BODY_BYTES: '17 MiB',
      MAX_KEY_BYTES: '2049',
      DATABASE_URL: 'mysql://user:hidden-password@host/db',
      LOG_LEVEL: 'loud',
      FLUSH_INTERVAL_MS: '1.5',
    };
    const names = Object.keys(env);
    const server = await refusedStart(env, 78);
    const isLogged = (line: string): boolean => line.startsWith('{');
    // The log masks whatever looks like a password, also in an example.
    const masked = (text: string): string => text.replace('USER:PASSWORD@', '***@');
    const lines = server.output
      .trim()
      .split('\n')
      .filter((line) => !isLogged(line));
    assert.equal(lines.length, names.length, server.output);
    assert.deepEqual(
      server.log.map(({ level, exitCode, msg }) => ({ level, exitCode, msg })),
      lines.map((line) => ({ level: 'fatal', exitCode: 78, msg: masked(line.slice('summing-counters: '.length)) })),
    );
    for (const name of names) {
      assert.ok(
        lines.some((line) => line.startsWith(`summing-counters: ${name} `)),
        `${name} in ${server.output}`,
      );
    }
    assert.ok(!server.output.includes('hidden-password'));
  });

  test('a database that refuses the server ends the start, and the log has the sentence as JSON, too', async (t) => {
    const url = new URL(own(t, await createTestDatabase()).url);
    url.pathname = '/no_such_database';
    const server = await refusedStart({ DATABASE_URL: url.href, SHARDS: '1' }, 78);
    const [, sentence = ''] = /^summing-counters: (.*no_such_database.*)$/m.exec(server.output) ?? [];
    const fatal = server.log.filter(({ level }) => level === 'fatal' || level === 'error');
    assert.deepEqual(
      fatal.map(({ msg }) => msg),
      [sentence],
    );
  });

  test('a variable that is nearly a setting is a warning of the log', async (t) => {
    const { server } = await ownNode(t, { SHARDS: '1', HTTP_THREAD: '4' });
    assert.match(server.output, /"level":"warn".*"HTTP_THREAD is not a setting .*; did you mean HTTP_THREADS\?"/);
    await assertCleanStop(server);
  });

  test('DATABASE_URL_FILE names the database as DATABASE_URL does', async (t) => {
    const database = own(t, await createTestDatabase());
    const dataDir = await temporaryDirectory();
    const file = join(dataDir, 'url');
    await writeFile(file, `${database.url}\n`, { mode: 0o400 });
    const server = own(t, await startServer({ env: { DATABASE_URL_FILE: file, SHARDS: '1' }, dataDir }));
    assertCreated(await increment(server.url, { of_the_file: 4 }));
    await assertCleanStop(server);
    assert.equal((await committedSums(database.url)).get('of_the_file'), 4n);
    const { password } = new URL(database.url);
    assert.ok(password === '' || !server.output.includes(password));
  });

  test('a port that another server uses ends the start with a non-zero code and a sentence, and the other server continues', async (t) => {
    const { server: first, databaseUrl } = await ownNode(t, { SHARDS: '1' });
    const { port } = new URL(first.url);
    const inUse = new RegExp(`^summing-counters: Port ${port} .*in use`, 'm');
    await refusedStart({ PORT: port, DATABASE_URL: databaseUrl }, 1, inUse);
    assertCreated(await increment(first.url, { unharmed: 1 }));
    await assertCleanStop(first);
  });

  test('the start does not share a port that a uWebSockets.js process of the same user leaves open to sharing', async (t) => {
    const script = `
      import { loadUws } from ${JSON.stringify(UWS)};
      const { uws } = loadUws();
      uws.App().listen('127.0.0.1', 0, 0, (socket) => console.log(uws.us_socket_local_port(socket)));`;
    const sharer = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => sharer.kill('SIGKILL'));
    const port = await new Promise<string>((resolve) =>
      sharer.stdout.once('data', (data: Buffer) => resolve(data.toString().trim())),
    );
    assert.match(port, /^\d+$/);
    await refusedStart({ PORT: port }, 1, new RegExp(`^summing-counters: Port ${port} .*in use`, 'm'));
  });

  test('a second process on the same data directory refuses to start, and the first continues', async (t) => {
    const { server: first, databaseUrl } = await ownNode(t, { SHARDS: '1' });
    const env = { DATABASE_URL: databaseUrl, DATA_DIR: first.dataDir };
    await refusedStart(env, 78, /^summing-counters: Another process is using the data directory /m);
    assertCreated(await increment(first.url, { unharmed: 1 }));
    await assertCleanStop(first);
    // The lock ended with its process.
    const third = await startServer({ env: { ...env, SHARDS: '1' }, dataDir: first.dataDir });
    await serves(third);
    assert.equal((await send(third.url, '/key_sum?name=unharmed')).body, '1');
    await assertCleanStop(third);
  });

  test('without DATABASE_URL an embedded database keeps the counters from one start to the next', async (t) => {
    const first = own(t, await startServer({ env: { SHARDS: '1' } }));
    assert.equal((await send(first.url, '/readyz')).body, '{"status":"ok"}');
    assertCreated(await increment(first.url, { home: 7 }));
    await assertCleanStop(first);
    const second = await startServer({ env: { SHARDS: '2' }, dataDir: first.dataDir });
    await serves(second);
    assert.equal((await send(second.url, '/key_sum?name=home')).body, '7');
    await assertCleanStop(second);
  });

  test('the start logs its data directory as an absolute path', async (t) => {
    const dataDir = await temporaryDirectory();
    const database = own(t, await createTestDatabase());
    const env = { DATABASE_URL: database.url, SHARDS: '1', DATA_DIR: relative(process.cwd(), dataDir) };
    const server = own(t, await startServer({ env, dataDir }));
    assert.ok(server.log.some((line) => line['msg'] === `Data directory ${dataDir}`));
    await assertCleanStop(server);
  });
});
