import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import type { Broker, BrokerMessage, PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import { encodeMessage } from '#product/shard-worker/journal/shared/message-format.js';
import { natsWriter, sendOpeningRecord } from '#product/shard-worker/journal/nats/nats-transport.js';
import type { SharedStreamWriter } from '#product/shard-worker/journal/shared/shared-stream-writer.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';

const STREAM = 'stream';
const FENCE = new Uint8Array(0);
const origin = { node: NODE_ID, shard: 0 };

/** What happens to a publish. */
type Fate =
  | 'stored'
  /** It is stored, and the answer is lost. */
  | 'answer lost'
  /** Neither stored nor answered. */
  | 'lost'
  | 'refused'
  /** Not sent: the connection had to be opened. */
  | 'reconnected'
  /** Answered as a mismatch, and stored: as while an earlier copy is in process. */
  | 'in process';

/** One subject, which keeps to the expectations of what is published. */
class ScriptedBroker implements Pick<Broker, 'publish' | 'read'> {
  readonly messages: BrokerMessage[] = [];
  readonly published: { readonly data: Uint8Array; readonly expected: number }[] = [];
  fates: Fate[] = [];
  isReadable = true;
  /** Reads see so many messages fewer. */
  behind = 0;
  #sequence = 10;

  /** Somebody else's message. */
  add(data: Uint8Array): number {
    this.#sequence += 3;
    this.messages.push({ sequence: this.#sequence, data });
    return this.#sequence;
  }

  publish(_: string, data: Uint8Array, expected: number): Promise<PublishOutcome> {
    this.published.push({ data, expected });
    const fate = this.fates.shift() ?? 'stored';
    if (fate === 'reconnected') return Promise.resolve({ kind: 'reconnected' });
    const error = new Error(fate);
    if (fate === 'refused') return Promise.resolve({ kind: 'refused', error });
    if (fate === 'lost') return Promise.resolve({ kind: 'unknown', error });
    if (expected !== (this.messages.at(-1)?.sequence ?? 0)) return Promise.resolve({ kind: 'mismatch' });
    const sequence = this.add(data);
    if (fate === 'answer lost') return Promise.resolve({ kind: 'unknown', error });
    return Promise.resolve(fate === 'in process' ? { kind: 'mismatch' } : { kind: 'published', sequence });
  }

  read(_: string, from: number, most: number): Promise<readonly BrokerMessage[]> {
    if (!this.isReadable) return Promise.reject(new JournalError('journal-unavailable', 'gone'));
    const seen = this.messages.slice(0, this.messages.length - this.behind);
    return Promise.resolve(seen.filter(({ sequence }) => sequence >= from).slice(0, most));
  }
}

let broker: ScriptedBroker;
let clock: ManualClock;
let writer: SharedStreamWriter;
let complaints: number;

function makeWriter({ confirmAfterMs = 1000, doubtMaxMs = 4000 } = {}): SharedStreamWriter {
  const opening = broker.add(encodeMessage([incrementRecord('opening', 0)], 1, 0, origin));
  const end = { stream: STREAM, lsn: 1, sequence: opening, confirmedAt: clock.monotonic() };
  return natsWriter(end, {
    broker,
    clock,
    origin,
    confirmAfterMs,
    doubtMaxMs,
    stored: () => undefined,
    unavailable: () => (complaints += 1),
  });
}

describe('the writer of a stream in NATS', () => {
  beforeEach(() => {
    broker = new ScriptedBroker();
    clock = new ManualClock();
    complaints = 0;
    writer = makeWriter();
  });

  /** How an append of `amount` ends, while time passes. */
  async function append(amount: number): Promise<number | string> {
    let end: number | string | undefined;
    writer.append([incrementRecord('a', amount)], 5).then(
      (lsn) => (end = lsn),
      (error: unknown) => (end = error instanceof JournalError ? error.code : String(error)),
    );
    for (let round = 0; round < 2000 && end === undefined; round += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      clock.advance(10);
    }
    return end ?? 'no end';
  }

  function message(amount: number, lsn: number): Uint8Array {
    return encodeMessage([incrementRecord('a', amount)], lsn, 5, origin);
  }

  describe('a publish', () => {
    test('expects the sequence of the last acknowledged record', async () => {
      assert.equal(await append(1), 2);
      assert.equal(await append(2), 3);
      const [opening, first] = broker.messages;
      assert.deepEqual(
        broker.published.map(({ expected }) => expected),
        [opening?.sequence, first?.sequence],
      );
    });

    test('keeps nothing when it is refused and was never in doubt, and the next one gets its LSN', async () => {
      broker.fates = ['refused'];
      assert.equal(await append(1), 'journal-unavailable');
      assert.equal(complaints, 1);
      assert.equal(await append(2), 2);
    });

    test('is sent again with the same bytes and the same expectation when no answer comes', async () => {
      broker.fates = ['lost', 'lost', 'stored'];
      assert.equal(await append(1), 2);
      const [first, ...others] = broker.published;
      assert.equal(others.length, 2);
      for (const other of others) assert.deepEqual(other, first);
    });

    test('is sent again when no answer comes, even if each pause is long enough to require another read', async () => {
      writer = makeWriter({ confirmAfterMs: 20 });
      broker.fates = ['lost', 'lost', 'lost', 'stored'];
      assert.equal(await append(1), 2);
      assert.equal(broker.published.length, 4);
    });

    test('is sent after a read when the connection had to be reopened', async () => {
      assert.equal(await append(1), 2);
      broker.fates = ['reconnected'];
      const [opening, first] = broker.messages;
      assert.equal(await append(2), 3);
      const expected = [opening, first, first].map((each) => each?.sequence);
      assert.deepEqual(
        broker.published.map((each) => each.expected),
        expected,
      );
      broker.fates = ['reconnected'];
      broker.add(FENCE);
      assert.equal(await append(3), 'journal-fenced');
    });

    test('is found by its LSN when its answer is lost, and is stored once', async () => {
      broker.fates = ['answer lost'];
      assert.equal(await append(1), 2);
      assert.equal(broker.messages.length, 2);
      assert.equal(await append(2), 3);
    });

    test('is found by a read when the broker stores it but answers with a mismatch', async () => {
      broker.fates = ['in process'];
      assert.equal(await append(1), 2);
      assert.equal(broker.messages.length, 2);
    });

    test('is sent again when a read does not find it yet', async () => {
      broker.fates = ['answer lost'];
      broker.behind = 1;
      const appended = append(1);
      for (let round = 0; round < 20; round += 1) await new Promise((resolve) => setImmediate(resolve));
      broker.behind = 0;
      assert.equal(await appended, 2);
      assert.equal(broker.messages.length, 2);
    });

    test('is read again when a read lacks even the last acknowledged record', async () => {
      assert.equal(await append(1), 2);
      broker.fates = ['answer lost'];
      broker.behind = 2;
      const read = broker.read.bind(broker);
      let reads = 0;
      broker.read = (...args) => {
        reads += 1;
        if (reads > 2) broker.behind = 0;
        return read(...args);
      };
      assert.equal(await append(2), 3);
      assert.ok(!writer.isOver);
      assert.equal(writer.lostAfterLsn, undefined);
    });

    test('expects the sequence of a late copy of an earlier record', async () => {
      assert.equal(await append(1), 2);
      const copy = broker.add(message(1, 2));
      assert.equal(await append(2), 3);
      assert.equal(broker.published.at(-1)?.expected, copy);
    });
  });

  describe('the writer stops for good', () => {
    test('after a fence, and acknowledges a record that was stored before it', async () => {
      broker.fates = ['answer lost'];
      const appended = append(1);
      await new Promise((resolve) => setImmediate(resolve));
      broker.add(FENCE);
      assert.equal(await appended, 2);
      assert.ok(writer.isOver);
      assert.equal(await append(2), 'journal-fenced');
    });

    test('after a fence, with an unknown outcome for a record that is not found, because a late copy may follow', async () => {
      broker.add(FENCE);
      assert.equal(await append(1), 'journal-failed');
      assert.ok(writer.isOver);
      assert.match(writer.endedBecause, /another server has fenced it/);
    });

    test('after a fence that a copy of an earlier record follows', async () => {
      assert.equal(await append(1), 2);
      broker.add(FENCE);
      broker.add(message(1, 2));
      assert.equal(await append(2), 'journal-failed');
      assert.ok(writer.isOver);
    });

    test('when the last acknowledged record is gone', async () => {
      assert.equal(await append(1), 2);
      broker.messages.length = 0;
      assert.equal(await append(2), 'journal-failed');
      assert.ok(writer.isOver);
      assert.equal(broker.messages.length, 0, 'nothing is appended behind the gap');
      assert.equal(writer.lostAfterLsn, 0);
    });

    test('when a record of another writer has the next LSN', async () => {
      broker.add(message(7, 2));
      assert.equal(await append(1), 'journal-failed');
      assert.match(writer.endedBecause, /did not write/);
    });

    test('when a group is in doubt for too long', async () => {
      broker.fates = Array.from({ length: 1000 }, () => 'lost' as const);
      assert.equal(await append(1), 'journal-failed');
      assert.match(writer.endedBecause, /in doubt for too long/);
      assert.equal(await append(2), 'journal-fenced');
    });

    test('when a group is in doubt and the broker cannot be read', async () => {
      broker.fates = ['answer lost'];
      broker.isReadable = false;
      assert.equal(await append(1), 'journal-failed');
      assert.ok(writer.isOver);
    });

    test('with a fence of its own, which expects its last record', async () => {
      assert.equal(await append(1), 2);
      assert.ok(await writer.close());
      assert.equal(broker.messages.at(-1)?.data.length, 0);
      assert.equal(await append(2), 'journal-fenced');
      assert.ok(!(await writer.close()), 'a stream has one end');
    });
  });

  test('a heartbeat follows the group under way', async () => {
    const group = writer.append([incrementRecord('a', 1)], 5);
    const beat = writer.beat(6);
    assert.deepEqual(await Promise.all([group, beat]), [2, 3]);
    assert.equal(writer.lastTime, 6);
    assert.deepEqual(writer.incrementsAfter(1), { pending: 1, flushed: 0 });
    writer.noteCheckpoint(3);
    assert.equal(writer.bytes, 0);
  });

  test('an opening record is found when its answer was lost, and comes too late after a fence', async () => {
    const opening = message(0, 1);
    broker = new ScriptedBroker();
    broker.fates = ['answer lost'];
    await assert.rejects(sendOpeningRecord(broker, STREAM, opening), /accepts no records/);
    const sequence = await sendOpeningRecord(broker, STREAM, opening);
    assert.equal(sequence, broker.messages[0]?.sequence);
    broker.add(FENCE);
    assert.equal(await sendOpeningRecord(broker, STREAM, opening), 'over');
  });

  describe('a broker that may have lost its last messages', () => {
    /** Later messages get the sequences of those that are lost. */
    function loseLast(): number {
      return broker.messages.pop()?.sequence ?? assert.fail('there is a message');
    }

    /** The thread reads an answer a second late, and a fence has got the sequence of the last record meanwhile. */
    function sleepOver<T>(answer: T): T {
      clock.suspend(1000);
      broker.messages.push({ sequence: loseLast(), data: FENCE });
      return answer;
    }

    test('gets no more records when a fence has the sequence of the last record', async () => {
      assert.equal(await append(1), 2);
      assert.equal(await append(2), 3);
      const sequence = loseLast();
      broker.messages.push({ sequence, data: FENCE });
      clock.suspend(1000);
      assert.equal(await append(3), 'journal-fenced');
      assert.ok(writer.isOver);
      assert.equal(broker.messages.at(-1)?.data.length, 0, 'nothing is behind the fence');
    });

    test('gets no more records when another record has the sequence of the last one', async () => {
      for (const amount of [1, 2, 3]) await append(amount);
      loseLast();
      const sequence = loseLast();
      loseLast();
      broker.messages.push({ sequence: sequence + 3, data: message(1, 2) });
      clock.suspend(1000);
      assert.equal(await append(4), 'journal-fenced');
      assert.equal(writer.lostAfterLsn, 0);
      assert.equal(broker.messages.length, 2);
    });

    test('gets no more records even if there is no time for all reads', async () => {
      writer = makeWriter({ doubtMaxMs: 80 });
      broker.messages.length = 0;
      clock.suspend(1000);
      assert.equal(await append(1), 'journal-fenced');
      assert.ok(writer.isOver);
    });

    test('is read by the first append after a failed one', async () => {
      assert.equal(await append(1), 2);
      broker.fates = ['refused'];
      assert.equal(await append(2), 'journal-unavailable');
      broker.messages.push({ sequence: loseLast(), data: FENCE });
      assert.equal(await append(2), 'journal-fenced');
    });

    test('is read again when the thread slept between its read and the next attempt', async () => {
      assert.equal(await append(1), 2);
      broker.fates = ['lost'];
      const read = broker.read.bind(broker);
      broker.read = async (...args) => {
        broker.read = read;
        return sleepOver(await read(...args));
      };
      assert.equal(await append(2), 'journal-failed');
      assert.ok(writer.isOver);
      assert.equal(broker.messages.at(-1)?.data.length, 0, 'nothing is behind the fence');
    });

    test('is read first when the thread slept before it handled the last answer', async () => {
      const publish = broker.publish.bind(broker);
      broker.publish = async (...args) => {
        broker.publish = publish;
        return sleepOver(await publish(...args));
      };
      assert.equal(await append(1), 2);
      assert.equal(await append(2), 'journal-fenced');
      assert.equal(broker.messages.at(-1)?.data.length, 0, 'nothing is behind the fence');
    });

    test('gets no records while each read takes a second', async () => {
      assert.equal(await append(1), 2);
      clock.advance(1000);
      const read = broker.read.bind(broker);
      broker.read = (...args) => {
        clock.advance(1000);
        return read(...args);
      };
      assert.equal(await append(2), 'journal-unavailable');
      assert.equal(complaints, 1);
      assert.equal(broker.published.length, 1);
      assert.ok(!writer.isOver);
      broker.read = read;
      assert.equal(await append(2), 3);
    });

    test('is read before an append only when the last answer is a second old', async () => {
      let reads = 0;
      const read = broker.read.bind(broker);
      broker.read = (...args) => {
        reads += 1;
        return read(...args);
      };
      assert.equal(await append(1), 2);
      clock.advance(900);
      assert.equal(await append(2), 3);
      assert.equal(reads, 0);
      clock.advance(1000);
      assert.equal(await append(3), 4);
      assert.equal(reads, 1);
      broker.isReadable = false;
      clock.advance(1000);
      assert.equal(await append(4), 'journal-unavailable');
      broker.isReadable = true;
      assert.equal(await append(4), 5);
    });
  });
});
