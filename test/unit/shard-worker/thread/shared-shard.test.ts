import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError, JournalError } from '#product/core/errors.js';
import type { IncrementLog } from '#product/shard-worker/journal/postgres/postgres-journal.js';
import type { SharedLog, StreamFates } from '#product/shard-worker/journal/stream-log.js';
import { postgresWriter } from '#product/shard-worker/journal/postgres/postgres-transport.js';
import { makeStats, STAT, statsRow } from '#product/shard-worker/protocol/stats.js';
import type { ShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { Shard } from '#product/shard-worker/thread/shard.js';
import { ShardContext } from '#product/shard-worker/thread/shard-context.js';
import { JournalAvailability } from '#product/shard-worker/thread/streams/journal-availability.js';
import { LeftStreams } from '#product/shard-worker/thread/streams/left-streams.js';
import { WrittenStream } from '#product/shard-worker/thread/streams/written-stream.js';
import { incrementRecord } from '../../../support/journal-fixtures.js';
import { ManualClock } from '../../../support/manual-clock.js';
import { followingStreams } from '../../../support/following-streams.js';

/** The writing half of a shard, over a log that takes everything and that nobody flushes. */
class Ingest {
  /** Answers, or is unavailable. */
  #answer<T>(answer: () => T): Promise<T> {
    return this.isAvailable
      ? Promise.resolve(answer())
      : Promise.reject(new CounterError('database-unavailable', 'gone'));
  }

  readonly clock = new ManualClock();
  readonly stats = statsRow(makeStats(1), 0);
  /** The streams, with whether they are open. */
  readonly streams = new Map<string, { isOpen: boolean; checkpoint: number }>();
  isAvailable = true;
  heartbeats = 0;
  readonly incrementLog: IncrementLog & SharedLog;
  readonly context: ShardContext;
  readonly shard: Shard;

  /** `countedTo` says how far a stream that was left is counted; without it the writer knows. */
  constructor(countedTo?: StreamFates['countedTo']) {
    const log: Partial<Omit<IncrementLog, 'fates'> & SharedLog> = {
      fates: countedTo && { countedTo },
      groupBytesMax: Number.POSITIVE_INFINITY,
      flusher: undefined,
      isInDatabase: true,
      makeWriter: ({ stream, lsn }, deps) =>
        postgresWriter({ stream, lsn, appendEpoch: '1' }, log as IncrementLog, deps),
      begin: (stream) =>
        this.#answer(() => {
          this.streams.set(stream, { isOpen: true, checkpoint: 0 });
          return { stream, epoch: 1, lsn: 0, coveredFrom: 0, time: 100, isRegistered: true };
        }),
      append: (stream) =>
        Promise.resolve(
          !this.isAvailable
            ? { kind: 'refused', error: new Error('gone') }
            : { kind: this.streams.get(stream)?.isOpen === true ? 'appended' : 'fenced' },
        ),
      ask: (stream) =>
        this.#answer(() => {
          const row = this.streams.get(stream);
          return row?.isOpen === true ? { epoch: 1, lsn: row.checkpoint, time: 100 } : undefined;
        }),
      lastLsn: (stream) => this.#answer(() => this.streams.get(stream)?.checkpoint),
      sendHeartbeats: () => this.#answer(() => void (this.heartbeats += 1)),
      advanceAcceptedThrough: (stream) => this.#answer(() => this.streams.get(stream)?.isOpen === true),
      endHeartbeats: () => this.#answer(() => undefined),
      close: () => Promise.resolve(),
    };
    this.context = new ShardContext({
      database: { close: () => Promise.resolve() } as ShardDatabase,
      clock: this.clock,
      stats: this.stats,
      random: () => 0.5,
      flushIntervalMs: 1000,
      earlyFlush: { keysMax: 100, bytesMax: 1e6, recordBytesMax: 1e6 },
      ackTimeoutMs: 5000,
      tell: () => undefined,
      fail: (error) => {
        throw error;
      },
      log: () => undefined,
    });
    // The other methods are for those who flush.
    this.incrementLog = log as IncrementLog & SharedLog;
    const { context, incrementLog } = this;
    const deps = { role: 'ingest' as const, incrementLog, node: 'node', shard: 0, shards: 1 };
    this.shard = new Shard(context, followingStreams(context, deps));
  }

  /** The open stream. */
  get stream(): { isOpen: boolean; checkpoint: number } {
    const stream = [...this.streams.values()].find(({ isOpen }) => isOpen);
    assert.ok(stream !== undefined);
    return stream;
  }

  /** Settles with `promise`, while time passes. */
  async within<T>(promise: Promise<T>, ms: number): Promise<T> {
    let isSettled = false;
    const settle = (): void => void (isSettled = true);
    promise.then(settle, settle);
    for (let passed = 0; !isSettled && passed <= ms; passed += 50) {
      for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      if (!isSettled) this.clock.advance(50);
    }
    assert.ok(isSettled, `not settled within ${ms} ms`);
    return promise;
  }

  async pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 50) {
      for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      this.clock.advance(50);
    }
  }

  /** Appends and applies a record, as group commit does. Resolves to the code of the error, or to undefined. */
  async append(): Promise<string | undefined> {
    const group = [incrementRecord('a', 1)];
    try {
      this.shard.apply(group, await this.shard.append(group, this.shard.heardTime));
      return undefined;
    } catch (error) {
      assert.ok(error instanceof JournalError);
      return error.code;
    }
  }
}

