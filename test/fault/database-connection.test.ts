/**
 * The connection to PostgreSQL fails around a flush: the reply is lost after the commit, the statement never arrives,
 * it commits while the server already reads its outcome back, or PostgreSQL stops answering.
 */
import assert from 'node:assert/strict';
import { eventually } from '../support/eventually.js';
import { send } from '../support/http.js';
import { asksForFlush, type ClientDataFate } from '../support/tcp-proxy.js';
import { testNode } from '../support/node-test.js';
import { connectTo } from '../support/database.js';

const FAULTS = 12;

const env = { FLUSH_INTERVAL_MS: '50' };

const fates: readonly (readonly [string, readonly ClientDataFate[]])[] = [
  ['flushes that commit and whose replies are lost are not sent again', ['lose-answer']],
  ['flushes that never reach PostgreSQL are sent again', ['cut-before']],
  ['flushes that are cut off right after they were sent count once, whether they commit or not', ['cut-after']],
  ['flushes cut off at any point count once', ['lose-answer', 'cut-before', 'cut-after']],
];

for (const [name, kinds] of fates) {
  testNode(name, env, async ({ node, proxy }) => {
    const server = await node.start();
    const load = node.load();
    await load.acknowledgements(50);
    let flushes = 0;
    proxy.setRule((bytes) => {
      if (!asksForFlush(bytes) || proxy.faults >= FAULTS) return 'forward';
      flushes += 1;
      // Every second connection passes, so that the server does more than reconnect.
      return flushes % 2 === 0 ? 'forward' : (kinds[node.random.integer(kinds.length)] ?? 'forward');
    });
    while (proxy.faults < FAULTS) await load.acknowledgements(20);
    await load.acknowledgements(50);
    await node.finish(server);
  });
}

testNode(
  'a second fault while the server determines the outcome of a flush changes no sum',
  env,
  async ({ node, proxy }) => {
    const server = await node.start();
    const load = node.load();
    await load.acknowledgements(50);
    proxy.setRule((bytes) => {
      if (proxy.faults >= FAULTS) return 'forward';
      if (asksForFlush(bytes)) return 'lose-answer';
      // The read-back of the checkpoint row.
      return bytes.includes('for update') && node.random.integer(2) === 0 ? 'lose-answer' : 'forward';
    });
    while (proxy.faults < FAULTS) await load.acknowledgements(20);
    await load.acknowledgements(50);
    await node.finish(server);
  },
);

testNode(
  'increments are taken while the database is unavailable, and the first flush comes within 5 s of its return',
  env,
  async ({ node, proxy }) => {
    const server = await node.start();
    const load = node.load();
    await load.acknowledgements(50);
    await proxy.refuse();
    await server.waitFor('"msg":"PostgreSQL unavailable');
    await load.acknowledgements(200);
    const ready = await send(node.url, '/readyz');
    assert.equal(ready.status, 200);
    assert.equal((JSON.parse(ready.body) as { status: unknown }).status, 'degraded');
    const read = await send(node.url, `/key_sum?name=${encodeURIComponent(node.history.readableKey())}`);
    assert.equal(read.status, 503, read.body);
    assert.equal((await send(node.url, '/flush', { method: 'POST' })).status, 503);
    await proxy.accept();
    const back = performance.now();
    let flushedAt: number | undefined;
    proxy.setRule((bytes) => {
      if (asksForFlush(bytes)) flushedAt ??= performance.now();
      return 'forward';
    });
    await server.waitFor('"msg":"PostgreSQL available again');
    // If the outage lost the reply of a flush, the server reads the checkpoint back instead of flushing again.
    const settledAt = flushedAt ?? performance.now();
    assert.ok(settledAt - back < 5_000, `${settledAt} - ${back}`);
    await node.finish(server);
  },
);

for (const fate of ['blackhole', 'swallow'] as const) {
  testNode(
    `a connection that silently drops everything (${fate}) is replaced, and the flush sent over it counts once`,
    env,
    async ({ node, proxy }) => {
      const server = await node.start({ SHARDS: '1' });
      const load = node.load(4);
      await load.acknowledgements(20);
      let [fault, next] = [0, 0];
      proxy.setRule((bytes) => {
        if (!asksForFlush(bytes)) return 'forward';
        if (proxy.faults > 0) {
          next ||= performance.now();
          return 'forward';
        }
        fault = performance.now();
        return fate;
      });
      while (next === 0) await load.acknowledgements(20);
      // The time limit for a statement is 40 s. The server gives a session up only after it was idle for a second.
      assert.ok(next - fault < 5_000, `${next - fault} ms`);
      assert.equal(proxy.faults, 1);
      await node.finish(server);
    },
  );
}

/** Most sessions of a node with two shards. */
const SESSIONS_MAX = 2 * 2 + 2;

for (const bytesMax of [600, 1_800]) {
  testNode(
    `a network that loses packets above ${bytesMax} bytes leaves no sessions behind, and flushes succeed afterwards`,
    env,
    async ({ node, proxy }) => {
      const server = await node.start();
      const load = node.load();
      await load.acknowledgements(50);
      const observer = await connectTo(node.databaseUrl, 'observer');
      try {
        proxy.setRule((bytes) => (bytes.length > bytesMax ? 'lose-packet' : 'forward'));
        const counts: number[] = [];
        await eventually(
          'packets are lost',
          async () => {
            const [row] = await observer.query<{ count: number }>({ text: COUNT_SESSIONS });
            counts.push(row?.count ?? 0);
            await load.acknowledgements(5);
            return proxy.faults >= 16;
          },
          60_000,
        );
        const most = Math.max(...counts);
        assert.ok(most <= SESSIONS_MAX, `${most} sessions`);
        proxy.setRule();
        await node.finish(server);
      } finally {
        await observer.close();
      }
    },
  );
}

const COUNT_SESSIONS = `
  select count(*)::int as count from pg_stat_activity
  where datname = current_database() and application_name like 'summing-counters%'`;

testNode('a slow connection delays flushes and nothing else', env, async ({ node, proxy }) => {
  const server = await node.start();
  const load = node.load();
  proxy.delayMs = 150;
  await load.acknowledgements(500);
  proxy.delayMs = 0;
  await node.finish(server);
});
