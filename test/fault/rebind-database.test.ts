/**
 * A data directory meets another database than its own: the server refuses it, and an operator decides what the new
 * database counts.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { connectTo, createTestDatabase } from '../support/database.js';
import { flushAll, increment, send } from '../support/http.js';
import { runJournalCommand, type CommandOutcome } from '../support/journal-command.js';
import { assertCreated } from '../support/problem.js';
import { spawnServer, startServer, temporaryDirectory, type TestServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';

const CLEAN = { code: 0, signal: null };
const REFUSED = { code: 78, signal: null };
const env = { SHARDS: '1', FLUSH_INTERVAL_MS: '3600000' };

/** Runs `npm run journal -- ARGUMENTS`, as a message names it; an empty URL: the embedded database. */
function run(databaseUrl: string, dataDir: string, command: string): Promise<CommandOutcome> {
  const [, text = ''] = /^npm run journal -- (.*)$/.exec(command) ?? [];
  assert.notEqual(text, '', command);
  return runJournalCommand(text.split(' '), { DATABASE_URL: databaseUrl, DATA_DIR: dataDir });
}

/** The command that the refused start names. */
async function refusedWith(server: TestServer): Promise<string> {
  assert.deepEqual(await server.ended, REFUSED, server.output);
  const refusal = /belongs to the database \S+, but the database in use is \S+ .*`(npm run [^`]*)`/.exec(server.output);
  assert.ok(refusal?.[1] !== undefined, server.output);
  return refusal[1];
}

/** The commands that a plan proposes, with what they count. */
function proposals(plan: string): readonly string[] {
  return Array.from(plan.matchAll(/^ +(npm run journal -- rebind .*)$/gm), ([, command]) => command ?? '');
}

/** Two databases; a node on the first has flushed `old` = 1 at LSN 1, and holds `new` = 2 and `old` = 3 at LSN 2. */
async function withForeignStream(
  use: (scene: { node: CountedNode; first: string; second: string; stream: string }) => Promise<void>,
): Promise<void> {
  const first = await createTestDatabase();
  const second = await createTestDatabase();
  const node = await CountedNode.make('rebind', { databaseUrl: first.url, env });
  try {
    const server = await node.start();
    assertCreated(await increment(node.url, { old: 1 }));
    await flushAll(node.url);
    assertCreated(await increment(node.url, { new: 2, old: 3 }));
    server.kill('SIGKILL');
    await server.ended;
    const [stream = ''] = readdirSync(path.join(node.dataDir, 'journal')).filter((name) => name.length === 36);
    await use({ node, first: first.url, second: second.url, stream });
  } finally {
    await node.dispose();
    await second.drop();
    await first.drop();
  }
}

for (const { above, counted } of [
  { above: 1, counted: { new: 2n, old: 3n } },
  { above: 0, counted: { new: 2n, old: 4n } },
  { above: 2, counted: {} },
]) {
  test(`rebind --database --above ${above} gives the new database what lies above that LSN, once`, async () => {
    await withForeignStream(async ({ node, first, second, stream }) => {
      const command = await refusedWith(await node.refusedStart({ DATABASE_URL: second }));
      const plan = await run(second, node.dataDir, command);
      assert.equal(plan.code, 1, plan.output);
      assert.match(plan.output, new RegExp(`Stream ${stream} belongs to the database \\S+ and holds LSN 1 to 2\\.`));
      assert.match(plan.output, /counts 2 records with 3 increments above LSN 0 here/);
      assert.match(plan.output, /Nothing was changed/);
      const rebind = `npm run journal -- rebind --database --stream ${stream} --above`;
      assert.deepEqual(proposals(plan.output), [`${rebind} 0`, `${rebind} 2`]);
      await refusedWith(await node.refusedStart({ DATABASE_URL: second }));

      const done = await run(second, node.dataDir, `${rebind} ${above}`);
      assert.equal(done.code, 0, done.output);
      assert.ok(readdirSync(path.join(node.dataDir, 'journal')).includes(`${stream}.rebound`));
      assert.match((await run(second, node.dataDir, command)).output, /No stream belongs to another database/);
      // Twice, because a stream that is read again would count again.
      for (let starts = 0; starts < 2; starts += 1) {
        const server = await node.start({ DATABASE_URL: second });
        assert.deepEqual(await server.stop(), CLEAN, server.output);
      }
      assert.deepEqual(await committedSums(second), new Map(Object.entries(counted)));
      assert.deepEqual(await committedSums(first), new Map([['old', 1n]]));
    });
  });
}

test('rebind --database refuses an LSN that would count twice, and a stream of the database in use', async () => {
  await withForeignStream(async ({ node, first, second, stream }) => {
    const rebind = `npm run journal -- rebind --database --stream ${stream} --above`;
    // Before its first start a database has no tables.
    const empty = await run(second, node.dataDir, 'npm run journal -- rebind --database');
    assert.equal(empty.code, 78, empty.output);
    assert.match(empty.output, /has no tables of the server yet; start the server once/);
    await refusedWith(await node.refusedStart({ DATABASE_URL: second }));
    const staging = path.join(node.dataDir, 'journal', 'rebind');
    mkdirSync(path.join(staging, stream), { recursive: true });
    const interrupted = await run(second, node.dataDir, 'npm run journal -- rebind --database');
    assert.equal(interrupted.code, 1, interrupted.output);
    assert.match(interrupted.output, /holds the stream of an interrupted rebind/);
    rmSync(staging, { recursive: true });

    const own = await run(first, node.dataDir, `${rebind} 0`);
    assert.equal(own.code, 1);
    assert.match(own.output, /does not belong to another database: the server starts with it\. Nothing was changed/);

    // The tables were copied from the old database.
    const connection = await connectTo(second);
    const text = "insert into journal_checkpoints (stream, epoch, lsn, journal) values ($1, 0, 1, 'file')";
    await connection.query({ text, values: [stream] });
    await connection.close();
    const plan = await run(second, node.dataDir, 'npm run journal -- rebind --database');
    assert.match(plan.output, /The database in use has this stream up to LSN 1\./);
    assert.deepEqual(proposals(plan.output), [`${rebind} 1`, `${rebind} 2`]);
    const twice = await run(second, node.dataDir, `${rebind} 0`);
    assert.equal(twice.code, 1);
    assert.match(twice.output, /has stream \S+ up to LSN 1: --above must be 1 or more/);

    const unreachable = await run(
      'postgres://u:secret@127.0.0.1:1/d',
      node.dataDir,
      'npm run journal -- rebind --database',
    );
    assert.equal(unreachable.code, 75);
    assert.match(unreachable.output, /The query to \S+ failed/);
    assert.doesNotMatch(unreachable.output, /secret/);
    for (const wrong of ['rebind --database --above 0', `rebind --database --stream ${stream}`, 'verify --database'])
      assert.equal((await run(second, node.dataDir, `npm run journal -- ${wrong}`)).code, 64, wrong);
    assert.deepEqual(
      readdirSync(path.join(node.dataDir, 'journal')).filter((name) => name.startsWith(stream)),
      [stream],
    );
  });
});

test('rebind --database takes no LSN below what the journal still holds', async () => {
  await withForeignStream(async ({ node, second, stream }) => {
    // The next start of the right database begins a segment at the checkpoint, and prunes the one before.
    const server = await node.start({ JOURNAL_KEEP_SECONDS: '0' });
    await flushAll(node.url);
    assertCreated(await increment(node.url, { late: 1 }));
    server.kill('SIGKILL');
    await server.ended;
    const segments = readdirSync(path.join(node.dataDir, 'journal', stream)).filter((name) => name.endsWith('.wal'));
    const begins = Math.min(...segments.map((name) => Number(name.slice(0, 20))));
    assert.ok(begins > 1, segments.join());
    await refusedWith(await node.refusedStart({ DATABASE_URL: second }));
    const rebind = `npm run journal -- rebind --database --stream ${stream} --above`;
    const whole = await run(second, node.dataDir, `${rebind} 0`);
    assert.equal(whole.code, 1, whole.output);
    assert.match(whole.output, new RegExp(`begins at LSN ${begins}: --above must be ${begins - 1} or more`));
    const plan = await run(second, node.dataDir, 'npm run journal -- rebind --database');
    assert.equal(proposals(plan.output)[0], `${rebind} ${begins - 1}`);
  });
});

test(
  'rebind --database asks the embedded database of the data directory, and stops it',
  { timeout: 120_000 },
  async () => {
    const dataDir = await temporaryDirectory();
    const first = await startServer({ env, dataDir });
    try {
      assertCreated(await increment(first.url, { kept: 5 }));
      first.kill('SIGKILL');
      await first.ended;
      // Its database is lost; the next start makes another.
      rmSync(path.join(dataDir, 'postgres'), { recursive: true });
      const command = await refusedWith(await spawnServer({ env, dataDir }));
      const plan = await run('', dataDir, command);
      const [all = ''] = proposals(plan.output);
      assert.match(all, /--above 0$/, plan.output);
      const done = await run('', dataDir, all);
      assert.equal(done.code, 0, done.output);
      assert.equal(readdirSync(path.join(dataDir, 'postgres')).includes('postmaster.pid'), false);
      const server = await startServer({ env, dataDir });
      assert.equal((await send(server.url, '/key_sum?name=kept')).body, '5');
      assert.deepEqual(await server.stop(), CLEAN, server.output);
    } finally {
      await first.dispose();
    }
  },
);
