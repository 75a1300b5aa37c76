/** What the client of NATS makes of a connection that was lost. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { openBrokerStream, pairBroker } from '#product/shard-worker/journal/nats/nats-start.js';
import type { PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import { NatsBroker } from '#product/shard-worker/journal/nats/nats-broker.js';
import { eventually } from '../../support/eventually.js';
import { NatsServer, natsServerMissing } from '../../support/nats-server.js';

const DATA = Buffer.from('a message');

test('a publish that has to open the connection sends nothing', { skip: natsServerMissing() }, async () => {
  const server = await NatsServer.start();
  const settings = {
    servers: [server.address],
    user: undefined,
    password: undefined,
    token: undefined,
    credsFile: undefined,
    tls: undefined,
    stream: 'COUNTERS',
    replicas: 1,
  };
  await openBrokerStream(settings, 65_536);
  const id = randomUUID();
  const store = await pairBroker(settings, { id, unknownStreams: () => Promise.resolve([]) });
  assert.equal(store.databaseId, id);
  const broker = new NatsBroker({ ...settings, store }, 'test');
  try {
    const first = await broker.publish('a', DATA, 0);
    assert.ok(first.kind === 'published', first.kind);
    await server.stop();
    await server.start();
    let last: PublishOutcome | undefined;
    await eventually('the connection is open again', async () => {
      last = await broker.publish('a', DATA, first.sequence);
      return last.kind !== 'refused' && last.kind !== 'unknown';
    });
    assert.deepEqual(last, { kind: 'reconnected' });
    assert.equal((await broker.read('a', 1, 10)).length, 1);
    assert.equal((await broker.publish('a', DATA, first.sequence)).kind, 'published');
  } finally {
    await broker.close();
    await server.dispose();
  }
});
