/** When the flush loop flushes, and when it touches the row of its stream. Times are virtual. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Checkpoint, DatabaseTime } from '#product/core/checkpoint.js';
import { CounterError, JournalError } from '#product/core/errors.js';
import { Flusher, type FlusherOptions } from '#product/shard-worker/thread/flush/flusher.js';
import type { FlushAttempt } from '#product/shard-worker/thread/flush/shard-database.js';
import { PendingSums, type TakenCheckpoint } from '#product/shard-worker/thread/pending-sums.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { incrementEntries } from '../../../../support/record-entries.js';

const TOUCH_INTERVAL_MS = 15_000;
/** Every wait of the loop is at least this part of its interval, and at most the interval. */
const JITTER = 0.9;
const ROW: TakenCheckpoint = { epoch: 1, lsn: 0, coveredFrom: 0 };

/** A flush loop over pending sums, with a database that a test can make unavailable, and a record of its calls. */
class Scene {
  readonly clock = new ManualClock();
  readonly pendingSums: PendingSums;
  readonly flusher: Flusher;
  /** When flushes and touches began. */
  readonly flushes: number[] = [];
  readonly touches: { readonly at: number; readonly time: DatabaseTime | undefined }[] = [];
  /** When it was only looked whether the database answers. */
  readonly looks: number[] = [];
  /** Rows that the loop found elsewhere, and what the stream's owner makes of that. */
  readonly fencedRows: (Checkpoint | undefined)[] = [];
  fenced: (row: Checkpoint | undefined) => 'over' | 'same' | 'committed' = () => 'over';
  /** What the loop reported as committed. */
  readonly committed: { readonly toLsn: number; readonly keys: number }[] = [];
  readonly failures: unknown[] = [];
  /** Attempts that did not commit and were repeated. */
  retries = 0;
  /** Attempts to take the row of a stream that has none, and how they fail. */
  registrations = 0;
  registrationError: Error | undefined;
  /** Availability of the database, as the loop reported it. */
  readonly availability: boolean[] = [];
  isUnavailable = false;
  /** The row is not where the stream's owner left it. */
  isMoved = false;
  isRefused = false;
  flushMs = 0;
  /** The time of the database that the directory has noted. */
  time: DatabaseTime | undefined = 1000;

  constructor(options: Partial<FlusherOptions> = {}, row: TakenCheckpoint | 'none' = ROW) {
    this.pendingSums = new PendingSums('stream', row === 'none' ? undefined : row);
    const database = {
      flush: () => this.#flush(),
      flushSettingAside: () => this.#flush(),
      readBack: () => Promise.resolve({ ...this.pendingSums.checkpoint, coveredFrom: 0, isOver: false }),
      touch: (_stream: string, _at: Checkpoint, time: DatabaseTime | undefined) => this.#touch(time),
      look: () => this.#look(),
    };
    this.flusher = new Flusher(
      this.pendingSums,
      database,
      this.clock,
      {
        intervalMs: 1000,
        keysMax: 1000,
        bytesMax: Number.POSITIVE_INFINITY,
        recordBytesMax: Number.POSITIVE_INFINITY,
        sync: () => undefined,
        touchTime: () => this.time,
        touchIntervalMs: TOUCH_INTERVAL_MS,
        random: () => 0.5,
        ...options,
      },
      {
        committed: ({ toLsn }, { keys }) => this.committed.push({ toLsn, keys }),
        retried: () => (this.retries += 1),
        confirmed: () => undefined,
        register: () => this.#register(),
        fenced: (row) => {
          this.fencedRows.push(row);
          return Promise.resolve(this.fenced(row));
        },
        databaseAvailable: (available) => this.availability.push(available),
        failed: (error) => this.failures.push(error),
      },
    );
  }

  /** Applies a record of one increment. */
  apply(key: string): void {
    const entries = incrementEntries([[key, 1]]);
    this.pendingSums.apply(this.pendingSums.appliedLsn + 1, entries, 0, entries.length, 0);
    this.flusher.noticeApplied();
  }

