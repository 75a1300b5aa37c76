/**
 * Shards that recover while the process goes on: all at once, and while it is told to stop.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runStatements } from '../support/database-connection.js';
import { createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { assertCreated } from '../support/problem.js';
import { startServer, type TestServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';

const NEVER_MS = '3600000';
/** A failover to a standby that lacks the last commit of each stream, as far as its checkpoint tells. */
const GO_BACK = 'update journal_checkpoints set lsn = lsn - 1 where lsn > 0';

function bodyOf(keys: number): Record<string, number> {
  return Object.fromEntries(Array.from({ length: keys }, (_, index) => [`key ${index}`, 1]));
}

async function flush(server: TestServer): Promise<void> {
  await eventually('a flush', async () => (await send(server.url, '/flush', { method: 'POST' })).status === 200);
}

test('a failover that takes commits back from every shard at once restarts them all, and the node goes on', async () => {
  const shards = 8;
  const database = await createTestDatabase();
  const server = await startServer({
    env: { DATABASE_URL: database.url, SHARDS: String(shards), FLUSH_INTERVAL_MS: NEVER_MS },
  });
  try {
    // Two records in each stream.
    for (let sent = 0; sent < 2; sent += 1) assertCreated(await increment(server.url, bodyOf(200)));
    await flush(server);
    await runStatements(database.url, GO_BACK);
    await runStatements(database.url, 'update counters set sum = 1');
    assertCreated(await increment(server.url, bodyOf(200)));
    const restarts = (): number => server.log.filter(({ msg }) => msg === 'A shard ended').length;
    await eventually('every shard is restarted', async () => {
      await send(server.url, '/flush', { method: 'POST' });
      return restarts() === shards;
    });
    await flush(server);
    const sums = [...(await committedSums(database.url)).values()];
    assert.deepEqual([sums.length, ...new Set(sums)], [200, 3n]);
    assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
  } finally {
    await server.dispose();
    await database.drop();
  }
});
