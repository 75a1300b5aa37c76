import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { test } from 'node:test';
import { createTestDatabase } from '../support/database.js';
import { increment, send } from '../support/http.js';
import { startServer } from '../support/server.js';
import { assertCleanStop, committedSums } from '../support/suite-server.js';

const CLIENTS = 8;
const ACKNOWLEDGED_LEAST = 500;

test('with JOURNAL_SYNC=everysec a kill -9 under load loses no acknowledged increment', async () => {
  const database = await createTestDatabase();
  const env = { DATABASE_URL: database.url, SHARDS: '2', JOURNAL_SYNC: 'everysec', FLUSH_INTERVAL_MS: '3600000' };
  const first = await startServer({ env });
  const agent = new Agent({ keepAlive: true });
  try {
    const acknowledged = new Map<string, bigint>();
    const client = async (index: number): Promise<void> => {
      const key = `everysec-${index}`;
      for (let total = 0n; ;) {
        const answer = await increment(first.url, { [key]: 1 }, { agent }).catch(() => undefined);
        if (answer?.status !== 202) return;
        total += 1n;
        acknowledged.set(key, total);
        // Right after an acknowledgement, long before the next sync.
        if (index === 0 && total === BigInt(ACKNOWLEDGED_LEAST)) first.kill('SIGKILL');
      }
    };
    await Promise.all(Array.from({ length: CLIENTS }, (_, index) => client(index)));
    assert.deepEqual(await first.ended, { code: null, signal: 'SIGKILL' });
    assert.deepEqual(await committedSums(database.url), new Map());

    const second = await startServer({ env, dataDir: first.dataDir });
    assert.equal((await send(second.url, '/flush', { method: 'POST' })).status, 200);
    await assertCleanStop(second);
    const sums = await committedSums(database.url);
    assert.equal(acknowledged.size, CLIENTS);
    for (const [key, total] of acknowledged) {
      const sum = sums.get(key) ?? 0n;
      // One request of each client may be in the journal without an answer.
      assert.ok(sum >= total && sum <= total + 1n, `${key}: ${sum} counted, ${total} acknowledged`);
    }
  } finally {
    agent.destroy();
    await first.dispose();
    await database.drop();
  }
});
