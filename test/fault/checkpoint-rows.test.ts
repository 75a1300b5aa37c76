/**
 * Rows of the database that somebody has deleted or that never were: nothing is counted twice and nothing is lost silently.
 */
import assert from 'node:assert/strict';
import type { CountedNode } from '../support/counted-node.js';
import { runStatements } from '../support/database-connection.js';
import { increment, send } from '../support/http.js';
import { runJournalCommand } from '../support/journal-command.js';
import { streamsOf } from '../support/journal-files.js';
import { assertCreated } from '../support/problem.js';
import type { TestServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';
import { CLEAN, kill, NEVER_MS, testNode } from '../support/node-test.js';
import { rowsOf } from '../support/journal-servers.js';

const env = { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS };

/** Counts x = 30 in three requests that are committed, and y = 1 that is not. */
async function countThirty(node: CountedNode): Promise<TestServer> {
  const server = await node.start();
  for (let request = 0; request < 3; request += 1) assertCreated(await increment(node.url, { x: 10 }));
  await node.flush();
  assertCreated(await increment(node.url, { y: 1 }));
  return server;
}

/** Keys of every shard. */
const KEYS = Array.from({ length: 40 }, (_, index) => `key-${index}`);

/** Counts each key once and commits that. */
async function countOnEveryShard(node: CountedNode, shards: string): Promise<TestServer> {
  const server = await node.start({ SHARDS: shards });
  assertCreated(await increment(node.url, Object.fromEntries(KEYS.map((key) => [key, 1]))));
  await node.flush();
  return server;
}

/** The `accept` commands that a refused start offers. */
function offers({ output }: TestServer): readonly string[] {
  return [...new Set(output.match(/(?<=`npm run journal -- )accept [^`]*(?=`)/g))];
}

for (const { what, statements, said } of [
  {
    what: 'its row was deleted',
    statements: 'delete from journal_checkpoints',
    said: /journal_claims still knows the stream, so the row was deleted, or/,
  },
  {
    what: 'its row and its claims are gone',
    statements: 'delete from journal_checkpoints; delete from journal_claims',
    said: /journal_claims does not know the stream either, so the database is in an earlier state/,
  },
]) {
  for (const { above, x } of [
    { above: 'LSN of the last counted record', x: 30n },
    { above: '0', x: 60n },
  ]) {
    testNode(
      `a stream of which ${what} stops the start; above ${above} its records count as the operator says`,
      env,
      async ({ node, databaseUrl }) => {
        await kill(await countThirty(node));
        await runStatements(databaseUrl, statements);
        const refused = await node.refusedStart();
        assert.match(refused.output, said);
        assert.match(refused.output, /"code":"checkpoint-missing"/);
        const [stream = ''] = await streamsOf(node.dataDir);
        const where = `--stream ${stream} --above`;
        const dataDir = `--data-dir ${node.dataDir}`;
        assert.deepEqual(offers(refused), [`accept ${where} 0 ${dataDir}`, `accept ${where} LSN ${dataDir}`]);
        assert.deepEqual(await committedSums(databaseUrl), new Map([['x', 30n]]), 'nothing was counted');

        const [all = '', some = ''] = offers(refused);
        const command = above === '0' ? all : some.replace(' LSN ', ' 3 ');
        const accepted = await runJournalCommand(command.split(' '));
        assert.equal(accepted.code, 0, accepted.output);
        // Twice: what was accepted serves one taking.
        for (let starts = 0; starts < 2; starts += 1) {
          const server = await node.start();
          assert.deepEqual(await server.stop(), CLEAN, server.output);
        }
        const expected = new Map([
          ['x', x],
          ['y', 1n],
        ]);
        assert.deepEqual(await committedSums(databaseUrl), expected);
        await runStatements(databaseUrl, 'delete from journal_checkpoints');
        await node.refusedStart();
      },
    );
  }
}

testNode(
  'rows of several streams of several shards that are gone stop the start once, with one command for all of them',
  env,
  async ({ node, databaseUrl }) => {
    await kill(await countOnEveryShard(node, '4'));
    await runStatements(
      databaseUrl,
      'delete from journal_checkpoints; delete from journal_claims; delete from counters',
    );
    // Two shards for four streams, so that each has an orphaned one besides its own.
    const refused = await node.refusedStart({ SHARDS: '2' });
    const [command = ''] =
      refused.output.match(/(?<=`npm run journal -- )accept [^`]*(?=` if nothing of that)/g)?.slice(-1) ?? [];
    const streams = await streamsOf(node.dataDir);
    assert.equal(streams.length, 4);
    for (const stream of streams) assert.ok(command.includes(`--stream ${stream} --above 0`), refused.output);
    const accepted = await runJournalCommand(command.split(' '));
    assert.equal(accepted.code, 0, accepted.output);
    const server = await node.start({ SHARDS: '2' });
    await node.flush();
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    assert.deepEqual(await committedSums(databaseUrl), new Map(KEYS.map((key) => [key, 1n])));
  },
);

testNode(
  'a row that is deleted under a running server stops the shard with the same sentence',
  env,
  async ({ node, databaseUrl }) => {
    const server = await countThirty(node);
    await runStatements(databaseUrl, 'delete from journal_checkpoints');
    await send(node.url, '/flush', { method: 'POST' }).catch(() => undefined);
    assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
    assert.match(server.output, /has no row of stream \S+ in journal_checkpoints, but had one/);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['x', 30n]]));
  },
);

