import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import type { Checkpoint, Lsn } from '#product/core/checkpoint.js';
import { CounterError } from '#product/core/errors.js';
import { RECORD_HEADER_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import type { QueueLog, ReceivedRecords, ReceivedStream } from '#product/shard-worker/journal/stream-log.js';
import { Flusher, type FlusherDatabase } from '#product/shard-worker/thread/flush/flusher.js';
import type { FlushAttempt } from '#product/shard-worker/thread/flush/shard-database.js';
import type { PendingSums } from '#product/shard-worker/thread/pending-sums.js';
import { ReceivedStreams } from '#product/shard-worker/thread/streams/received-streams.js';
import { incrementRecord, NODE_ID } from '../../../../support/journal-fixtures.js';
import { ManualClock } from '../../../../support/manual-clock.js';

const STREAM = '33333333-2222-4333-8444-555555555555';

/** A queue and rows that a test writes, and what was done with them. */
class Bench {
  readonly clock = new ManualClock();
  row: { epoch: number; lsn: Lsn; isRetired: boolean } | undefined;
  next: readonly ReceivedRecords[] = [];
  readonly removed: string[] = [];
  readonly released: string[] = [];
  readonly held: string[] = [];
  readonly aside: Lsn[] = [];
  readonly lines: string[] = [];
  flushed = 0;
  isStuck = false;
  canRetire = true;
  /** Another thread takes the row between a commit and the retirement. */
  isTakenMeanwhile = false;
  /** The row is made between a look for it and the next statement. */
  getsRow = false;
  readonly streams: ReceivedStreams;

  constructor() {
    const queueLog: Pick<
      QueueLog,
      'receive' | 'takeReceived' | 'setAside' | 'extend' | 'release' | 'remove' | 'touch' | 'retire'
    > = {
      receive: () => Promise.resolve(this.next),
      takeReceived: ({ previousLsn }, lastLsn) => Promise.resolve(this.#take(previousLsn, lastLsn)),
      setAside: (messages, at) => {
        if (at === undefined ? this.row !== undefined || this.getsRow : !this.#isAt(at))
          return Promise.resolve(undefined);
        if (this.row !== undefined) this.row.isRetired = true;
        this.aside.push(...messages.map(({ lastLsn }) => lastLsn));
        return Promise.resolve(messages.length);
      },
      extend: (receipts) => Promise.resolve(void this.held.push(...receipts)),
      release: (receipts) => Promise.resolve(void this.released.push(...receipts)),
      remove: (receipts) => Promise.resolve(void this.removed.push(...receipts)),
      touch: (_, at) => Promise.resolve(this.#isAt(at) && this.row?.isRetired === false),
      retire: (_, at) => {
        if (!this.canRetire) return Promise.reject(new CounterError('database-unavailable', 'gone'));
        if (this.isTakenMeanwhile && this.row !== undefined) this.row.epoch += 1;
        const isAt = this.#isAt(at);
        if (isAt && this.row !== undefined) this.row.isRetired = true;
        return Promise.resolve(isAt);
      },
    };
    const log = (_level: string, _fields: unknown, message: string): void => void this.lines.push(message);
    const { clock } = this;
    const earlyFlush = { keysMax: 1000, bytesMax: 1e9, recordBytesMax: 1e9 };
    this.streams = new ReceivedStreams(queueLog as QueueLog, {
      context: {
        deps: { clock, log, flushIntervalMs: 1000, earlyFlush },
        reports: { isAvailable: true },
        fail: (error) => {
          throw error;
        },
      },
      isWrittenHere: () => false,
      isLeft: () => false,
      surveyed: () => undefined,
      makeFlusher: (pendingSums, fenced) => this.#makeFlusher(pendingSums, fenced),
      pending: () => ({ keys: 0, bytes: 0 }),
      changed: () => undefined,
      moved: () => undefined,
    });
  }

  /** Receives messages, and lets time pass until what they began has settled. */
  async receive(messages: readonly ReceivedRecords[], ms = 50): Promise<void> {
    this.next = messages;
    await this.streams.readOn();
    await this.pass(ms);
  }

  async pass(ms: number): Promise<void> {
    for (let past = 0; past < ms; past += 10) {
      for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      this.clock.advance(10);
    }
    for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  }

  #take(previousLsn: Lsn, lastLsn: Lsn): ReceivedStream {
    if (this.row === undefined) return { kind: 'unknown' };
    if (this.row.isRetired && this.row.lsn >= lastLsn) return { kind: 'ended', lsn: this.row.lsn };
    if (this.row.lsn < previousLsn) return { kind: 'blocked', at: { epoch: this.row.epoch, lsn: this.row.lsn } };
    const how = this.row.isRetired ? 'reopened' : 'open';
    this.row = { epoch: this.row.epoch + 1, lsn: this.row.lsn, isRetired: false };
    const { epoch, lsn } = this.row;
    return { kind: 'taken', how, stream: { stream: STREAM, epoch, lsn, coveredFrom: 0 } };
  }

  #isAt({ epoch, lsn }: Checkpoint): boolean {
    return this.row?.epoch === epoch && this.row.lsn === lsn;
  }

  #makeFlusher(pendingSums: PendingSums, fenced: () => Promise<void>): Flusher {
    const database: FlusherDatabase = {
      flush: ({ fromLsn, toLsn, epoch, sums }) => {
        if (this.isStuck) return new Promise(() => undefined);
        const attempt: FlushAttempt = { kind: 'fenced' };
        if (!this.#isAt({ epoch, lsn: fromLsn }) || this.row?.isRetired === true) return Promise.resolve(attempt);
        this.row = { epoch, lsn: toLsn, isRetired: false };
        this.flushed += sums.increments;
        return Promise.resolve({ kind: 'committed', keys: 1, duplicates: [], mismatches: 0 } as FlushAttempt);
      },
      flushSettingAside: () => Promise.reject(new Error('nothing is set aside')),
      readBack: () => Promise.resolve(undefined),
      look: () => Promise.resolve(),
      touch: (_, at) => Promise.resolve(this.#isAt(at) && this.row?.isRetired === false),
    };
    const options = {
      ...{ intervalMs: 1000, keysMax: 1000, bytesMax: 1e9, recordBytesMax: 1e9, touchIntervalMs: 15_000 },
      ...{ sync: () => undefined, touchTime: () => undefined, random: () => 0.5 },
    };
    return new Flusher(pendingSums, database, this.clock, options, {
      committed: ({ toLsn }) => {
        this.streams.committed(pendingSums.stream, { epoch: pendingSums.epoch, lsn: toLsn });
      },
      retried: () => undefined,
      confirmed: () => undefined,
      register: () => Promise.resolve(),
      fenced: async () => {
        await fenced();
        return 'over';
      },
      databaseAvailable: () => undefined,
      failed: (error) => {
        throw error;
      },
    });
  }
}

/** A message of one increment; one of long ago is flushed at once. */
function message(
  lsn: Lsn,
  previousLsn: Lsn,
  { acceptedAt = 0, ...over }: Partial<ReceivedRecords> & { readonly acceptedAt?: number } = {},
): ReceivedRecords {
  const entries = incrementRecord('a', 1).subarray(RECORD_HEADER_BYTES);
  return {
    ...{ stream: STREAM, receipt: `r${lsn}`, firstLsn: lsn, lastLsn: lsn, previousLsn, isClose: false },
    ...{ node: NODE_ID, shard: 0, records: [{ lsn, acceptedAt, databaseTime: 0, entries }] },
    ...over,
  };
}

let bench: Bench;

describe('received streams', () => {
  beforeEach(() => {
    bench = new Bench();
    bench.row = { epoch: 1, lsn: 0, isRetired: false };
  });

  describe('a message', () => {
    test('is deleted behind the commit of its records, not before', async () => {
      bench.isStuck = true;
      await bench.receive([message(1, 0), message(2, 1)]);
      assert.deepEqual([bench.flushed, bench.removed], [0, []]);
      await bench.streams.look();
      assert.deepEqual(bench.held, ['r1', 'r2'], 'it is held meanwhile');
    });

    test('that is committed is deleted, and counted once when it comes again', async () => {
      await bench.receive([message(1, 0), message(2, 1)]);
      assert.deepEqual([bench.flushed, bench.removed, bench.row?.lsn], [2, ['r1', 'r2'], 2]);
      await bench.receive([message(1, 0, { receipt: 'again' }), message(3, 2)]);
      assert.deepEqual([bench.flushed, bench.removed], [3, ['r1', 'r2', 'again', 'r3']]);
    });

    test('behind burnt LSNs is counted, and a late one of them is not', async () => {
      await bench.receive([message(1, 0), message(5, 1)]);
      await bench.receive([message(3, 1), message(6, 5)]);
      assert.deepEqual([bench.flushed, bench.row?.lsn, bench.removed], [3, 6, ['r1', 'r5', 'r3', 'r6']]);
    });

    test('whose predecessor is not counted stops its stream, and is set aside with what follows after half a minute', async () => {
      await bench.receive([message(1, 0), message(3, 2), message(4, 3)]);
      assert.deepEqual([bench.flushed, bench.removed, bench.released], [1, ['r1'], ['r3', 'r4']]);
      assert.deepEqual([bench.lines.length, bench.row?.isRetired], [0, false]);
      await bench.pass(31_000);
      await bench.receive([message(3, 2), message(4, 3)]);
      assert.match(bench.lines.at(-1) ?? '', /lacks records in SQS/);
      assert.equal(bench.row?.isRetired, true, 'its writer begins another stream');
      await bench.receive([message(5, 4)]);
      assert.deepEqual([bench.aside, bench.removed, bench.lines.length], [[3, 4, 5], ['r1', 'r3', 'r4', 'r5'], 1]);
      await bench.receive([message(2, 1)]);
      assert.deepEqual([bench.flushed, bench.row?.lsn], [2, 2], 'the missing one counts where it comes late');
    });

    test('that comes again before its commit is deleted by its new receipt', async () => {
      await bench.receive([message(1, 0, { acceptedAt: bench.clock.now() })]);
      assert.equal(bench.flushed, 0, 'it waits for the interval');
      await bench.receive([message(1, 0, { receipt: 'newer' })]);
      await bench.pass(1100);
      assert.deepEqual([bench.flushed, bench.removed], [1, ['newer']]);
    });
  });

  describe('a stream', () => {
    test('that another thread has taken is let go, and what this one held is received again', async () => {
      await bench.receive([message(1, 0)]);
      bench.isStuck = true;
      await bench.receive([message(2, 1, { acceptedAt: bench.clock.now() })]);
      bench.row = { epoch: 9, lsn: 1, isRetired: false };
      bench.isStuck = false;
      await bench.pass(1100);
      assert.deepEqual([bench.flushed, bench.released, bench.removed], [1, ['r2'], ['r1']]);
      await bench.receive([message(2, 1)]);
      assert.deepEqual([bench.flushed, bench.row.lsn, bench.removed], [2, 2, ['r1', 'r2']]);
    });

    test('that was taken and given back meanwhile is taken again before anything is added', async () => {
      await bench.receive([message(1, 0)]);
      bench.row = { epoch: 9, lsn: 4, isRetired: false };
      await bench.receive([message(4, 3), message(5, 4)]);
      assert.deepEqual(
        [bench.flushed, bench.row, bench.removed],
        [2, { epoch: 10, lsn: 5, isRetired: false }, ['r1', 'r4', 'r5']],
      );
    });

    test('is retired behind its last record, which is deleted after that', async () => {
      await bench.receive([message(1, 0), message(2, 1, { isClose: true })]);
      assert.deepEqual([bench.row?.isRetired, bench.removed], [true, ['r1', 'r2']]);
      assert.match(bench.lines.at(-1) ?? '', /Retired a stream/);
      await bench.receive([message(2, 1, { receipt: 'late copy', isClose: true })]);
      assert.deepEqual([bench.flushed, bench.removed.at(-1)], [2, 'late copy']);
      await bench.receive([message(3, 2)]);
      assert.deepEqual([bench.flushed, bench.row], [3, { epoch: 3, lsn: 3, isRetired: false }]);
      assert.match(bench.lines.at(-1) ?? '', /opened it again/);
    });

    test('that could not be retired behind its last record is retired when that comes again', async () => {
      bench.canRetire = false;
      await bench.receive([message(1, 0), message(2, 1, { isClose: true })]);
      assert.deepEqual([bench.row?.isRetired, bench.row?.lsn, bench.removed], [false, 2, []]);
      bench.canRetire = true;
      await bench.receive([message(1, 0), message(2, 1, { receipt: 'again', isClose: true })]);
      assert.deepEqual([bench.row?.isRetired, bench.flushed, bench.removed], [true, 2, ['r1', 'again']]);
    });

    test('whose row is taken before it could be retired keeps its last record in the queue, and is retired later', async () => {
      bench.isTakenMeanwhile = true;
      await bench.receive([message(1, 0), message(2, 1, { isClose: true })]);
      assert.deepEqual([bench.row?.isRetired, bench.removed, bench.released], [false, ['r1'], ['r2']]);
      bench.isTakenMeanwhile = false;
      await bench.receive([message(2, 1, { receipt: 'again', isClose: true })]);
      assert.deepEqual([bench.row?.isRetired, bench.flushed, bench.removed], [true, 2, ['r1', 'again']]);
    });

    test('that is retired below a missing record stays so', async () => {
      bench.row = { epoch: 4, lsn: 5, isRetired: true };
      await bench.receive([message(8, 7)]);
      assert.deepEqual([bench.row, bench.released, bench.flushed], [{ epoch: 4, lsn: 5, isRetired: true }, ['r8'], 0]);
      await bench.pass(31_000);
      await bench.receive([message(8, 7)]);
      assert.match(bench.lines.at(-1) ?? '', /lacks records in SQS/);
      assert.deepEqual([bench.row, bench.aside], [{ epoch: 4, lsn: 5, isRetired: true }, [8]]);
    });

    test('without a row that does not begin at its first record is put aside when it comes again', async () => {
      bench.row = undefined;
      await bench.receive([message(4, 3), message(5, 4)]);
      assert.deepEqual([bench.aside, bench.released], [[], ['r4', 'r5']], 'another thread may make the row now');
      await bench.pass(5_000);
      await bench.receive([message(4, 3), message(5, 4)]);
      assert.deepEqual([bench.aside, bench.removed, bench.flushed], [[4, 5], ['r4', 'r5'], 0]);
    });

    test('that gets its row just before it would be put aside stays in the queue, and is counted', async () => {
      bench.row = undefined;
      await bench.receive([message(2, 1)]);
      await bench.pass(5_000);
      bench.getsRow = true;
      await bench.receive([message(2, 1)]);
      assert.deepEqual([bench.aside, bench.removed, bench.released], [[], [], ['r2', 'r2']]);
      bench.row = { epoch: 1, lsn: 1, isRetired: false };
      await bench.receive([message(2, 1)]);
      assert.deepEqual([bench.flushed, bench.row.lsn, bench.removed], [1, 2, ['r2']]);
    });

    test('without messages is let go after five seconds, and taken again with the next one', async () => {
      await bench.receive([message(1, 0)]);
      assert.equal(bench.streams.streams.length, 1);
      await bench.pass(5_000);
      await bench.streams.look();
      assert.equal(bench.streams.streams.length, 0);
      await bench.receive([message(2, 1)]);
      assert.deepEqual([bench.flushed, bench.row?.epoch], [2, 3]);
    });
  });
});
