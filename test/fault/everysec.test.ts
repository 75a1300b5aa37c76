import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { Agent } from 'node:http';
import path from 'node:path';
import { test } from 'node:test';
import { connectTo, createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { faultEnvironment, type Fault } from '../support/fault-injection.js';
import { flushAll, increment, send } from '../support/http.js';
import { imbalances, scrape } from '../support/metrics.js';
import { assertCreated, assertProblem } from '../support/problem.js';
import { startServer, temporaryDirectory, type TestServer } from '../support/server.js';
import { assertCleanStop, committedSums } from '../support/suite-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

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
    await flushAll(second.url);
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

interface Scene {
  readonly server: TestServer;
  readonly databaseUrl: string;
  readonly proxy: TcpProxy;
  /** From here on syncs of records fail, and what was not synced is gone from the files. */
  readonly breakDisk: () => void;
  readonly repairDisk: () => void;
}

/** A server with `flushed` = 1. Nothing more is flushed without a request. */
async function withFailingSync(fault: Partial<Fault>, use: (scene: Scene) => Promise<void>): Promise<void> {
  const database = await createTestDatabase();
  const proxy = await TcpProxy.start(database.url);
  const directory = await temporaryDirectory();
  const armedBy = path.join(directory, 'armed');
  const env = {
    ...{ SHARDS: '1', JOURNAL_SYNC: 'everysec', FLUSH_INTERVAL_MS: '3600000' },
    ...{ DATABASE_URL: proxy.urlOf(database.url), JOURNAL_KEEP_SECONDS: '60' },
    ...faultEnvironment({ step: 'sync', at: 1, action: 'fail-call', errno: 'EIO', drop: true, armedBy, ...fault }),
  };
  const server = await startServer({ env });
  try {
    assertCreated(await increment(server.url, { flushed: 1 }));
    await flushAll(server.url);
    await use({
      ...{ server, proxy, databaseUrl: database.url },
      breakDisk: () => writeFileSync(armedBy, ''),
      repairDisk: () => rmSync(armedBy),
    });
  } finally {
    await server.dispose();
    await proxy.close();
    rmSync(directory, { recursive: true });
    await database.drop();
  }
}

/** Scrapes until the function returned is called. That returns the increments that did not add up in a scrape. */
function watchBalance({ url }: TestServer): () => Promise<readonly number[]> {
  const wrong: number[] = [];
  let isOver = false;
  const scrapes = (async (): Promise<void> => {
    while (!isOver) for (const difference of imbalances(await scrape(url)).values()) wrong.push(difference);
  })();
  return async () => {
    isOver = true;
    await scrapes;
    return wrong.filter((difference) => difference !== 0);
  };
}

const REFUSED = 'the disk refuses a new segment; keeping the records in memory';

/** Three increments are acknowledged, and then their sync and every attempt to write them again fail. */
async function refuseThree({ server, breakDisk }: Scene): Promise<void> {
  breakDisk();
  for (let n = 0; n < 3; n += 1) assertCreated(await increment(server.url, { unsynced: 1 }));
  await server.waitFor(REFUSED);
}

test('with everysec one failed fdatasync loses nothing, and the shard continues in a new segment', async () => {
  const directory = await temporaryDirectory();
  await withFailingSync({ once: path.join(directory, 'failed') }, async ({ server, databaseUrl, breakDisk }) => {
    breakDisk();
    for (let n = 0; n < 20; n += 1) assertCreated(await increment(server.url, { kept: 1 }));
    await server.waitFor('its records are in a new segment now, and none is lost');
    assertCreated(await increment(server.url, { kept: 1 }));
    assert.equal(server.output.includes('A shard ended'), false, 'nothing was restarted');
    server.kill('SIGKILL');
    await server.ended;
    const env = { DATABASE_URL: databaseUrl, SHARDS: '1', JOURNAL_SYNC: 'everysec' };
    await assertCleanStop(await startServer({ env, dataDir: server.dataDir }));
    const sums = await committedSums(databaseUrl);
    assert.equal(sums.get('kept'), 21n);
    assert.equal(sums.get('flushed'), 1n);
  });
  rmSync(directory, { recursive: true });
});

test('with everysec increments that the disk refuses after their 202 are flushed from memory', async () => {
  await withFailingSync({}, async (scene) => {
    const { server, databaseUrl } = scene;
    await refuseThree(scene);
    assertProblem(await increment(server.url, { refused: 1 }), 'journal-unavailable');
    await flushAll(server.url);
    assert.equal((await committedSums(databaseUrl)).get('unsynced'), 3n);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    assert.match(server.output, /Everything that was acknowledged is committed/);
    assert.equal((await committedSums(databaseUrl)).has('refused'), false);
  });
});

test('with everysec what neither disk nor PostgreSQL takes counts as lost, and the stop says so', async () => {
  await withFailingSync({}, async (scene) => {
    const { server } = scene;
    await refuseThree(scene);
    await scene.proxy.refuse();
    assert.deepEqual(await server.stop(), { code: 1, signal: null });
    assert.doesNotMatch(server.output, /Everything that was acknowledged is committed/);
    const line = server.log.find(({ msg }) => String(msg).startsWith('3 acknowledged increments are lost'));
    assert.ok(line !== undefined, server.output);
    assert.equal(line['lost'], 3);
    assert.equal(line['difference'], 0);
  });
});

test('with everysec what the thread of a shard takes along after a failed sync counts as lost', async () => {
  await withFailingSync({}, async (scene) => {
    const { server, databaseUrl } = scene;
    await refuseThree(scene);
    const endWatch = watchBalance(server);
    // The thread ends as after a failover: the row of its stream has an earlier epoch.
    const connection = await connectTo(databaseUrl);
    await connection.query({ text: 'update journal_checkpoints set epoch = epoch - 1' });
    await connection.close();
    await send(server.url, '/flush', { method: 'POST' });
    await server.waitFor('A shard ended');
    scene.repairDisk();
    await server.waitFor('the journal no longer holds them after a failed sync or write');
    await eventually('the shard is back', async () => (await increment(server.url, { later: 1 })).status === 202);
    assert.deepEqual(await endWatch(), []);
    const page = await scrape(server.url);
    const counts = ['handed_over', 'recovered', 'lost'].map((name) => page.total(`increments_${name}_total`));
    assert.deepEqual(counts, [3, 3, 3]);
    assert.deepEqual(await server.stop(), { code: 1, signal: null });
    assert.match(server.output, /Everything else that was acknowledged is committed/);
    const line = server.log.find(({ msg }) => String(msg).startsWith('3 acknowledged increments are lost'));
    assert.equal(line?.['lost'], 3, server.output);
    assert.equal(line['difference'], 0);
    const sums = await committedSums(databaseUrl);
    assert.deepEqual(
      sums,
      new Map([
        ['flushed', 1n],
        ['later', 1n],
      ]),
    );
  });
});