testNode(
  'a missing row that is found after a start without the database leaves that stream alone, and the rest counts',
  env,
  async ({ node, databaseUrl, proxy }) => {
    await kill(await countThirty(node));
    await runStatements(databaseUrl, 'delete from journal_checkpoints');
    await proxy.refuse();
    const server = await node.start();
    assertCreated(await increment(node.url, { z: 5 }));
    await proxy.accept();
    await server.waitFor('is left alone. The database has no row of stream');
    await node.flush();
    assert.deepEqual(
      await committedSums(databaseUrl),
      new Map([
        ['x', 30n],
        ['z', 5n],
      ]),
    );
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    await node.refusedStart();
  },
);

for (const how of ['was killed', 'was stopped'] as const) {
  testNode(
    `after a node ${how}, an emptied journal_claims stops nothing, and everything counts once`,
    env,
    async ({ node, databaseUrl }) => {
      const first = await countThirty(node);
      if (how === 'was killed') await kill(first);
      else assert.deepEqual(await first.stop(), CLEAN, first.output);
      await runStatements(databaseUrl, 'delete from journal_claims');
      const second = await node.start();
      assertCreated(await increment(node.url, { y: 1 }));
      assert.deepEqual(await second.stop(), CLEAN, second.output);
      assert.doesNotMatch(second.output, /rebind|older state/);
      const expected = new Map([
        ['x', 30n],
        ['y', 2n],
      ]);
      assert.deepEqual(await committedSums(databaseUrl), expected);
    },
  );
}

testNode(
  'runs without traffic, and runs that are killed before their first record, leave no row',
  env,
  async ({ node, databaseUrl }) => {
    for (const end of ['stop', 'kill', 'stop', 'kill'] as const) {
      const server = await node.start({ SHARDS: '3' });
      if (end === 'stop') assert.deepEqual(await server.stop(), CLEAN, server.output);
      else await kill(server);
    }
    assert.deepEqual(await rowsOf(databaseUrl, 'select * from journal_checkpoints'), []);
    assert.deepEqual(await streamsOf(node.dataDir), []);
  },
);

testNode('a clean stop closes the stream, and the next start opens it again', env, async ({ node, databaseUrl }) => {
  const state = 'select closed_at is not null as closed, retired_at is not null as retired from journal_checkpoints';
  const first = await countThirty(node);
  assert.deepEqual(await first.stop(), CLEAN, first.output);
  assert.deepEqual(await rowsOf(databaseUrl, state), [{ closed: true, retired: false }]);
  const second = await node.start();
  assert.deepEqual(await rowsOf(databaseUrl, state), [{ closed: false, retired: false }]);
  assertCreated(await increment(node.url, { y: 1 }));
  await kill(second);
  assert.deepEqual(await rowsOf(databaseUrl, state), [{ closed: false, retired: false }]);
});
