/**
 * The given database is unavailable while the server starts, takes increments, is killed, and starts again.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CountedNode } from '../support/counted-node.js';
import { createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { spawnServer } from '../support/server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const FIRST_CREATED_MS = 3_000;

async function withoutDatabase(
  label: string,
  body: (node: CountedNode, proxy: TcpProxy) => Promise<void>,
): Promise<void> {
  const database = await createTestDatabase();
  const proxy = await TcpProxy.start(database.url);
  const node = await CountedNode.make(label, {
    databaseUrl: database.url,
    serverDatabaseUrl: proxy.urlOf(database.url),
    env: { FLUSH_INTERVAL_MS: '50' },
  });
  try {
    await body(node, proxy);
  } finally {
    await node.dispose();
    await proxy.close();
    await database.drop();
  }
}

async function readiness(node: CountedNode): Promise<unknown> {
  const answer = await send(node.url, '/readyz');
  assert.equal(answer.status, 200, answer.body);
  return (JSON.parse(answer.body) as { status: unknown }).status;
}

test(
  'increments taken in three runs without a database, each ended by kill -9, are counted when the database is there',
  {
    timeout: 90_000,
  },
  async () => {
    await withoutDatabase('three runs', async (node, proxy) => {
      await proxy.refuse();
      const load = node.load();
      for (const shards of ['2', '1', '3']) {
        const server = await node.start({ SHARDS: shards });
        assert.equal(await readiness(node), 'degraded');
        await load.acknowledgements(200);
        server.kill('SIGKILL');
        await server.ended;
      }
      const server = await node.start();
      await load.acknowledgements(200);
      await proxy.accept();
      await load.acknowledgements(200);
      await node.finish(server);
    });
  },
);

test(
  'increments that were pending when the database failed are recovered after a start without it, and counted once',
  {
    timeout: 90_000,
  },
  async () => {
    await withoutDatabase('pending before', async (node, proxy) => {
      const first = await node.start();
      const load = node.load();
      await load.acknowledgements(200);
      await proxy.refuse();
      await first.waitFor('"msg":"PostgreSQL unavailable');
      await load.acknowledgements(200);
      first.kill('SIGKILL');
      await first.ended;
      const second = await node.start();
      assert.equal(await readiness(node), 'degraded');
      await load.acknowledgements(200);
      await proxy.accept();
      await load.acknowledgements(200);
      second.kill('SIGKILL');
      await second.ended;
      const third = await node.start();
      assert.equal(await readiness(node), 'ok');
      await load.acknowledgements(50);
      await node.finish(third);
    });
  },
);

test(
  'a kill -9 during the recovery of earlier journals, after the database returned, loses nothing',
  {
    timeout: 90_000,
  },
  async () => {
    await withoutDatabase('recovering later', async (node, proxy) => {
      await proxy.refuse();
      const load = node.load();
      const first = await node.start();
      await load.acknowledgements(300);
      first.kill('SIGKILL');
      await first.ended;
      const second = await node.start();
      await load.acknowledgements(100);
      const reconnected = new Promise<void>((resolve) =>
        proxy.setRule((bytes) => {
          // The first new epoch belongs to the first earlier journal.
          if (bytes.includes('journal_epochs')) resolve();
          return 'forward';
        }),
      );
      await proxy.accept();
      await reconnected;
      second.kill('SIGKILL');
      await second.ended;
      const third = await node.start();
      await load.acknowledgements(100);
      await node.finish(third);
    });
  },
);

test(
  'a stop without the database ends with 0 at once and logs how much stays, and the next start counts it',
  {
    timeout: 90_000,
  },
  async () => {
    await withoutDatabase('stop', async (node, proxy) => {
      const first = await node.start();
      const load = node.load();
      await load.acknowledgements(100);
      await proxy.refuse();
      await first.waitFor('"msg":"PostgreSQL unavailable');
      await load.acknowledgements(200);
      const before = performance.now();
      assert.deepEqual(await first.stop(), { code: 0, signal: null }, first.output);
      assert.ok(performance.now() - before < 15_000, 'half of the deadline is not needed');
      const left = first.log.find(({ msg }) => String(msg).includes('stay in the journal for the next start'));
      assert.ok(Number(left?.['pending']) > 0, first.output);
      await proxy.accept();
      const second = await node.start();
      await node.finish(second);
    });
  },
);

/** Other tests run at the same time, and a start needs the processor. Stops at the first time that is short enough. */
async function bestOfThree(measure: () => Promise<number>): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < 3 && best >= FIRST_CREATED_MS; run += 1) best = Math.min(best, await measure());
  return best;
}

/** Time from the start of a process to its first 202, in ms. The database hangs. */
async function firstCreatedMs(databaseUrl: string): Promise<number> {
  const startedAt = performance.now();
  const server = await spawnServer({ env: { DATABASE_URL: databaseUrl, SHARDS: '2' } });
  try {
    await server.waitFor('"msg":"Listening on ');
    await eventually('202', async () => (await increment(server.url, { early: 1 })).status === 202);
    const tookMs = performance.now() - startedAt;
    assert.match((await send(server.url, '/readyz')).body, /"degraded"/);
    return tookMs;
  } finally {
    await server.dispose();
  }
}

test('with a database that accepts connections and never answers, the first 202 comes within 3 s of the start', async () => {
  const postgres = await OutagePostgres.prepare();
  await postgres.start();
  const proxy = await TcpProxy.start(postgres.url);
  proxy.setRule(() => 'swallow');
  try {
    const swallowed = await bestOfThree(() => firstCreatedMs(proxy.urlOf(postgres.url)));
    postgres.hold();
    const held = await bestOfThree(() => firstCreatedMs(postgres.url));
    assert.ok(Math.max(swallowed, held) < FIRST_CREATED_MS, `${swallowed} ms, ${held} ms`);
  } finally {
    await proxy.close();
    await postgres.dispose();
  }
});