  /** Lets time pass, with everything that is due. */
  async pass(ms: number): Promise<void> {
    const until = this.clock.monotonic() + ms;
    while (this.clock.monotonic() < until) {
      this.clock.advance(Math.min(50, until - this.clock.monotonic()));
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #flush(): Promise<FlushAttempt> {
    this.flushes.push(this.clock.monotonic());
    if (this.isUnavailable) return Promise.resolve({ kind: 'unreachable', error: unavailable() });
    if (this.isMoved) return Promise.resolve({ kind: 'fenced' });
    if (this.isRefused) return Promise.resolve({ kind: 'refused', error: new Error('refused') });
    return new Promise((resolve) => this.clock.schedule(this.flushMs, () => resolve({ kind: 'committed', keys: 1 })));
  }

  #touch(time: DatabaseTime | undefined): Promise<boolean> {
    this.touches.push({ at: this.clock.monotonic(), time });
    return this.isUnavailable ? Promise.reject(unavailable()) : Promise.resolve(!this.isMoved);
  }

  #look(): Promise<void> {
    this.looks.push(this.clock.monotonic());
    return this.isUnavailable ? Promise.reject(unavailable()) : Promise.resolve();
  }

  #register(): Promise<void> {
    this.registrations += 1;
    if (this.isUnavailable) return Promise.reject(unavailable());
    if (this.registrationError !== undefined) return Promise.reject(this.registrationError);
    this.pendingSums.take(ROW);
    return Promise.resolve();
  }
}

function unavailable(): CounterError {
  return new CounterError('database-unavailable', 'unavailable');
}

test('an increment is flushed at most one interval later, and not before its interval is over', async () => {
  const intervalMs = 20_000;
  const scene = new Scene({ intervalMs });
  scene.flusher.start();
  // Longer than the touch interval: a touch must not make a flush early.
  await scene.pass(12_000);
  scene.apply('a');
  await scene.pass(intervalMs);
  assert.equal(scene.flushes.length, 1);
  const [first = 0] = scene.flushes;
  assert.ok(first >= JITTER * intervalMs && first <= intervalMs, `${first} ms`);
  scene.apply('b');
  await scene.pass(intervalMs);
  const [, second = 0] = scene.flushes;
  assert.ok(second >= first + JITTER * intervalMs && second <= first + intervalMs, `${second} ms`);
});

test('an interval begins with a flush: increments that arrive during a flush are flushed one interval after its begin', async () => {
  const scene = new Scene({ intervalMs: 1000 });
  scene.flushMs = 800;
  scene.flusher.start();
  scene.apply('a');
  await scene.pass(1000);
  scene.apply('b');
  await scene.pass(1000);
  const [first = 0, second = 0] = scene.flushes;
  assert.ok(second - first >= 900 && second - first <= 1050, `${second - first} ms`);
});

test('many keys that arrive during a flush are flushed at once, without a further record', async () => {
  const scene = new Scene({ intervalMs: 3_600_000, keysMax: 2 });
  scene.flushMs = 500;
  scene.flusher.start();
  for (const key of ['a', 'b']) scene.apply(key);
  await scene.pass(100);
  for (const key of ['c', 'd']) scene.apply(key);
  await scene.pass(1000);
  assert.equal(scene.flushes.length, 2);
});

test('an idle stream advances accepted_through every touch interval, however long the flush interval is', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  await scene.pass(60_000);
  assert.ok(scene.touches.length >= 4, `${scene.touches.length} touches`);
  assert.deepEqual([...new Set(scene.touches.map(({ time }) => time))], [1000]);
  assert.deepEqual([scene.flushes, scene.looks], [[], []]);
});

test('where no time is noted, or none is due, an idle stream only looks at its row', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.time = undefined;
  await scene.pass(TOUCH_INTERVAL_MS);
  scene.time = 2000;
  await scene.pass(TOUCH_INTERVAL_MS);
  assert.deepEqual(
    scene.touches.map(({ time }) => time),
    [undefined, 2000],
  );
});

test('a stream with pending increments touches its row, too, and does not advance accepted_through', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.apply('a');
  await scene.pass(TOUCH_INTERVAL_MS);
  assert.deepEqual(
    scene.touches.map(({ time }) => time),
    [undefined],
  );
  assert.deepEqual(scene.flushes, []);
  scene.isMoved = true;
  await scene.pass(TOUCH_INTERVAL_MS);
  assert.equal(scene.fencedRows.length, 1);
});

test('an idle stream whose row went back is fenced within a touch interval', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.isMoved = true;
  await scene.pass(TOUCH_INTERVAL_MS);
  assert.equal(scene.fencedRows.length, 1);
  await scene.pass(2 * TOUCH_INTERVAL_MS);
  assert.equal(scene.fencedRows.length, 1, 'the loop has ended');
});

