import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { JournalError } from '#product/core/errors.js';
import { decodeQueueMessage } from '#product/shard-worker/journal/sqs/sqs-message.js';
import type { Queue, SendOutcome } from '#product/shard-worker/journal/sqs/queue.js';
import type { SharedStreamWriter } from '#product/shard-worker/journal/shared/shared-stream-writer.js';
import { sqsWriter } from '#product/shard-worker/journal/sqs/sqs-transport.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';

const STREAM = 'stream';
const HOUR_MS = 3_600_000;

/** What happens to a send. */
type Fate = 'sent' | 'refused' | 'throttled' | 'unknown' | 'an hour later';

interface Send {
  readonly id: string;
  readonly data: Uint8Array;
}

/** A queue whose answers a test decides. */
class ScriptedQueue implements Pick<Queue, 'send'> {
  readonly sends: Send[] = [];
  fates: Fate[] = [];
  /** Of what has no fate. */
  fate: Fate = 'sent';

  send(stream: string, id: string, data: Uint8Array): Promise<SendOutcome> {
    assert.equal(stream, STREAM);
    this.sends.push({ id, data });
    const fate = this.fates.shift() ?? this.fate;
    const error = new Error(fate);
    if (fate === 'an hour later') clock.suspend(HOUR_MS);
    if (fate === 'refused' || fate === 'throttled')
      return Promise.resolve({ kind: 'refused', error, isThrottled: fate === 'throttled' });
    return Promise.resolve(fate === 'unknown' ? { kind: 'unknown', error } : { kind: 'sent' });
  }
}

let queue: ScriptedQueue;
let clock: ManualClock;
let writer: SharedStreamWriter;
let complaints: number;

