import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { connectTo } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, send } from '../../support/http.js';
import { assertCreated } from '../../support/problem.js';
import { SuiteServer } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

const NEVER_MS = '3600000';
/** Time for a flush of few keys, with the machine's pauses. */
const FLUSH_MS = 3000;

describe('flushes by time', () => {
  const intervalMs = 1500;
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: String(intervalMs) });

  test('acknowledged increments are committed within the interval plus one flush, without any request', async () => {
    for (let round = 1; round <= 3; round += 1) {
      const start = performance.now();
      assertCreated(await increment(node.url, { steady: 1 }));
      await eventually('it is committed', async () => (await node.table()).get('steady') === BigInt(round));
      const tookMs = performance.now() - start;
      assert.ok(tookMs < intervalMs + FLUSH_MS, `${tookMs} ms`);
    }
  });
});

describe('flushes by number of keys', () => {
  const keysMax = 50;
  const node = new SuiteServer({ SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS, FLUSH_MAX_KEYS: String(keysMax) });

  test('a shard flushes long before its interval when it holds FLUSH_MAX_KEYS pending keys, and not with fewer', async () => {
    const body = (count: number): Record<string, number> =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`early-${index}`, 1]));
    // Many increments, but still keysMax - 1 keys.
    for (let sent = 0; sent < 20; sent += 1) assertCreated(await increment(node.url, body(keysMax - 1)));
    assert.equal((await send(node.url, '/readyz')).status, 200);
    assert.equal((await node.table()).size, 0);
    assertCreated(await increment(node.url, body(keysMax)));
    await eventually('they are committed', async () => (await node.table()).size === keysMax);
    assert.equal((await node.table()).get('early-0'), 21n);
  });
});

for (const [journal, each] of [
  ['file', 2],
  ['postgres', 3],
] as const) {
  describe(`connections to the database, journal ${journal}`, () => {
    const shards = 2;
    const node = new SuiteServer({ SHARDS: String(shards), JOURNAL: journal, FLUSH_INTERVAL_MS: '20' });

    test(`a node opens at most ${each} × SHARDS + 2 connections, whatever clients send`, async (t) => {
      const connection = own(t, await connectTo(node.databaseUrl));
      let most = 0;
      let isLoading = true;
      const ask = async (n: number): Promise<void> => {
        for (let round = 0; round < 60; round += 1) {
          const key = `asked-${n}-${round % 7}`;
          const headers = round % 3 === 0 ? { 'idempotency-key': `${n}-${round}` } : {};
          assertCreated(await increment(node.url, { [key]: 1 }, { headers }));
          for (const path of [`/counters/${key}`, '/counters?limit=10', `/key_sum?name=${key}`])
            assert.ok([200, 404].includes((await send(node.url, path)).status));
          if (round % 10 === 0) await flushAll(node.url);
          if (round % 10 === 5) await send(node.url, `/counters/${key}`, { method: 'DELETE' });
        }
      };
      const watch = async (): Promise<void> => {
        while (isLoading) {
          const [row] = await connection.query<{ count: number }>({
            text: `select count(*)::int as count from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`,
          });
          most = Math.max(most, row?.count ?? 0);
        }
      };
      const load = Promise.all(Array.from({ length: 12 }, (_, n) => ask(n))).finally(() => (isLoading = false));
      await Promise.all([load, watch()]);
      assert.ok(most > 1 && most <= each * shards + 2, `${most} connections`);
    });
  });
}
