import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { settings } from '#product/config/settings.js';
import { createTestDatabase } from '../../support/database.js';
import { increment, send } from '../../support/http.js';
import { assertCreated } from '../../support/problem.js';
import { spawnServer, startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { assertCleanStop, committedSums } from '../../support/suite-server.js';

const MAIN = new URL('../../../../dist/main.js', import.meta.url).pathname;
const UWS = new URL('../../../../dist/http/uws.js', import.meta.url).href;

async function withServer(
  env: Readonly<Record<string, string>>,
  use: (server: TestServer) => Promise<void>,
  dataDir?: string,
) {
  const server = await spawnServer({ env, ...(dataDir === undefined ? {} : { dataDir }) });
  try {
    await use(server);
  } finally {
    await server.dispose();
  }
}

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

  test('a start with invalid values lists all of them and ends with 78', () =>
    withServer(
      {
        PORT: '70000',
        SHARDS: '0',
        JOURNAL: 'paper',
        MAX_BODY_BYTES: '17 MiB',
        MAX_KEY_BYTES: '2049',
        DATABASE_URL: 'mysql://user:hidden-password@host/db',
        LOG_LEVEL: 'loud',
        FLUSH_INTERVAL_MS: '1.5',
      },
      async (server) => {
        assert.deepEqual(await server.ended, { code: 78, signal: null });
        const names = [
          'PORT',
          'SHARDS',
          'JOURNAL',
          'MAX_BODY_BYTES',
          'MAX_KEY_BYTES',
          'DATABASE_URL',
          'LOG_LEVEL',
          'FLUSH_INTERVAL_MS',
        ];
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
      },
    ));

  test('a database that refuses the server ends the start, and the log has the sentence as JSON, too', async () => {
    const database = await createTestDatabase();
    const url = new URL(database.url);
    url.pathname = '/no_such_database';
    try {
      await withServer({ DATABASE_URL: url.href, SHARDS: '1' }, async (server) => {
        assert.deepEqual(await server.ended, { code: 78, signal: null });
        const [, sentence = ''] = /^summing-counters: (.*no_such_database.*)$/m.exec(server.output) ?? [];
        const fatal = server.log.filter(({ level }) => level === 'fatal' || level === 'error');
        assert.deepEqual(
          fatal.map(({ msg }) => msg),
          [sentence],
        );
      });
    } finally {
      await database.drop();
    }
  });

  test('a variable that is nearly a setting is a warning of the log', async () => {
    const database = await createTestDatabase();
    try {
      await withServer({ DATABASE_URL: database.url, SHARDS: '1', HTTP_THREAD: '4' }, async (server) => {
        await server.waitFor('"msg":"Ready"');
        assert.match(server.output, /"level":"warn".*"HTTP_THREAD is not a setting .*; did you mean HTTP_THREADS\?"/);
        await assertCleanStop(server);
      });
    } finally {
      await database.drop();
    }
  });

  test('DATABASE_URL_FILE names the database as DATABASE_URL does', async () => {
    const database = await createTestDatabase();
    const dataDir = await temporaryDirectory();
    const file = join(dataDir, 'url');
    await writeFile(file, `${database.url}\n`, { mode: 0o400 });
    const server = await startServer({ env: { DATABASE_URL_FILE: file, SHARDS: '1' }, dataDir });
    try {
      assertCreated(await increment(server.url, { of_the_file: 4 }));
      await assertCleanStop(server);
      assert.equal((await committedSums(database.url)).get('of_the_file'), 4n);
      const { password } = new URL(database.url);
      assert.ok(password === '' || !server.output.includes(password));
    } finally {
      await server.dispose();
      await database.drop();
    }
  });

  test('a port that another server uses ends the start with a non-zero code and a sentence, and the other server continues', async () => {
    const database = await createTestDatabase();
    const first = await startServer({ env: { DATABASE_URL: database.url, SHARDS: '1' } });
    try {
      const { port } = new URL(first.url);
      await withServer({ PORT: port, DATABASE_URL: database.url }, async (second) => {
        assert.deepEqual(await second.ended, { code: 1, signal: null }, second.output);
        assert.match(second.output, new RegExp(`^summing-counters: Port ${port} .*in use`, 'm'));
      });
      assertCreated(await increment(first.url, { unharmed: 1 }));
      await assertCleanStop(first);
    } finally {
      await first.dispose();
      await database.drop();
    }
  });

  test('the start does not share a port that a uWebSockets.js process of the same user leaves open to sharing', async () => {
    const script = `
      import { loadUws } from ${JSON.stringify(UWS)};
      const { uws } = loadUws();
      uws.App().listen('127.0.0.1', 0, 0, (socket) => console.log(uws.us_socket_local_port(socket)));`;
    const sharer = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      const port = await new Promise<string>((resolve) =>
        sharer.stdout.once('data', (data: Buffer) => resolve(data.toString().trim())),
      );
      assert.match(port, /^\d+$/);
      await withServer({ PORT: port }, async (server) => {
        assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
        assert.match(server.output, new RegExp(`^summing-counters: Port ${port} .*in use`, 'm'));
      });
    } finally {
      sharer.kill('SIGKILL');
    }
  });

  test('a second process on the same data directory refuses to start, and the first continues', async () => {
    const database = await createTestDatabase();
    const first = await startServer({ env: { DATABASE_URL: database.url, SHARDS: '1' } });
    try {
      const second = await spawnServer({ env: { DATABASE_URL: database.url }, dataDir: first.dataDir });
      assert.deepEqual(await second.ended, { code: 78, signal: null }, second.output);
      assert.match(second.output, /^summing-counters: Another process is using the data directory /m);
      assertCreated(await increment(first.url, { unharmed: 1 }));
      await assertCleanStop(first);
      // The lock ended with its process.
      const third = await startServer({ env: { DATABASE_URL: database.url, SHARDS: '1' }, dataDir: first.dataDir });
      assert.equal((await send(third.url, '/key_sum?name=unharmed')).body, '1');
      await assertCleanStop(third);
    } finally {
      await first.dispose();
      await database.drop();
    }
  });

  test('without DATABASE_URL an embedded database keeps the counters from one start to the next', async () => {
    const first = await startServer({ env: { SHARDS: '1' } });
    try {
      assert.equal((await send(first.url, '/readyz')).body, '{"status":"ok"}');
      assertCreated(await increment(first.url, { home: 7 }));
      await assertCleanStop(first);
      const second = await startServer({ env: { SHARDS: '2' }, dataDir: first.dataDir });
      assert.equal((await send(second.url, '/key_sum?name=home')).body, '7');
      await assertCleanStop(second);
    } finally {
      await first.dispose();
    }
  });

  test('the start logs its data directory as an absolute path', async () => {
    const dataDir = await temporaryDirectory();
    const database = await createTestDatabase();
    const env = { DATABASE_URL: database.url, SHARDS: '1', DATA_DIR: relative(process.cwd(), dataDir) };
    const server = await startServer({ env, dataDir });
    try {
      assert.ok(server.log.some((line) => line['msg'] === `Data directory ${dataDir}`));
      await assertCleanStop(server);
    } finally {
      await server.dispose();
      await database.drop();
    }
  });
});
