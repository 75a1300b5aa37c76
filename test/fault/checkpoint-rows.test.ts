/**
 * Rows of the database that somebody has deleted or that never were: nothing is counted twice and nothing is lost silently.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { runStatements } from '../support/database-connection.js';
import { connectTo, createTestDatabase } from '../support/database.js';
import { increment, send } from '../support/http.js';
import { runJournalCommand } from '../support/journal-command.js';
import { streamsOf } from '../support/journal-files.js';
import { assertCreated } from '../support/problem.js';
import type { TestServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const CLEAN = { code: 0, signal: null };
const REFUSED = { code: 78, signal: null };
const NEVER = '3600000';

interface Scene {
  readonly node: CountedNode;
  readonly databaseUrl: string;
  readonly proxy: TcpProxy;
}

async function withNode(label: string, body: (scene: Scene) => Promise<void>): Promise<void> {
  const database = await createTestDatabase();
  const proxy = await TcpProxy.start(database.url);
  const node = await CountedNode.make(label, {
    databaseUrl: database.url,
    serverDatabaseUrl: proxy.urlOf(database.url),
    env: { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER },
  });
  try {
    await body({ node, databaseUrl: database.url, proxy });
  } finally {
    await node.dispose();
    await proxy.close();
    await database.drop();
  }
}

/** Counts x = 30 in three requests that are committed, and y = 1 that is not. */
async function countThirty(node: CountedNode): Promise<TestServer> {
  const server = await node.start();
  for (let request = 0; request < 3; request += 1) assertCreated(await increment(node.url, { x: 10 }));
  await node.flush();
  assertCreated(await increment(node.url, { y: 1 }));
  return server;
}

async function kill(server: TestServer): Promise<void> {
  server.kill('SIGKILL');
  await server.ended;
}

async function rowsOf(databaseUrl: string, text: string): Promise<readonly Record<string, unknown>[]> {
  const connection = await connectTo(databaseUrl);
  try {
    return await connection.query({ text });
  } finally {
    await connection.close();
  }
}

/** The `accept` commands that a refused start offers. */
function offers({ output }: TestServer): readonly string[] {
  return [...new Set(output.match(/(?<=`npm run journal -- )accept [^`]*(?=`)/g))];
}

for (const { what, statements, said } of [
  {
    what: 'its row was deleted',
    statements: 'delete from journal_checkpoints',
    said: /journal_claims still knows the stream, so the row was deleted/,
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
    test(`a stream of which ${what} stops the start; above ${above} its records count as the operator says`, async () => {
      await withNode('deleted row', async ({ node, databaseUrl }) => {
        await kill(await countThirty(node));
        await runStatements(databaseUrl, statements);
        const refused = await node.spawn();
        assert.deepEqual(await refused.ended, REFUSED, refused.output);
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
        const again = await node.spawn();
        assert.deepEqual(await again.ended, REFUSED, again.output);
      });
    });
  }
}

test('a row that is deleted under a running server stops the shard with the same sentence', async () => {
  await withNode('deleted while it runs', async ({ node, databaseUrl }) => {
    const server = await countThirty(node);
    await runStatements(databaseUrl, 'delete from journal_checkpoints');
    await send(node.url, '/flush', { method: 'POST' }).catch(() => undefined);
    assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
    assert.match(server.output, /has no row of stream \S+ in journal_checkpoints, but had one/);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['x', 30n]]));
  });
});

test('a missing row that is found after a start without the database leaves that stream alone, and the rest counts', async () => {
  await withNode('found later', async ({ node, databaseUrl, proxy }) => {
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
    const refused = await node.spawn();
    assert.deepEqual(await refused.ended, REFUSED, refused.output);
  });
});

for (const how of ['was killed', 'was stopped'] as const) {
  test(`after a node ${how}, an emptied journal_claims stops nothing, and everything counts once`, async () => {
    await withNode('emptied claims', async ({ node, databaseUrl }) => {
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
    });
  });
}

test('runs without traffic, and runs that are killed before their first record, leave no row', async () => {
  await withNode('no traffic', async ({ node, databaseUrl }) => {
    for (const end of ['stop', 'kill', 'stop', 'kill'] as const) {
      const server = await node.start({ SHARDS: '3' });
      if (end === 'stop') assert.deepEqual(await server.stop(), CLEAN, server.output);
      else await kill(server);
    }
    assert.deepEqual(await rowsOf(databaseUrl, 'select * from journal_checkpoints'), []);
    assert.deepEqual(await streamsOf(node.dataDir), []);
  });
});

test('a clean stop closes the stream, and the next start opens it again', async () => {
  await withNode('closed', async ({ node, databaseUrl }) => {
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
});
