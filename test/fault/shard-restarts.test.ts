/**
 * Shards that recover while the process runs: all at once, and during a stop.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runStatements } from '../support/database-connection.js';
import { createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { faultEnvironment } from '../support/fault-injection.js';
import { increment, send } from '../support/http.js';
import { assertCreated, assertProblem } from '../support/problem.js';
import { startServer, type TestServer } from '../support/server.js';
import { assertCleanStop, committedSums } from '../support/suite-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const NEVER_MS = '3600000';
const CLEAN = { code: 0, signal: null };
/** Simulates a failover to a standby that lacks the last commit of each stream: moves the checkpoints back. */
const GO_BACK = 'update journal_checkpoints set lsn = lsn - 1 where lsn > 0';

function bodyOf(keys: number): Record<string, number> {
  return Object.fromEntries(Array.from({ length: keys }, (_, index) => [`key ${index}`, 1]));
}

async function flush(server: TestServer): Promise<void> {
  await eventually('a flush', async () => (await send(server.url, '/flush', { method: 'POST' })).status === 200);
}

test('a failover that takes back commits of every shard at once restarts all shards, and the node continues', async () => {
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
    assert.deepEqual(await server.stop(), CLEAN, server.output);
  } finally {
    await server.dispose();
    await database.drop();
  }
});

interface Scene {
  readonly server: TestServer;
  readonly databaseUrl: string;
  /** The proxy between server and database. */
  readonly proxy: TcpProxy;
}

/** A server with one shard that flushes only on request. */
async function withServer(env: Readonly<Record<string, string>>, body: (scene: Scene) => Promise<void>): Promise<void> {
  const database = await createTestDatabase();
  const proxy = await TcpProxy.start(database.url);
  const url = proxy.urlOf(database.url);
  const server = await startServer({
    env: { DATABASE_URL: url, SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS, ...env },
  });
  try {
    await body({ server, databaseUrl: database.url, proxy });
  } finally {
    await server.dispose();
    await proxy.close();
    await database.drop();
  }
}

/** Takes back the commit of one increment, so that the next flush makes the shard recover. */
async function countAndGoBack({ server, databaseUrl }: Scene): Promise<void> {
  assertCreated(await increment(server.url, { a: 1 }));
  await flush(server);
  await runStatements(databaseUrl, `${GO_BACK}; delete from counters`);
  assertCreated(await increment(server.url, { a: 2 }));
}

async function assertAllCommitted({ server, databaseUrl }: Scene): Promise<void> {
  assert.deepEqual(await server.ended, CLEAN, server.output);
  assert.match(server.output, /Everything that was acknowledged is committed/);
  assert.doesNotMatch(server.output, /do not add up/);
  assert.deepEqual(await committedSums(databaseUrl), new Map([['a', 3n]]));
}

test('a stop just after a shard has ended waits until the next thread has recovered, and commits everything', async () => {
  await withServer({}, async (scene) => {
    await countAndGoBack(scene);
    const refused = send(scene.server.url, '/flush', { method: 'POST' }).catch(() => undefined);
    await scene.server.waitFor('"msg":"A shard ended"');
    scene.server.kill('SIGTERM');
    await refused;
    await assertAllCommitted(scene);
  });
});

test('a stop while a shard recovers waits for it, and commits everything', async () => {
  await withServer({}, async (scene) => {
    await countAndGoBack(scene);
    const { server, proxy } = scene;
    let isRecovering = false;
    proxy.setRule((bytes) => {
      // From here on the network is slow, so the stop comes before the answer.
      if (bytes.includes('journal_epochs')) [isRecovering, proxy.delayMs] = [true, 300];
      return 'forward';
    });
    await send(server.url, '/flush', { method: 'POST' }).catch(() => undefined);
    await eventually('the recovery has started', () => Promise.resolve(isRecovering));
    server.kill('SIGTERM');
    await assertAllCommitted(scene);
  });
});

test('a shard whose last flush finds its commits taken back recovers and is drained afterwards', async () => {
  await withServer({}, async (scene) => {
    await countAndGoBack(scene);
    scene.server.kill('SIGTERM');
    await assertAllCommitted(scene);
  });
});

test('a stop while a shard cannot recover keeps its increments in the journal and logs how many', async () => {
  const fault = faultEnvironment({ step: 'append', at: 3, action: 'exit-thread' });
  await withServer(fault, async ({ server, databaseUrl, proxy }) => {
    for (const amount of [1, 2]) assertCreated(await increment(server.url, { kept: amount }));
    await proxy.refuse();
    assertProblem(await increment(server.url, { kept: 4 }), 'outcome-unknown');
    server.kill('SIGTERM');
    assert.deepEqual(await server.ended, CLEAN, server.output);
    const said = /2 acknowledged increments stay in the journal for the next start, besides 1 unread stream/;
    assert.match(server.output, said);
    assert.doesNotMatch(server.output, /Everything that was acknowledged|do not add up/);
    const next = await startServer({
      env: { DATABASE_URL: databaseUrl, SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS },
      dataDir: server.dataDir,
    });
    await assertCleanStop(next);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['kept', 3n]]));
  });
});

test('with the memory journal a stop logs what was lost when a shard ended earlier, and the exit code is not 0', async () => {
  // The thread has no files, so the fault is placed in a flush.
  const fault = faultEnvironment({ step: 'flush', at: 1, action: 'exit-thread' });
  await withServer({ ...fault, JOURNAL: 'memory' }, async ({ server, databaseUrl }) => {
    assertCreated(await increment(server.url, { lost: 1, also: 1 }));
    await send(server.url, '/flush', { method: 'POST' });
    await eventually('it takes increments again', async () => (await send(server.url, '/readyz')).status === 200);
    assert.deepEqual(await server.stop(), { code: 1, signal: null }, server.output);
    assert.match(server.output, /2 acknowledged increments are lost/);
    assert.doesNotMatch(server.output, /Everything that was acknowledged/);
    assert.equal((await committedSums(databaseUrl)).size, 0);
  });
});