describe('the writer of a stream in SQS', () => {
  beforeEach(() => {
    queue = new ScriptedQueue();
    clock = new ManualClock();
    complaints = 0;
    writer = sqsWriter(
      { stream: STREAM, lsn: 1 },
      {
        queue,
        clock,
        origin: { node: NODE_ID, shard: 0 },
        doubtMaxMs: 4000,
        unavailable: () => (complaints += 1),
      },
    );
  });

  /** How a promise ends, while time passes. */
  async function ended<T>(promise: Promise<T>): Promise<T | string> {
    let end: T | string | undefined;
    promise.then(
      (value) => (end = value),
      (error: unknown) => (end = error instanceof JournalError ? error.code : String(error)),
    );
    for (let round = 0; round < 2000 && end === undefined; round += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      clock.advance(10);
    }
    return end ?? 'no end';
  }

  function append(...amounts: readonly number[]): Promise<number | string> {
    return ended(
      writer.append(
        amounts.map((amount) => incrementRecord('a', amount)),
        5,
      ),
    );
  }

  /** What the queue was sent: ids, first and last LSNs, and the LSNs that they name before them. */
  function sent(): readonly (readonly [string, number, number, number])[] {
    return queue.sends.map(({ id, data }) => {
      const { firstLsn, lastLsn, previousLsn } = decodeQueueMessage(data);
      return [id, firstLsn, lastLsn, previousLsn];
    });
  }

  describe('a message', () => {
    test('has the records of a group, an id of its own, and names the last acknowledged LSN', async () => {
      assert.equal(await append(1, 2, 3), 4);
      assert.equal(await append(4), 5);
      assert.deepEqual(sent(), [
        ['stream:2', 2, 4, 1],
        ['stream:5', 5, 5, 4],
      ]);
      assert.deepEqual([writer.endLsn, writer.lastTime, writer.bytes > 0], [5, 5, true]);
    });

    test('is not sent before the one under way is settled', async () => {
      queue.fates = ['unknown', 'unknown', 'unknown'];
      const first = writer.append([incrementRecord('a', 1)], 5);
      const second = writer.append([incrementRecord('a', 2)], 5);
      assert.deepEqual(await ended(Promise.all([first, second])), [2, 3]);
      assert.deepEqual(
        sent().map(([id]) => id),
        ['stream:2', 'stream:2', 'stream:2', 'stream:2', 'stream:3'],
      );
    });

    test('is sent again with the same bytes under the same id when no answer comes', async () => {
      queue.fates = ['unknown', 'refused', 'unknown'];
      assert.equal(await append(1), 2);
      assert.equal(queue.sends.length, 4);
      for (const { id, data } of queue.sends) assert.deepEqual({ id, data }, queue.sends[0]);
      assert.ok(complaints > 0 && !writer.isInDoubt);
    });

    test('keeps nothing when it is refused, and its LSN is not used again', async () => {
      queue.fates = ['refused', 'refused'];
      assert.equal(await append(1), 'journal-unavailable');
      assert.equal(await append(2), 'journal-unavailable');
      assert.equal(await append(3), 4);
      assert.deepEqual(sent().at(-1), ['stream:4', 4, 4, 1]);
    });

    test('is sent again when it is throttled, and is refused only after a while', async () => {
      queue.fates = ['throttled', 'throttled'];
      assert.equal(await append(1), 2);
      assert.equal(complaints, 0);
      queue.fate = 'throttled';
      assert.equal(await append(2), 'journal-unavailable');
      assert.equal(complaints, 1);
    });

    test('is not sent again when the pause between attempts ends too late', async () => {
      queue.fates = ['throttled'];
      const appended = ended(writer.append([incrementRecord('a', 1)], 5));
      await new Promise((resolve) => setImmediate(resolve));
      clock.advance(5000);
      assert.equal(await appended, 'journal-unavailable');
      assert.equal(queue.sends.length, 1);
    });

    test('has an unknown outcome once it was in doubt, even if later attempts are refused', async () => {
      queue.fates = ['unknown'];
      queue.fate = 'refused';
      assert.equal(await append(1), 'journal-failed');
    });
  });

  describe('burnt LSNs', () => {
    test('are those of a message in doubt for too long, and the next message names the last acknowledged LSN', async () => {
      assert.equal(await append(1), 2);
      queue.fate = 'unknown';
      assert.equal(await append(2, 3), 'journal-failed');
      assert.equal(await append(4), 'journal-failed');
      queue.fate = 'sent';
      assert.equal(await append(5), 6);
      assert.deepEqual(sent().at(-1), ['stream:6', 6, 6, 2]);
      assert.deepEqual([writer.isOver, writer.isInDoubt, writer.endLsn], [false, false, 6]);
    });

    test('are not acknowledged by a later answer', async () => {
      let answer: ((outcome: SendOutcome) => void) | undefined;
      const slow: Pick<Queue, 'send'> = {
        send: () => {
          if (answer !== undefined) return Promise.resolve({ kind: 'unknown', error: new Error('late') });
          return new Promise((resolve) => (answer = resolve));
        },
      };
      const { stream } = writer;
      const deps = { clock, origin: { node: NODE_ID, shard: 0 }, unavailable: () => undefined };
      const other = sqsWriter({ stream, lsn: 1 }, { ...deps, queue: slow, doubtMaxMs: 4000 });
      const appended = ended(other.append([incrementRecord('a', 1)], 5));
      await new Promise((resolve) => setImmediate(resolve));
      clock.advance(5000);
      answer?.({ kind: 'unknown', error: new Error('no answer') });
      assert.equal(await appended, 'journal-failed');
      assert.equal(other.endLsn, 1);
    });
  });

  describe('the end of a stream', () => {
    test('is a closing message after all others', async () => {
      assert.equal(await append(1), 2);
      assert.equal(await ended(writer.close()), true);
      const last = decodeQueueMessage(queue.sends.at(-1)?.data ?? new Uint8Array(0));
      assert.deepEqual([last.isClose, last.firstLsn, last.previousLsn], [true, 3, 2]);
      assert.equal(await append(2), 'journal-fenced');
      assert.equal(await ended(writer.close()), false);
    });

    test('is reported as not sent when the queue refuses the closing message', async () => {
      queue.fate = 'refused';
      assert.equal(await ended(writer.close()), false);
      assert.equal(writer.isOver, true);
    });

    test('comes when a message is under way for an hour, including suspension, whatever its answer', async () => {
      queue.fates = ['an hour later'];
      assert.equal(await append(1), 'journal-failed');
      assert.deepEqual([writer.isOver, writer.endLsn], [true, 1]);
      assert.match(writer.endedBecause, /an hour/);
      assert.equal(await append(2), 'journal-fenced');
    });

    test('comes without another attempt when the process sleeps for an hour between attempts', async () => {
      queue.fates = ['unknown'];
      const appended = ended(writer.append([incrementRecord('a', 1)], 5));
      await new Promise((resolve) => setImmediate(resolve));
      clock.suspend(HOUR_MS);
      assert.equal(await appended, 'journal-failed');
      assert.deepEqual([queue.sends.length, writer.isOver], [1, true]);
    });

    test('comes instead of a message when the process sleeps for two days with nothing under way', async () => {
      clock.suspend(47 * HOUR_MS);
      assert.equal(await ended(writer.beat(9)), 2);
      clock.suspend(48 * HOUR_MS);
      assert.equal(await ended(writer.beat(9)), 'journal-fenced');
      assert.deepEqual([queue.sends.length, writer.isOver], [1, true]);
    });
  });

  test('a heartbeat is due after half a day without a record, and not after a record', async () => {
    assert.equal(writer.isBeatDue(false), false);
    clock.suspend(12 * HOUR_MS);
    assert.equal(writer.isBeatDue(false), true);
    assert.equal(await ended(writer.beat(9)), 2);
    assert.deepEqual([writer.isBeatDue(false), writer.lastTime], [false, 9]);
  });
});
