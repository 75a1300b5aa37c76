import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { Turns } from '#product/core/turns.js';
import { parseDatabaseUrl, type Session, type Statement } from '#product/db/connection.js';
import { KNOWN_STREAMS, MAKE_STREAM, SURVEY_STREAMS } from '#product/db/stream-statements.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { JournalError } from '#product/core/errors.js';
import type { Broker, BrokerMessage } from '#product/shard-worker/journal/nats/broker.js';
import { encodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { NatsJournal } from '#product/shard-worker/journal/nats/nats-journal.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';

const origin = { node: NODE_ID, shard: 0 };
const STORE = { id: randomUUID(), databaseId: randomUUID(), isAdopted: false };

function noRows(): unknown[] {
  return [];
}

/** A broker whose streams `slow` answers when it is told to, and whose other streams do not answer. */
class HalfBroker implements Broker {
  readonly #messages: readonly BrokerMessage[];
  readonly store = STORE;
  readonly address = '';
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

  connect(): Promise<void> {
    return Promise.resolve();
  }

  publish(): Promise<never> {
    return Promise.reject(new Error('nothing is published'));
  }

  last(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  purge: Broker['purge'] = () => Promise.resolve();

  subjects: ReadonlyMap<string, number> = new Map();

  streams(): Promise<ReadonlyMap<string, number>> {
    return Promise.resolve(this.subjects);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** `known`: what the database says of streams; `surveyed`: its rows of those that are open; `makes`: called with a stream whose row is made. */
function logOn(
  reads: Broker,
  clock = new ManualClock(),
  known: (streams: readonly string[]) => unknown[] = noRows,
  surveyed: () => unknown[] = noRows,
  makes: (stream: unknown) => void = () => undefined,
): NatsJournal {
  const session: Session = {
    lost: false,
    backend: { pid: 1, startedAt: '1' },
    query: <R>({ text, values }: Statement): Promise<R[]> => {
      if (text === MAKE_STREAM) makes(values?.[0]);
      const rows = text === KNOWN_STREAMS ? known(values?.[0] as string[]) : [];
      // The rows of a statement have the columns that it selects.
      return Promise.resolve((text === SURVEY_STREAMS ? surveyed() : rows) as R[]);
    },
    close: () => Promise.resolve(),
    destroy: () => undefined,
  };
  const connection = new ShardConnection(parseDatabaseUrl('postgresql://nobody@localhost/nothing'), {
    applicationName: 'test',
    connect: () => Promise.resolve(session),
  });
  return new NatsJournal({
    ...{ appends: reads, reads, statements: connection, flushes: connection, flushTurns: new Turns() },
    clock,
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

test('streams that ended lately keep no look from another one, however many they are', async () => {
  const names = Array.from(
    { length: 250 },
    (_, index) => `${index.toString(16).padStart(8, '0')}-0000-4000-8000-000000000000`,
  );
  const broker = new HalfBroker([]);
  broker.subjects = new Map(names.map((name) => [name, 1]));
  const clock = new ManualClock();
  const asked = new Set<string>();
  const log = logOn(broker, clock, (streams) => {
    for (const stream of streams) asked.add(stream);
    return streams.map((stream) => ({
      stream,
      epoch: '1',
      lsn: '1',
      retired: true,
      due: false,
      old: false,
      store: STORE.id,
    }));
  });
  for (let look = 0; look < 3; look += 1) {
    await log.survey();
    const before = asked.size;
    for (let turn = 0; turn < 1000 && asked.size === before; turn += 1)
      await new Promise((resolve) => setImmediate(resolve));
    clock.advance(10_000);
  }
  assert.equal(asked.size, names.length);
});

test('a stream that the database does not know is found by its first record, beside long ones that have ended', async () => {
  const [found, ended] = ['0', '1'].map((digit) => `${digit.repeat(8)}-0000-4000-8000-000000000000`) as [
    string,
    string,
  ];
  const broker = new HalfBroker([]);
  broker.subjects = new Map([found, ended].map((name) => [name, 1000]));
  const reads: string[] = [];
  broker.read = (stream, from, most) => {
    reads.push(stream);
    // One request each, as of a broker that is far away.
    const messages = Array.from({ length: Math.min(most, 1001 - from) }, (_, index) => ({
      sequence: from + index,
      data: encodeMessage([incrementRecord('a', from + index)], from + index, 0, origin),
      database: STORE.databaseId,
    }));
    return new Promise((resolve) => setImmediate(() => resolve(messages)));
  };
  const made: unknown[] = [];
  const known = (): unknown[] => [
    { stream: ended, epoch: '1', lsn: '1000', retired: true, due: true, old: false, store: STORE.id },
  ];
  const log = logOn(broker, new ManualClock(), known, noRows, (stream) => made.push(stream));
  await log.survey();
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(made, [found]);
  assert.equal(reads.filter((stream) => stream === found).length, 1);
  await log.close();
  assert.ok(reads.length < 40, `a look of ${reads.length} reads ends with the log`);
});

for (const isLost of [false, true]) {
  test(`committed records ${isLost ? 'stay where the broker has given their sequences again' : 'go'}`, async () => {
    const message = (lsn: number, sequence: number): BrokerMessage => ({
      sequence,
      data: encodeMessage([incrementRecord('a', lsn)], lsn, 0, origin),
    });
    let messages = [message(1, 4), message(2, 9)];
    const purged: number[] = [];
    const broker = new HalfBroker([]);
    broker.read = (_, from, most) =>
      Promise.resolve(messages.filter(({ sequence }) => sequence >= from).slice(0, most));
    broker.purge = (_, before) => {
      purged.push(before);
      return Promise.resolve();
    };
    const row = { stream: 'a', epoch: '1', lsn: '2', owner: null, node: '', shard: 0, silent_ms: null };
    const log = logOn(broker, new ManualClock(), noRows, () => [row]);
    await log.read([{ stream: 'a', lsn: 0 }], 10);
    log.committed('a', { epoch: 1, lsn: 2 });
    if (isLost) messages = [message(1, 4), message(2, 6), message(3, 7), message(4, 9)];
    await log.survey();
    await log.close();
    assert.deepEqual(purged, isLost ? [] : [9]);
  });
}
