/**
 * A node is gone for good: an operator retires its stream, so that idempotency keys are pruned again. If the node comes
 * back, none of its records is counted twice or lost silently.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { runStatements } from '../support/database-connection.js';
import { createTestDatabase } from '../support/database.js';
import { increment, send } from '../support/http.js';
import { runJournalCommand, type CommandOutcome } from '../support/journal-command.js';
import { assertCreated } from '../support/problem.js';
import { committedSums } from '../support/suite-server.js';
import { CLEAN, kill, NEVER_MS, testNode } from '../support/node-test.js';
import { rowsOf } from '../support/journal-servers.js';

const env = { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS };

function journal(databaseUrl: string, ...args: readonly string[]): Promise<CommandOutcome> {
  return runJournalCommand(args, { DATABASE_URL: databaseUrl });
}

testNode(
  'a dead stream can be retired after five minutes without activity, and its records can still be counted',
  env,
  async ({ node, databaseUrl, directory: elsewhere }) => {
    const server = await node.start();
    assertCreated(await increment(node.url, { committed: 1, both: 1 }));
    await node.flush();
    assertCreated(await increment(node.url, { pending: 1, both: 1 }));
    await kill(server);
    const [row] = await rowsOf<{ stream: string; lsn: string }>(
      databaseUrl,
      'select stream::text, lsn::text from journal_checkpoints',
    );
    assert.ok(row !== undefined);
    const { stream, lsn } = row;
    const retire = (dataDir: string): Promise<CommandOutcome> =>
      journal(databaseUrl, 'retire', '--stream', stream, '--data-dir', dataDir);

    const here = await retire(node.dataDir);
    assert.equal(here.code, 1);
    assert.match(here.output, /is in .*\. Start the server/);
    const alive = await retire(elsewhere);
    assert.equal(alive.code, 1);
    assert.match(alive.output, /less than five minutes ago: its node is alive/);
    await runStatements(databaseUrl, `update journal_checkpoints set heard_at = now() - interval '6 minutes'`);
    const retired = await retire(elsewhere);
    assert.equal(retired.code, 0, retired.output);
    assert.match(
      retired.output,
      new RegExp(`is retired at LSN ${lsn}; .*Records above LSN ${lsn} are counted only if`),
    );
    assert.match((await retire(elsewhere)).output, /was already retired at /);

    // The disk returns.
    const again = await node.start();
    assert.deepEqual(await again.stop(), CLEAN, again.output);
    assert.deepEqual(
      await committedSums(databaseUrl),
      new Map([
        ['both', 2n],
        ['committed', 1n],
        ['pending', 1n],
      ]),
    );
  },
);

testNode(
  'an owner that is still alive takes its retired stream again, and counts everything once',
  env,
  async ({ node, databaseUrl }) => {
    const server = await node.start();
    assertCreated(await increment(node.url, { fenced: 1 }));
    const [row] = await rowsOf<{ stream: string }>(
      databaseUrl,
      `update journal_checkpoints set heard_at = now() - interval '6 minutes' returning stream::text`,
    );
    const stream = row?.stream ?? '';
    const retired = await journal(databaseUrl, 'retire', '--stream', stream, '--data-dir', '/nowhere');
    assert.equal(retired.code, 0, retired.output);
    // The flush finds the new epoch; the shard starts again and recovers from its journal.
    await send(node.url, '/flush', { method: 'POST' });
    await server.waitFor('"msg":"Recovered a journal"');
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['fenced', 1n]]));
  },
);

test('retire explains why it refuses', async () => {
  const database = await createTestDatabase();
  try {
    const stream = randomUUID();
    const schemaless = await journal(database.url, 'retire', '--stream', stream);
    assert.equal(schemaless.code, 75);
    assert.match(schemaless.output, /The query to .* failed: relation "journal_checkpoints" does not exist/);
    assert.match(
      (await journal('postgres://u:secret@127.0.0.1:1/d', 'retire', '--stream', stream)).output,
      /The query to .* failed/,
    );
    for (const args of [['retire'], ['retire', '--stream', 'x']])
      assert.equal((await journal(database.url, ...args)).code, 64);
    assert.equal((await journal('', 'retire', '--stream', stream)).code, 64);
  } finally {
    await database.drop();
  }
});
