import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import type { Broker, BrokerMessage, PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import { encodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { PurgeSchedule } from '#product/shard-worker/journal/nats/purge-schedule.js';
import { StreamReader } from '#product/shard-worker/journal/nats/stream-reader.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';

/** One subject at a limit of its stream: it takes nothing more. */
class FullBroker implements Pick<Broker, 'publish' | 'read' | 'last'> {
  readonly messages: BrokerMessage[] = [];
  isFull = true;

  publish(_: string, data: Uint8Array, expected: number): Promise<PublishOutcome> {
    if (this.isFull) return Promise.resolve({ kind: 'refused', error: new Error('maximum bytes exceeded') });
    if (expected !== this.messages.length) return Promise.resolve({ kind: 'mismatch' });
    this.add(data);
    return Promise.resolve({ kind: 'published', sequence: this.messages.length });
  }

  read(_: string, from: number, most: number): Promise<readonly BrokerMessage[]> {
    return Promise.resolve(this.messages.filter(({ sequence }) => sequence >= from).slice(0, most));
  }

  last(): Promise<BrokerMessage | undefined> {
    return Promise.resolve(this.messages.at(-1));
  }

  add(data: Uint8Array): void {
    this.messages.push({ sequence: this.messages.length + 1, data });
  }
}

let broker: FullBroker;
let reader: StreamReader;
let complaints: number;

describe('a full broker that refuses a fence', () => {
  beforeEach(() => {
    broker = new FullBroker();
    complaints = 0;
    for (const lsn of [1, 2])
      broker.add(encodeMessage([incrementRecord('a', lsn)], lsn, 0, { node: NODE_ID, shard: 0 }));
    reader = new StreamReader('stream', 0, true, {
      clock: new ManualClock(),
      confirmAfterMs: 1000,
      broker,
      purges: new PurgeSchedule(0),
      unreadable: () => assert.fail('all of it can be read'),
      unfenced: () => (complaints += 1),
    });
  });

  test('holds back no record, because room appears only once records are committed', async () => {
    const records = await reader.read(10);
    assert.deepEqual(
      records.map(({ lsn }) => lsn),
      [1, 2],
    );
    assert.equal(complaints, 1);
    assert.equal(reader.hasEnded, false);
  });

  test('delays the end of the stream until it accepts the fence', async () => {
    await reader.read(10);
    assert.deepEqual(await reader.read(10), []);
    assert.equal(reader.hasEnded, false);
    broker.isFull = false;
    assert.deepEqual(await reader.read(10), []);
    assert.equal(reader.hasEnded, true);
    assert.deepEqual(
      broker.messages.map(({ data }) => data.length > 0),
      [true, true, false],
    );
  });
});
