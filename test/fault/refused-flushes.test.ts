/**
 * Flushes that PostgreSQL refuses for a reason in none of their counters. Nothing can be set aside, so the log must
 * tell an operator, and increments stay pending.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { runStatements } from '../support/database-connection.js';
import { createTestDatabase } from '../support/database.js';
import { increment, send } from '../support/http.js';
import { committedSums } from '../support/suite-server.js';

test('a refusal that no row causes is logged with its code, degrades the node, and ends with its cause', async () => {
  const database = await createTestDatabase();
  const node = await CountedNode.make('no row', {
    databaseUrl: database.url,
    env: { FLUSH_INTERVAL_MS: '50', SHARDS: '1' },
  });
  try {
    const server = await node.start();
    await runStatements(
      database.url,
      `alter table idempotency_keys add constraint no_tokens check (token not like 'bad%')`,
    );
    const headers = { 'idempotency-key': 'bad-key' };
    assert.equal((await increment(node.url, { a: 1 }, { headers })).status, 202);
    await server.waitFor('(SQLSTATE 23514)');
    assert.match((await send(node.url, '/readyz')).body, /"degraded"/);
    await runStatements(database.url, 'alter table idempotency_keys drop constraint no_tokens');
    await server.waitFor('"msg":"PostgreSQL available again"');
    assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
    assert.deepEqual(await committedSums(database.url), new Map([['a', 1n]]));
  } finally {
    await node.dispose();
    await database.drop();
  }
});