test('a stream that was taken again goes on: with the same range where that is not committed', async () => {
  const scene = new Scene({ intervalMs: 1000 });
  scene.flusher.start();
  scene.apply('a');
  scene.isMoved = true;
  scene.fenced = () => {
    scene.isMoved = false;
    return scene.pendingSums.take({ ...ROW, epoch: 2 }) === 'same' ? 'same' : 'over';
  };
  await scene.pass(5000);
  assert.deepEqual(scene.fencedRows, [{ epoch: 1, lsn: 0, coveredFrom: 0, isOver: false }]);
  assert.equal(scene.flushes.length, 2);
  assert.equal(scene.retries, 1);
  assert.deepEqual(scene.pendingSums.checkpoint, { epoch: 2, lsn: 1 });
  assert.deepEqual(scene.committed, [{ toLsn: 1, keys: 1 }]);
});

test('a range of a stream that was taken again is sent again at once, however long the flush interval is', async () => {
  const scene = new Scene({ intervalMs: 3_600_000, keysMax: 2 });
  scene.flusher.start();
  scene.isMoved = true;
  scene.fenced = () => {
    scene.isMoved = false;
    return scene.pendingSums.take({ ...ROW, epoch: 2 }) === 'same' ? 'same' : 'over';
  };
  for (const key of ['a', 'b']) scene.apply(key);
  await scene.pass(200);
  assert.deepEqual(scene.pendingSums.checkpoint, { epoch: 2, lsn: 2 });
});

test('a stream that was taken again goes on: without sending a range that is committed', async () => {
  const scene = new Scene({ intervalMs: 1000 });
  scene.flusher.start();
  scene.apply('a');
  scene.isMoved = true;
  scene.fenced = () => {
    scene.isMoved = false;
    return scene.pendingSums.take({ ...ROW, epoch: 2, lsn: 1 }) === 'committed' ? 'committed' : 'over';
  };
  await scene.pass(5000);
  assert.equal(scene.flushes.length, 1);
  assert.deepEqual(scene.committed, [{ toLsn: 1, keys: 1 }]);
  assert.deepEqual(scene.pendingSums.checkpoint, { epoch: 2, lsn: 1 });
  assert.equal(scene.pendingSums.isSettled, true);
  scene.apply('b');
  await scene.pass(2000);
  assert.equal(scene.pendingSums.checkpointLsn, 2);
});

test('an idle stream that was taken again goes on touching its row', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.isMoved = true;
  scene.fenced = () => {
    scene.isMoved = false;
    return 'same';
  };
  await scene.pass(3 * TOUCH_INTERVAL_MS);
  assert.equal(scene.fencedRows.length, 1);
  assert.ok(scene.touches.length >= 2);
});

test('a stream without a row touches nothing, and its row is taken before its first flush', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 }, 'none');
  scene.flusher.start();
  await scene.pass(2 * TOUCH_INTERVAL_MS);
  assert.deepEqual([scene.registrations, scene.touches.length, scene.looks.length >= 1], [0, 0, true]);
  scene.apply('a');
  const flushed = scene.flusher.flushNow();
  await scene.pass(100);
  assert.equal(await flushed, 1);
  assert.deepEqual([scene.registrations, scene.flushes.length], [1, 1]);
  scene.apply('b');
  const again = scene.flusher.flushNow();
  await scene.pass(100);
  assert.equal(await again, 1);
  assert.equal(scene.registrations, 1);
});

test('while the database is unavailable a stream without a row is not flushed, and its row is taken within a second of its return', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 }, 'none');
  scene.isUnavailable = true;
  scene.flusher.start(unavailable());
  scene.apply('a');
  await scene.pass(20_000);
  assert.ok(scene.registrations >= 15 && scene.registrations <= 60, `${scene.registrations} attempts`);
  assert.deepEqual([scene.flushes, scene.availability], [[], [false]]);
  scene.isUnavailable = false;
  await scene.pass(1050);
  assert.equal(scene.pendingSums.isSettled, true);
  assert.deepEqual(scene.availability, [false, true]);
});

test('a disk that refuses the taking delays the flush, and does not count as a database that is unavailable', async () => {
  const scene = new Scene({ intervalMs: 1000 }, 'none');
  scene.registrationError = new JournalError('journal-unavailable', 'the disk is full');
  scene.flusher.start();
  scene.apply('a');
  await scene.pass(5000);
  assert.ok(scene.registrations > 1);
  assert.deepEqual([scene.flushes, scene.availability, scene.failures], [[], [], []]);
  scene.registrationError = undefined;
  await scene.pass(1050);
  assert.equal(scene.pendingSums.isSettled, true);
});

