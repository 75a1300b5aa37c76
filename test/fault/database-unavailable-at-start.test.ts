/**
 * The given database is unavailable while the server starts, takes increments, is killed, and starts again.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CountedNode } from '../support/counted-node.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { spawnServer } from '../support/server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { CLEAN, kill, testNode } from '../support/node-test.js';

const env = { FLUSH_INTERVAL_MS: '50' };

async function readiness(node: CountedNode): Promise<unknown> {
  const answer = await send(node.url, '/readyz');
  assert.equal(answer.status, 200, answer.body);
  return (JSON.parse(answer.body) as { status: unknown }).status;
}

testNode(
  'increments taken in three runs without a database, each ended by kill -9, are counted when the database is there',
  env,
  async ({ node, proxy }) => {
    await proxy.refuse();
    const load = node.load();
    for (const shards of ['2', '1', '3']) {
      const server = await node.start({ SHARDS: shards });
      assert.equal(await readiness(node), 'degraded');
      await load.acknowledgements(200);
      await kill(server);
    }
    const server = await node.start();
    await load.acknowledgements(200);
    await proxy.accept();
    await load.acknowledgements(200);
    await node.finish(server);
  },
);

testNode(
  'increments that were pending when the database failed are recovered after a start without it, and counted once',
  env,
  async ({ node, proxy }) => {
    const first = await node.start();
    const load = node.load();
    await load.acknowledgements(200);
    await proxy.refuse();
    await first.waitFor('"msg":"PostgreSQL unavailable');
    await load.acknowledgements(200);
    await kill(first);
    const second = await node.start();
    assert.equal(await readiness(node), 'degraded');
    await load.acknowledgements(200);
    await proxy.accept();
    await load.acknowledgements(200);
    await kill(second);
    const third = await node.start();
    assert.equal(await readiness(node), 'ok');
    await load.acknowledgements(50);
    await node.finish(third);
  },
);

testNode(
  'a kill -9 during the recovery of earlier journals, after the database returned, loses nothing',
  env,
  async ({ node, proxy }) => {
    await proxy.refuse();
    const load = node.load();
    const first = await node.start();
    await load.acknowledgements(300);
    await kill(first);
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
    await kill(second);
    const third = await node.start();
    await load.acknowledgements(100);
    await node.finish(third);
  },
);

testNode(
  'a stop without the database ends with 0 at once and logs how much stays, and the next start counts it',
  env,
  async ({ node, proxy }) => {
    const first = await node.start();
    const load = node.load();
    await load.acknowledgements(100);
    await proxy.refuse();
    await first.waitFor('"msg":"PostgreSQL unavailable');
    await load.acknowledgements(200);
    const before = performance.now();
    assert.deepEqual(await first.stop(), CLEAN, first.output);
    assert.ok(performance.now() - before < 15_000, 'half of the deadline is not needed');
    const left = first.log.find(({ msg }) => String(msg).includes('stay in the journal for the next start'));
    assert.ok(Number(left?.['pending']) > 0, first.output);
    await proxy.accept();
    const second = await node.start();
    await node.finish(second);
  },
);

/** How long a start waits for a database that does not answer. */
const WAIT_MS = 2_000;
const RUNS = 3;

/** The shortest time from the start of a process to its first 202, in ms, with the status that it has then. */
async function firstCreatedMs(databaseUrl: string, status: string): Promise<number> {
  const times: number[] = [];
  while (times.length < RUNS) {
    const startedAt = performance.now();
    const server = await spawnServer({ env: { DATABASE_URL: databaseUrl, SHARDS: '2' } });
    try {
      await server.waitFor('"msg":"Listening on ');
      await eventually('202', async () => (await increment(server.url, { early: 1 })).status === 202);
      times.push(performance.now() - startedAt);
      const readiness = async (): Promise<boolean> => (await send(server.url, '/readyz')).body.includes(`"${status}"`);
      await eventually(status, readiness);
    } finally {
      await server.dispose();
    }
  }
  return Math.min(...times);
}

// That is 3 s on an idle machine: a start takes half a second of CPU there. What it takes here is measured.
test('with a database that accepts connections and never answers, the first 202 comes 2 s later than with one that answers', async () => {
  const postgres = await OutagePostgres.prepare();
  await postgres.start();
  const proxy = await TcpProxy.start(postgres.url);
  try {
    const answered = await firstCreatedMs(postgres.url, 'ok');
    proxy.setRule(() => 'swallow');
    const swallowed = await firstCreatedMs(proxy.urlOf(postgres.url), 'degraded');
    postgres.hold();
    const held = await firstCreatedMs(postgres.url, 'degraded');
    const limit = WAIT_MS + 2 * answered;
    assert.ok(Math.max(swallowed, held) < limit, `${swallowed} ms, ${held} ms; ${answered} ms with an answer`);
  } finally {
    await proxy.close();
    await postgres.dispose();
  }
});
