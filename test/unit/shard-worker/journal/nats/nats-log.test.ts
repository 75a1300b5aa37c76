import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Turns } from '#product/core/turns.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { JournalError } from '#product/core/errors.js';
import type { Broker, BrokerMessage } from '#product/shard-worker/journal/nats/broker.js';
import { encodeMessage } from '#product/shard-worker/journal/nats/message-format.js';
import { NatsLog } from '#product/shard-worker/journal/nats/nats-log.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';

const origin = { node: NODE_ID, shard: 0 };

/** A broker whose streams `slow` answers when it is told to, and whose other streams do not answer. */
class HalfBroker implements Broker {
  readonly #messages: readonly BrokerMessage[];
  answers: (() => void)[] = [];

  constructor(messages: readonly BrokerMessage[]) {
    this.#messages = messages;
  }

  read(stream: string, from: number, most: number): Promise<readonly BrokerMessage[]> {
    if (stream !== 'slow') return Promise.reject(new JournalError('journal-unavailable', 'gone'));
    const found = this.#messages.filter(({ sequence }) => sequence >= from).slice(0, most);
    return new Promise((resolve) => {
      this.answers.push(() => {
        resolve(found);
      });
    });
  }

  publish(): Promise<never> {
    return Promise.reject(new Error('nothing is published'));
  }

  last(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  purge(): Promise<void> {
    return Promise.resolve();
  }

  streams(): Promise<ReadonlyMap<string, number>> {
    return Promise.resolve(new Map());
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function logOn(reads: Broker): NatsLog {
  const connection = new ShardConnection(parseDatabaseUrl('postgresql://nobody@localhost/nothing'), {
    applicationName: 'test',
  });
  return new NatsLog({
    ...{ appends: reads, reads, statements: connection, flushes: connection, flushTurns: new Turns() },
    clock: new ManualClock(),
    owner: { ...origin, flusher: undefined },
    ...{ groupBytesMax: 1000, keepSeconds: 0, windowHours: 1 },
    log: () => undefined,
  });
}

test('a read that fails for one stream keeps nothing back of another one that answers late', async () => {
  const messages = [1, 2].map((lsn) => ({
    sequence: lsn,
    data: encodeMessage([incrementRecord('a', lsn)], lsn, 0, origin),
  }));
  const broker = new HalfBroker(messages);
  const log = logOn(broker);
  const failing = log.read(
    [
      { stream: 'slow', lsn: 0 },
      { stream: 'gone', lsn: 0 },
    ],
    10,
  );
  let isSettled = false;
  const settled = failing.then(
    () => assert.fail('the read succeeds'),
    () => (isSettled = true),
  );
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(isSettled, false, 'it waits for the stream that has not answered');
  const answerAll = (): void => {
    for (const answer of broker.answers.splice(0)) answer();
  };
  answerAll();
  await settled;
  const reading = log.read([{ stream: 'slow', lsn: 0 }], 10);
  await new Promise((resolve) => setImmediate(resolve));
  answerAll();
  const records = (await reading).get('slow');
  assert.deepEqual(
    records?.map(({ lsn }) => lsn),
    [1, 2],
  );
});