test('a stream without a row that is drained without the database ends uncommitted', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 }, 'none');
  scene.isUnavailable = true;
  scene.flusher.start(unavailable());
  scene.apply('a');
  const drained = scene.flusher.drain();
  await scene.pass(2000);
  assert.equal(await drained, false);
  assert.deepEqual(scene.flushes, []);
});

test('a taking that fails for another reason ends the shard', async () => {
  const scene = new Scene({ intervalMs: 1000 }, 'none');
  scene.registrationError = new JournalError('checkpoint-missing', 'the row is gone');
  scene.flusher.start();
  scene.apply('a');
  await scene.pass(5000);
  assert.deepEqual([scene.registrations, scene.failures], [1, [scene.registrationError]]);
  assert.deepEqual(scene.flushes, []);
});

test('after an outage that an idle stream has noticed, increments of that time are flushed within a second', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.isUnavailable = true;
  await scene.pass(60_000);
  assert.deepEqual(scene.availability, [false]);
  scene.apply('a');
  await assert.rejects(scene.flusher.flushNow(), { code: 'database-unavailable' });
  await scene.pass(2000);
  scene.isUnavailable = false;
  await scene.pass(1050);
  assert.equal(scene.pendingSums.isSettled, true);
  assert.deepEqual(scene.availability, [false, true]);
});

test('an idle stream notices within a second that the database is back, and then serves a flush request', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.isUnavailable = true;
  await scene.pass(60_000);
  scene.isUnavailable = false;
  await scene.pass(1000);
  assert.deepEqual(scene.availability, [false, true]);
  scene.apply('a');
  const flushed = scene.flusher.flushNow();
  await scene.pass(100);
  assert.equal(await flushed, 1);
});

test("a loop that starts without the database flushes within a second of the database's return", async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.isUnavailable = true;
  scene.flusher.start(unavailable());
  scene.apply('a');
  await scene.pass(10_000);
  assert.deepEqual(scene.availability, [false]);
  scene.isUnavailable = false;
  await scene.pass(1050);
  assert.equal(scene.pendingSums.isSettled, true);
  assert.deepEqual(scene.availability, [false, true]);
});

test('while the database is unavailable the loop retries about once a second at most', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.isUnavailable = true;
  await scene.pass(TOUCH_INTERVAL_MS);
  const before = scene.touches.length;
  await scene.pass(10_000);
  assert.ok(scene.touches.length - before <= 11, `${scene.touches.length - before} touches`);
});

for (const [bound, options] of [
  ['keys', { keysMax: 10 }],
  ['bytes', { bytesMax: 10 * (104 + 6) }],
  ['bytes of records', { recordBytesMax: 10 * 40 }],
] as const) {
  test(`a stream that holds enough ${bound} is flushed long before its interval, and not with less`, async () => {
    const scene = new Scene({ intervalMs: 3_600_000, ...options });
    scene.flusher.start();
    scene.apply('key 00');
    await scene.pass(100);
    assert.deepEqual(scene.flushes, []);
    for (let index = 1; index < 20; index += 1) scene.apply(`key ${String(index).padStart(2, '0')}`);
    await scene.pass(100);
    assert.equal(scene.pendingSums.checkpointLsn, 20);
  });
}

test('a wish for room flushes what is pending once, and nothing where nothing is pending', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.flusher.flushSoon();
  await scene.pass(1000);
  assert.deepEqual(scene.flushes, []);
  scene.apply('a');
  scene.flusher.flushSoon();
  await scene.pass(1000);
  assert.equal(scene.flushes.length, 1);
  scene.apply('b');
  await scene.pass(10_000);
  assert.equal(scene.flushes.length, 1);
});

test('neither a wish for room nor many keys end the wait between attempts of a flush', async () => {
  const scene = new Scene({ intervalMs: 3_600_000, keysMax: 2 });
  scene.flusher.start();
  scene.isRefused = true;
  for (let index = 0; index < 100; index += 1) {
    scene.apply(`key ${index}`);
    scene.flusher.flushSoon();
    await scene.pass(1);
  }
  assert.ok(scene.flushes.length <= 4, `${scene.flushes.length} attempts in 100 ms`);
  assert.equal(scene.retries, scene.flushes.length);
});
