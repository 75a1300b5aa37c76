import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Broker, BrokerMessage, PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import { decodeMessage, encodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { isFence } from '#product/shard-worker/journal/nats/nats-message.js';
import { PurgeSchedule } from '#product/shard-worker/journal/nats/purge-schedule.js';
import { StreamReader } from '#product/shard-worker/journal/nats/stream-reader.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { countOfRuns, seedOfRun } from '../../../../support/random-runs.js';

const STREAM = 'stream';
const FENCE = new Uint8Array(0);
const RECORDS_MAX = 64;
const SUBJECTS = 400;

function group(firstLsn: number, records: number): Uint8Array {
  const origin = { node: NODE_ID, shard: 0 };
  const record = incrementRecord('key', 1);
  return encodeMessage(
    Array.from({ length: records }, () => record),
    firstLsn,
    1,
    origin,
  );
}

/** One subject. Counts what is read of it. */
class Subject implements Pick<Broker, 'publish' | 'read' | 'last'> {
  messages: BrokerMessage[] = [];
  messagesRead = 0;
  #sequence = 7;

  constructor(data: readonly Uint8Array[] = []) {
    for (const each of data) this.add(each);
  }

  /** Messages of other subjects lie between. */
  add(data: Uint8Array, others = 2): number {
    this.#sequence += 1 + others;
    this.messages.push({ sequence: this.#sequence, data });
    return this.#sequence;
  }

  publish(_: string, data: Uint8Array, expected: number): Promise<PublishOutcome> {
    if (expected !== (this.messages.at(-1)?.sequence ?? 0)) return Promise.resolve({ kind: 'mismatch' });
    return Promise.resolve({ kind: 'published', sequence: this.add(data) });
  }

  read(_: string, from: number, most: number): Promise<readonly BrokerMessage[]> {
    const found = this.messages.filter(({ sequence }) => sequence >= from).slice(0, most);
    this.messagesRead += found.length;
    return Promise.resolve(found);
  }

  last(): Promise<BrokerMessage | undefined> {
    return Promise.resolve(this.messages.at(-1));
  }

  purge(before: number): void {
    this.messages = this.messages.filter(({ sequence }) => sequence >= before);
  }

  /** Up to where a reader that begins with the first message comes from `lsn`. */
  reachedFrom(lsn: number): number {
    let reached = lsn;
    for (const { data } of this.messages) {
      if (isFence(data)) continue;
      const { firstLsn, lastLsn } = decodeMessage(data);
      if (firstLsn > reached + 1) break;
      reached = Math.max(reached, lastLsn);
    }
    return reached;
  }

  get firstFence(): number | undefined {
    return this.messages.find(({ data }) => isFence(data))?.sequence;
  }
}

function readerOf(
  broker: Subject,
  lsn: number,
  ends: boolean,
  purges = new PurgeSchedule(0),
  clock = new ManualClock(),
): StreamReader {
  const unreadable = (): void => assert.fail('everything can be read');
  return new StreamReader(STREAM, lsn, ends, {
    broker,
    purges,
    clock,
    confirmAfterMs: 1000,
    unreadable,
    unfenced: () => undefined,
  });
}

async function lsnsOf(reader: StreamReader): Promise<readonly number[]> {
  return (await reader.read(RECORDS_MAX)).map(({ lsn }) => lsn);
}

describe('a reader of a stream in a broker', () => {
  test('a reader begins near the checkpoint, and the stream does not end before the rest is read', async () => {
    const subject = new Subject(Array.from({ length: 5000 }, (_, index) => group(index + 1, 1)));
    const reader = readerOf(subject, 4990, true);
    assert.deepEqual(await lsnsOf(reader), [4991, 4992, 4993, 4994, 4995, 4996, 4997, 4998, 4999, 5000]);
    assert.ok(subject.messagesRead < 300, `${subject.messagesRead} messages were read`);
    assert.ok(reader.isFenced);
    let reads = 1;
    for (; !reader.hasEnded; reads += 1) assert.deepEqual(await lsnsOf(reader), []);
    assert.ok(subject.messagesRead > 5000, `${subject.messagesRead} messages were read in ${reads} reads`);
  });

  test('nothing is purged while messages are left out, and never a fence', async () => {
    const subject = new Subject(Array.from({ length: 500 }, (_, index) => group(index + 1, 1)));
    const fence = subject.add(FENCE);
    for (let lsn = 501; lsn <= 1000; lsn += 1) subject.add(group(lsn, 1));
    const purges = new PurgeSchedule(0);
    const reader = readerOf(subject, 990, false, purges);
    assert.equal((await lsnsOf(reader)).length, 10);
    purges.noteCommitted({ epoch: 1, lsn: 1000 }, 0);
    assert.equal(purges.takeDue(1, { epoch: 1, lsn: 1000 }), undefined);
    for (let reads = 0; reads < 20; reads += 1) await reader.read(RECORDS_MAX);
    assert.deepEqual(purges.takeDue(2, { epoch: 1, lsn: 1000 }), { sequence: fence, lsn: undefined });
  });

  test('a record that lies before a copy near the checkpoint is found before the stream ends', async () => {
    const subject = new Subject(Array.from({ length: 100 }, (_, index) => group(index + 1, 1)));
    subject.add(group(101, 1));
    for (let copies = 0; copies < 100; copies += 1) subject.add(group(100, 1));
    const reader = readerOf(subject, 100, true);
    const found: number[] = [];
    while (!reader.hasEnded) found.push(...(await lsnsOf(reader)));
    assert.deepEqual(found, [101]);
  });

  test('a record that lies before a copy of one that it follows is not purged with it', async () => {
    const subject = new Subject(Array.from({ length: 101 }, (_, index) => group(index + 1, 1)));
    const following = subject.add(group(102, 1));
    for (let copies = 0; copies < 100; copies += 1) subject.add(group(100, 1));
    for (const lsn of [101, 103]) subject.add(group(lsn, 1));
    const purges = new PurgeSchedule(0);
    const reader = readerOf(subject, 100, false, purges);
    assert.deepEqual(await lsnsOf(reader), [101, 102, 103]);
    purges.noteCommitted({ epoch: 1, lsn: 101 }, 0);
    assert.ok((purges.takeDue(1, { epoch: 1, lsn: 1000 })?.sequence ?? 0) <= following);
  });

  test('wherever it begins, it reads what one from the first message reads, and purges nothing else', async (t) => {
    const first = seedOfRun();
    const subjects = countOfRuns(SUBJECTS);
    for (let seed = first; seed < first + subjects; seed += 1) await readRandomSubject(seed);
    t.diagnostic(`SEED=${first}, ${subjects} subjects`);
  });
});

/** A subject as a broker leaves it that stores copies of earlier messages, and messages behind fences. */
async function readRandomSubject(seed: number): Promise<void> {
  const random = new Mulberry32(seed);
  const subject = new Subject();
  const written: Uint8Array[] = [];
  let end = 0;
  const oddities = random.pick([0, 3, 20, 50]);
  const copiesOf = random.pick([5, 30, 1000]);
  for (let messages = random.below(400); messages >= 0; messages -= 1) {
    const records = 1 + random.below(3);
    const data = group(end + 1, records);
    written.push(data);
    end += records;
    subject.add(data, random.below(3));
    while (random.below(60) < oddities)
      subject.add(random.below(5) === 0 ? FENCE : random.pick(written.slice(-copiesOf)));
  }
  let committed = random.below(end + 1);
  purgeSome(subject, random, committed);
  const context = `SEED=${seed}`;
  const hadFence = subject.firstFence;
  const purges = new PurgeSchedule(0);
  const reader = readerOf(subject, committed, true, purges);
  for (let round = 0, read = committed; !reader.hasEnded || committed < end; round += 1) {
    assert.ok(round < 1000, `${context}: it does not end`);
    for (const lsn of await lsnsOf(reader)) assert.equal(lsn, (read += 1), context);
    committed += random.below(read - committed + 1);
    purges.noteCommitted({ epoch: 1, lsn: committed }, round);
    const due = purges.takeDue(round, { epoch: 1, lsn: committed })?.sequence;
    if (due !== undefined) subject.purge(due);
    assert.equal(subject.reachedFrom(committed), end, `${context}: a record is gone that is not committed`);
    if (hadFence !== undefined) assert.equal(subject.firstFence, hadFence, `${context}: the first fence is gone`);
  }
}

/** What an earlier owner has purged: nothing from the first fence on, and nothing that is not committed. */
function purgeSome(subject: Subject, random: Mulberry32, committed: number): void {
  const place = subject.messages.findIndex(({ data }) => isFence(data) || decodeMessage(data).lastLsn > committed);
  const before = subject.messages[random.below(Math.max(1, place))];
  if (before !== undefined) subject.purge(before.sequence);
}

describe('a reader of a broker that has lost its last messages', () => {
  test('begins again where its last message is gone, and reads what has its sequences', async () => {
    const subject = new Subject([group(1, 1), group(2, 1)]);
    const clock = new ManualClock();
    const reader = readerOf(subject, 0, false, new PurgeSchedule(0), clock);
    assert.deepEqual(await lsnsOf(reader), [1, 2]);
    // The writer has had no answer for the second one, and sends it again.
    const [first] = subject.messages;
    const lost = subject.messages[1]?.sequence ?? 0;
    subject.messages = [first ?? assert.fail()];
    for (const [index, lsn] of [2, 3, 4].entries())
      subject.messages.push({ sequence: lost - 2 + index, data: group(lsn, 1) });
    assert.deepEqual(await lsnsOf(reader), []);
    clock.suspend(1000);
    assert.deepEqual(await lsnsOf(reader), [3, 4]);
  });

  test('ends no stream where this thread slept since it read', async () => {
    const subject = new Subject([group(1, 1), group(2, 1)]);
    const clock = new ManualClock();
    const reader = readerOf(subject, 0, true, new PurgeSchedule(0), clock);
    const read = subject.read.bind(subject);
    subject.read = async (...args) => {
      const messages = await read(...args);
      Reflect.deleteProperty(subject, 'read');
      clock.suspend(1000);
      const lost = subject.messages.pop()?.sequence ?? 0;
      subject.messages.push({ sequence: lost - 1, data: group(2, 1) }, { sequence: lost, data: group(3, 1) });
      return messages;
    };
    assert.deepEqual(await lsnsOf(reader), [1, 2]);
    assert.equal(subject.firstFence, undefined);
    const found: number[] = [];
    for (let reads = 0; !reader.hasEnded && reads < 5; reads += 1) found.push(...(await lsnsOf(reader)));
    assert.deepEqual(found, [3]);
    assert.ok(reader.hasEnded);
  });

  test('ends the stream behind what is left', async () => {
    const subject = new Subject([group(1, 1), group(2, 1)]);
    const reader = readerOf(subject, 0, true);
    subject.publish = () => Promise.resolve({ kind: 'refused', error: new Error('full') });
    assert.deepEqual(await lsnsOf(reader), [1, 2]);
    subject.messages.pop();
    Reflect.deleteProperty(subject, 'publish');
    for (let reads = 0; !reader.hasEnded && reads < 5; reads += 1) assert.deepEqual(await lsnsOf(reader), []);
    assert.ok(reader.hasEnded);
    assert.equal(subject.messages.length, 2);
  });
});
