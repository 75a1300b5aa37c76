import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'node:test';
import { connectTo, createTestDatabase } from '../../support/database.js';
import { temporaryDirectory } from '../../support/server.js';
import { own } from '../../support/own.js';

interface End {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function run(command: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<End> {
  const file = fileURLToPath(import.meta.resolve(`#product/cli/${command}.js`));
  const child = spawn(process.execPath, [file, ...args], { env: { ...process.env, ...env } });
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, out, err })));
}

const commands = ['journal', 'load', 'migrate', 'psql'];

describe('the command lines', { concurrency: 2 }, () => {
  test('--help and -h of every command print help of 80 columns and change neither the database nor the data directory', async (t) => {
    const database = own(t, await createTestDatabase());
    const directory = await temporaryDirectory();
    const env = { DATABASE_URL: database.url, DATA_DIR: directory };
    for (const command of commands) {
      for (const option of ['--help', '-h']) {
        const { code, out, err } = await run(command, [option], env);
        assert.deepEqual([code, err], [0, ''], command);
        assert.match(out, new RegExp(`^npm run ${command}`));
        for (const line of out.split('\n')) assert.ok(line.length <= 80, line);
      }
    }
    assert.deepEqual(await tables(database.url), []);
    assert.deepEqual(await readdir(directory), []);
    await rm(directory, { recursive: true });
  });

  test('every command refuses an unknown argument with 64 and changes nothing', async (t) => {
    const database = own(t, await createTestDatabase());
    const directory = await temporaryDirectory();
    const env = { DATABASE_URL: database.url, DATA_DIR: directory };
    for (const command of commands) {
      for (const args of [['--hlep'], ['--help', '--now'], ['everything']]) {
        // What psql does not know it hands on to the program psql.
        if (command === 'psql') continue;
        const { code, out, err } = await run(command, args, env);
        assert.deepEqual([code, out], [64, ''], `${command} ${args.join(' ')}`);
        assert.notEqual(err, '');
      }
    }
    assert.deepEqual(await tables(database.url), []);
    assert.deepEqual(await readdir(directory), []);
    await rm(directory, { recursive: true });
  });

  test('migrate without arguments migrates, and warns of a variable that is nearly a setting', async (t) => {
    const database = own(t, await createTestDatabase());
    const { code, out, err } = await run('migrate', [], { DATABASE_URL: database.url, JOURNAL_SYNK: 'always' });
    assert.equal(code, 0, err);
    assert.match(out, /has the schema of this version/);
    assert.match(err, /^warning: JOURNAL_SYNK is not a setting and has no effect; did you mean JOURNAL_SYNC\?$/m);
    assert.ok((await tables(database.url)).includes('counters'));
  });

  async function tables(url: string): Promise<readonly string[]> {
    const connection = await connectTo(url);
    try {
      const text = `select tablename as name from pg_tables where schemaname = 'public'`;
      return (await connection.query<{ name: string }>({ text })).map(({ name }) => name);
    } finally {
      await connection.close();
    }
  }
});
