import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test, type TestContext } from 'node:test';
import { createTestDatabase } from '../../support/database.js';
import { flushAll, increment } from '../../support/http.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { assertCleanStop } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

const COMMAND = fileURLToPath(import.meta.resolve('#product/cli/psql.js'));
const SUMS = ['-At', '-c', 'select key, sum from counters order by sum desc limit 10'];

interface End {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function run(args: readonly string[], env: Readonly<Record<string, string>>): Promise<End> {
  const child = spawn(process.execPath, [COMMAND, ...args], { env: { ...process.env, ...env } });
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, out, err })));
}

/** False, after a skip, where psql is not installed; with CI=true that fails the test. */
async function hasPsql(t: TestContext): Promise<boolean> {
  const child = spawn('psql', ['--version'], { stdio: 'ignore' });
  const isThere = await new Promise<boolean>((resolve) => {
    child.on('error', () => resolve(false));
    child.on('close', (code) => resolve(code === 0));
  });
  if (isThere) return true;
  assert.notEqual(process.env['CI'], 'true', 'psql is missing');
  // psql is a package of its own, which a user need not have.
  t.skip('psql is not installed; it comes with the package postgresql-client');
  return false;
}

describe('npm run psql', () => {
  let server: TestServer;
  before(async () => {
    server = await startServer({ env: { SHARDS: '1' } });
    assertCreated(await increment(server.url, { a: 3, b: 40 }));
    await flushAll(server.url);
  });
  after(async () => {
    try {
      await assertCleanStop(server);
    } finally {
      await server.dispose();
    }
  });

  test('opens the embedded database of a running server', async (t) => {
    if (!(await hasPsql(t))) return;
    assert.deepEqual(await run(SUMS, { DATA_DIR: server.dataDir }), { code: 0, out: 'b|40\na|3\n', err: '' });
  });

  test('hands options on to psql, and ends with its exit code', async (t) => {
    if (!(await hasPsql(t))) return;
    const wrong = await run(['-c', 'select nothing_there'], { DATA_DIR: server.dataDir });
    assert.equal(wrong.code, 1);
    assert.match(wrong.err, /nothing_there/);
  });

  test('opens the database of DATABASE_URL, also with the scheme ecto', async (t) => {
    if (!(await hasPsql(t))) return;
    const database = own(t, await createTestDatabase());
    for (const scheme of ['postgres:', 'ecto:']) {
      const env = { DATABASE_URL: database.url.replace(/^postgres(ql)?:/, scheme) };
      const { code, out, err } = await run(['-At', '-c', 'select current_database()'], env);
      assert.deepEqual([code, out.trim(), err], [0, new URL(database.url).pathname.slice(1), '']);
    }
  });

  test('where psql is missing, the printed command opens the database and has no password', async (t) => {
    const { code, out, err } = await run([], { DATA_DIR: server.dataDir, PATH: '/nowhere' });
    assert.deepEqual([code, out], [69, '']);
    const password = (await readFile(join(server.dataDir, 'postgres-password'), 'utf8')).trim();
    assert.ok(!err.includes(password));
    const command = /connect with: (.*)$/m.exec(err)?.[1] ?? '';
    if (!(await hasPsql(t))) return;
    const shell = spawn('/bin/sh', ['-c', `${command} -At -c 'select count(*) from counters'`]);
    let rows = '';
    shell.stdout.on('data', (chunk: Buffer) => (rows += chunk.toString()));
    await new Promise((resolve) => shell.once('close', resolve));
    assert.equal(rows, '2\n', command);
  });

  test('without a running server it ends with 75 and a sentence', async () => {
    const dataDir = await temporaryDirectory();
    const { code, out, err } = await run([], { DATA_DIR: dataDir });
    assert.deepEqual([code, out], [75, '']);
    assert.match(err, /^summing-counters: No server runs an embedded PostgreSQL in .*\. Start it/);
  });
});