test('a flush waits for those who flush, and gives up after half a minute', async () => {
  const ingest = new Ingest();
  await ingest.shard.start();
  assert.equal(await ingest.append(), undefined);
  const late = ingest.shard.flush();
  await assert.rejects(ingest.within(late, 31_000), (error: unknown) => {
    assert.ok(error instanceof CounterError);
    return error.code === 'roll-up-behind';
  });
  const inTime = ingest.shard.flush();
  ingest.stream.checkpoint = 1;
  assert.equal(await ingest.within(inTime, 1000), 0);
});

test('a batch of before the present stream is stale', async () => {
  const ingest = new Ingest();
  await ingest.shard.start();
  const generation = ingest.stats[STAT.generation] ?? 0;
  assert.equal(ingest.shard.isStale(generation), false);
  ingest.stream.isOpen = false;
  assert.equal(await ingest.append(), 'journal-fenced');
  assert.equal(ingest.stats[STAT.journalRefused], 1);
  assert.equal(await ingest.append(), 'journal-unavailable');
  await ingest.pass(2000);
  assert.equal(ingest.stats[STAT.journalRefused], 0);
  assert.equal(ingest.shard.isStale(generation), true);
  assert.equal(ingest.shard.isStale(ingest.stats[STAT.generation] ?? 0), false);
  assert.equal(await ingest.append(), undefined);
});

test('without the database the shard refuses, and it begins a stream when that answers', async () => {
  const ingest = new Ingest();
  ingest.isAvailable = false;
  await ingest.shard.start();
  assert.equal(ingest.shard.coversIdempotent(ingest.shard.heardTime), false);
  assert.equal(await ingest.append(), 'journal-unavailable');
  ingest.isAvailable = true;
  await ingest.pass(1000);
  assert.equal(await ingest.append(), undefined);
  ingest.isAvailable = false;
  assert.equal(await ingest.append(), 'journal-unavailable');
  assert.equal(ingest.stats[STAT.journalRefused], 1);
  ingest.isAvailable = true;
  await ingest.pass(1500);
  assert.equal(ingest.stats[STAT.journalRefused], 0);
});

test('a look at a stream that was left delays neither signs of life nor a stop', async () => {
  const fates: string[] = [];
  const ingest = new Ingest((stream) => {
    fates.push(stream);
    // As when the stream is long.
    return new Promise(() => undefined);
  });
  await ingest.shard.start();
  ingest.stream.isOpen = false;
  assert.equal(await ingest.append(), 'journal-fenced');
  await ingest.pass(2000);
  assert.equal(fates.length, 1);
  const before = ingest.heartbeats;
  await ingest.pass(10_000);
  assert.ok(ingest.heartbeats >= before + 3, String(ingest.heartbeats));
  assert.equal(fates.length, 1);
  assert.deepEqual(await ingest.within(ingest.shard.drain(), 5500), []);
});

test('what others flush counts as handed over, and its backlog follows the checkpoint', async () => {
  const ingest = new Ingest();
  await ingest.shard.start();
  assert.equal(await ingest.append(), undefined);
  await ingest.pass(1000);
  assert.equal(await ingest.append(), undefined);
  const at = (cell: number): number => ingest.stats[cell] ?? Number.NaN;
  assert.deepEqual([at(STAT.accepted), at(STAT.handedOver), at(STAT.pendingIncrements)], [2, 2, 0]);
  const bytes = at(STAT.journalBytes);
  assert.ok(bytes > 0);
  assert.equal(at(STAT.oldestPendingAtMs), 1000);
  ingest.stream.checkpoint = 1;
  await ingest.pass(2500);
  assert.equal(at(STAT.journalBytes), bytes / 2);
  ingest.stream.checkpoint = 2;
  await ingest.pass(2500);
  assert.deepEqual([at(STAT.journalBytes), at(STAT.oldestPendingAtMs)], [0, 0]);
});

test('no touch of a stream carries a time while a group is in the journal and not in the sums yet', async () => {
  const { context, incrementLog } = new Ingest();
  const left = new LeftStreams({ context, incrementLog, publish: () => undefined, changed: () => undefined });
  const nothing = (): void => undefined;
  const written = new WrittenStream({
    ...{ context, incrementLog, left, makeFlusher: undefined },
    intervals: { roundMs: 1000, heartbeatMs: 3000, askMs: 1000, wordMs: 60_000, rowWaitMs: 15_000 },
    availability: new JournalAvailability(context.deps, 'PostgreSQL'),
    ...{ unavailable: nothing, published: nothing, begun: nothing, ended: nothing },
  });
  await written.begin();
  assert.equal(written.touchTime, 100);
  const appending = written.append([incrementRecord('a', 1)], 100);
  assert.equal(written.touchTime, undefined);
  assert.equal(await appending, 1);
  assert.equal(written.touchTime, undefined);
  written.endAppend();
  assert.equal(written.touchTime, 100);
});
