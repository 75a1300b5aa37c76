/**
 * Shards that recover while the process runs: all at once, and during a stop.
 */
import assert from 'node:assert/strict';
import { runStatements } from '../support/database-connection.js';
import { eventually } from '../support/eventually.js';
import { faultEnvironment } from '../support/fault-injection.js';
import { increment, send } from '../support/http.js';
import { assertCreated, assertProblem } from '../support/problem.js';
import type { TestServer } from '../support/server.js';
import { assertCleanStop, committedSums } from '../support/suite-server.js';
import { CLEAN, NEVER_MS, testNode, type NodeScene } from '../support/node-test.js';

/** Simulates a failover to a standby that lacks the last commit of each stream: moves the checkpoints back. */
const GO_BACK = 'update journal_checkpoints set lsn = lsn - 1 where lsn > 0';

function bodyOf(keys: number): Record<string, number> {
  return Object.fromEntries(Array.from({ length: keys }, (_, index) => [`key ${index}`, 1]));
}

const SHARDS = 8;

testNode(
  'a failover that takes back commits of every shard at once restarts all shards, and the node continues',
  { SHARDS: String(SHARDS), FLUSH_INTERVAL_MS: NEVER_MS },
  async ({ node, databaseUrl }) => {
    const server = await node.start();
    // Two records in each stream.
    for (let sent = 0; sent < 2; sent += 1) assertCreated(await increment(node.url, bodyOf(200)));
    await node.flush();
    await runStatements(databaseUrl, GO_BACK);
    await runStatements(databaseUrl, 'update counters set sum = 1');
    assertCreated(await increment(node.url, bodyOf(200)));
    const restarts = (): number => server.log.filter(({ msg }) => msg === 'A shard ended').length;
    await eventually('every shard is restarted', async () => {
      await send(node.url, '/flush', { method: 'POST' });
      return restarts() === SHARDS;
    });
    await node.flush();
    const sums = [...(await committedSums(databaseUrl)).values()];
    assert.deepEqual([sums.length, ...new Set(sums)], [200, 3n]);
    assert.deepEqual(await server.stop(), CLEAN, server.output);
  },
);

const env = { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS };

/** Starts the node and takes back the commit of one increment, so that the next flush makes the shard recover. */
async function countAndGoBack({ node, databaseUrl }: NodeScene): Promise<TestServer> {
  const server = await node.start();
  assertCreated(await increment(node.url, { a: 1 }));
  await node.flush();
  await runStatements(databaseUrl, `${GO_BACK}; delete from counters`);
  assertCreated(await increment(node.url, { a: 2 }));
  return server;
}

async function assertAllCommitted(server: TestServer, databaseUrl: string): Promise<void> {
  assert.deepEqual(await server.ended, CLEAN, server.output);
  assert.match(server.output, /Everything that was acknowledged is committed/);
  assert.doesNotMatch(server.output, /do not add up/);
  assert.deepEqual(await committedSums(databaseUrl), new Map([['a', 3n]]));
}

testNode(
  'a stop just after a shard has ended waits until the next thread has recovered, and commits everything',
  env,
  async (scene) => {
    const { node, databaseUrl } = scene;
    const server = await countAndGoBack(scene);
    const refused = send(node.url, '/flush', { method: 'POST' }).catch(() => undefined);
    await server.waitFor('"msg":"A shard ended"');
    server.kill('SIGTERM');
    await refused;
    await assertAllCommitted(server, databaseUrl);
  },
);

testNode('a stop while a shard recovers waits for it, and commits everything', env, async (scene) => {
  const { node, databaseUrl, proxy } = scene;
  const server = await countAndGoBack(scene);
  let isRecovering = false;
  proxy.setRule((bytes) => {
    // From here on the network is slow, so the stop comes before the answer.
    if (bytes.includes('journal_epochs')) [isRecovering, proxy.delayMs] = [true, 300];
    return 'forward';
  });
  await send(node.url, '/flush', { method: 'POST' }).catch(() => undefined);
  await eventually('the recovery has started', () => Promise.resolve(isRecovering));
  server.kill('SIGTERM');
  await assertAllCommitted(server, databaseUrl);
});

testNode(
  'a shard whose last flush finds its commits taken back recovers and is drained afterwards',
  env,
  async (scene) => {
    const { databaseUrl } = scene;
    const server = await countAndGoBack(scene);
    server.kill('SIGTERM');
    await assertAllCommitted(server, databaseUrl);
  },
);

testNode(
  'a stop while a shard cannot recover keeps its increments in the journal and logs how many',
  env,
  async ({ node, databaseUrl, proxy }) => {
    const server = await node.start(faultEnvironment({ step: 'append', at: 3, action: 'exit-thread' }));
    for (const amount of [1, 2]) assertCreated(await increment(node.url, { kept: amount }));
    await proxy.refuse();
    assertProblem(await increment(node.url, { kept: 4 }), 'outcome-unknown');
    server.kill('SIGTERM');
    assert.deepEqual(await server.ended, CLEAN, server.output);
    const said = /2 acknowledged increments stay in the journal for the next start, besides 1 unread stream/;
    assert.match(server.output, said);
    assert.doesNotMatch(server.output, /Everything that was acknowledged|do not add up/);
    await proxy.accept();
    await assertCleanStop(await node.start());
    assert.deepEqual(await committedSums(databaseUrl), new Map([['kept', 3n]]));
  },
);

testNode(
  'with the memory journal a stop logs what was lost when a shard ended earlier, and the exit code is not 0',
  { ...env, JOURNAL: 'memory' },
  async ({ node, databaseUrl }) => {
    // The thread has no files, so the fault is placed in a flush.
    const server = await node.start(faultEnvironment({ step: 'flush', at: 1, action: 'exit-thread' }));
    assertCreated(await increment(node.url, { lost: 1, also: 1 }));
    await send(node.url, '/flush', { method: 'POST' });
    await eventually('it takes increments again', async () => (await send(node.url, '/readyz')).status === 200);
    assert.deepEqual(await server.stop(), { code: 1, signal: null }, server.output);
    assert.match(server.output, /2 acknowledged increments are lost/);
    assert.doesNotMatch(server.output, /Everything that was acknowledged/);
    assert.equal((await committedSums(databaseUrl)).size, 0);
  },
);
