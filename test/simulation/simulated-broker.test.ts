/** The simulated broker keeps to what nats-server 2.9.10 does. */
import type { Broker } from '#product/shard-worker/journal/nats/broker.js';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Mulberry32 } from '../support/mulberry32.js';
import { runOnScheduler } from './on-scheduler.js';
import { Scheduler } from './scheduler.js';
import { type BrokerKind, SimulatedBroker } from './simulated-broker.js';

const ONE_SERVER: BrokerKind = { isOldCluster: false, hasReplicas: false };
const DATA = Buffer.from('data');

/** Runs a case on a broker without faults. */
async function onBroker(run: (broker: Broker, server: SimulatedBroker) => Promise<void>): Promise<void> {
  const scheduler = new Scheduler();
  const server = new SimulatedBroker(scheduler, new Mulberry32(1), ONE_SERVER);
  server.heal();
  await runOnScheduler(scheduler, 10_000, (life) => run(server.connect(life), server));
}

test('a publish is stored behind the last message of its stream only', async () => {
  await onBroker(async (broker) => {
    assert.deepEqual(await broker.publish('a', DATA, 0), { kind: 'published', sequence: 1 });
    assert.deepEqual(await broker.publish('b', DATA, 0), { kind: 'published', sequence: 2 });
    assert.deepEqual(await broker.publish('a', DATA, 2), { kind: 'mismatch' });
    assert.deepEqual(await broker.publish('a', DATA, 0), { kind: 'mismatch' });
    assert.deepEqual(await broker.publish('a', DATA, 1), { kind: 'published', sequence: 3 });
    assert.deepEqual(
      (await broker.read('a', 2, 10)).map(({ sequence }) => sequence),
      [3],
    );
    assert.deepEqual([...(await broker.streams())], [['a', 2], ['b', 1]]); // prettier-ignore
  });
});

test('a purge keeps the message at its sequence, and an emptied stream expects 0 again', async () => {
  await onBroker(async (broker) => {
    for (const expected of [0, 1, 2]) await broker.publish('a', DATA, expected);
    await broker.purge('a', 3);
    assert.equal((await broker.last('a'))?.sequence, 3);
    assert.equal((await broker.read('a', 0, 10)).length, 1);
    await broker.purge('a', 4);
    assert.equal(await broker.last('a'), undefined);
    assert.deepEqual(await broker.publish('a', DATA, 3), { kind: 'mismatch' });
    assert.deepEqual(await broker.publish('a', DATA, 0), { kind: 'published', sequence: 4 });
  });
});

test('a full stream refuses, and a broker that is gone leaves a publish unknown or refused', async () => {
  await onBroker(async (broker, server) => {
    server.isFull = true;
    assert.equal((await broker.publish('a', DATA, 0)).kind, 'refused');
    server.isFull = false;
    server.isGone = true;
    for (let publishes = 20; publishes > 0; publishes -= 1) {
      assert.match((await broker.publish('a', DATA, 0)).kind, /^(unknown|refused)$/);
    }
    await assert.rejects(broker.last('a'), { name: 'BrokerUnavailable' });
    server.isGone = false;
    assert.equal(server.messages('a').length, 0);
  });
});
