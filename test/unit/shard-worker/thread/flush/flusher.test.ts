/** When the flush loop flushes and when it looks at its stream's row. Times are virtual. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Checkpoint } from '#product/core/checkpoint.js';
import { CounterError } from '#product/core/errors.js';
import { Flusher, type FlusherOptions } from '#product/shard-worker/thread/flush/flusher.js';
import type { FlushAttempt } from '#product/shard-worker/thread/flush/shard-database.js';
import { PendingSums } from '#product/shard-worker/thread/pending-sums.js';
import { ManualClock } from '../../../../support/manual-clock.js';
import { incrementEntries } from '../../../../support/record-entries.js';

const TOUCH_INTERVAL_MS = 15_000;
/** Every wait of the loop is at most its interval, and at least this part of it. */
const JITTER = 0.9;

/** A flush loop over a ledger, a database that a test lets go away, and what came of it. */
class Scene {
  readonly clock = new ManualClock();
  readonly pendingSums = new PendingSums('stream', { epoch: 1, lsn: 0 });
  readonly flusher: Flusher;
  /** When flushes and touches began. */
  readonly flushes: number[] = [];
  readonly touches: { readonly at: number; readonly acceptedThroughMs: number | undefined }[] = [];
  /** What the loop said of the database. */
  readonly availability: boolean[] = [];
  isUnavailable = false;
  /** The row is not where the ledger left it. */
  isMoved = false;
  isFenced = false;
  flushMs = 0;
  /** Records that wait to be applied when the loop asks up to which time everything is. */
  unapplied = 0;

  constructor(options: Partial<FlusherOptions> = {}) {
    const database = {
      flush: () => this.#flush(),
      flushSettingAside: () => this.#flush(),
      readBack: () => Promise.resolve({ ...this.pendingSums.checkpoint, retired: false }),
      touch: (_stream: string, _at: Checkpoint, acceptedThroughMs: number | undefined) =>
        this.#touch(acceptedThroughMs),
    };
    this.flusher = new Flusher(
      this.pendingSums,
      database,
      this.clock,
      {
        intervalMs: 1000,
        keysMax: 1000,
        sync: () => undefined,
        acceptedThroughMs: () => {
          for (; this.unapplied > 0; this.unapplied -= 1) this.apply('waiting');
          return this.clock.now();
        },
        touchIntervalMs: TOUCH_INTERVAL_MS,
        random: () => 0.5,
        ...options,
      },
      {
        committed: () => undefined,
        confirmed: () => undefined,
        fenced: () => (this.isFenced = true),
        databaseAvailable: (available) => this.availability.push(available),
        failed: (error) => assert.fail(error instanceof Error ? error : String(error)),
      },
    );
  }

  /** A record of one pair. */
  apply(key: string): void {
    const entries = incrementEntries([[key, 1]]);
    this.pendingSums.apply(this.pendingSums.appliedLsn + 1, entries, 0, entries.length);
    this.flusher.noticeApplied();
  }

  /** Lets time pass, and whatever it brings about. */
  async pass(ms: number): Promise<void> {
    const until = this.clock.monotonic() + ms;
    while (this.clock.monotonic() < until) {
      this.clock.advance(Math.min(50, until - this.clock.monotonic()));
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #flush(): Promise<FlushAttempt> {
    this.flushes.push(this.clock.monotonic());
    if (this.isUnavailable) return Promise.resolve({ kind: 'unreachable', error: away() });
    if (this.isMoved) return Promise.resolve({ kind: 'fenced' });
    return new Promise((resolve) => this.clock.schedule(this.flushMs, () => resolve({ kind: 'committed', keys: 1 })));
  }

  #touch(acceptedThroughMs: number | undefined): Promise<boolean> {
    this.touches.push({ at: this.clock.monotonic(), acceptedThroughMs });
    return this.isUnavailable ? Promise.reject(away()) : Promise.resolve(!this.isMoved);
  }
}

function away(): CounterError {
  return new CounterError('database-unavailable', 'away');
}

test('what comes is flushed at most one interval later, and not before its interval is over', async () => {
  const intervalMs = 20_000;
  const scene = new Scene({ intervalMs });
  scene.flusher.start();
  // Over the time at which the row is looked at, which must not make a flush early.
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

test('an interval begins with a flush: what comes during one is committed with the next, an interval later', async () => {
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

test('many keys that came during a flush are flushed at once, with no further record', async () => {
  const scene = new Scene({ intervalMs: 3_600_000, keysMax: 2 });
  scene.flushMs = 500;
  scene.flusher.start();
  for (const key of ['a', 'b']) scene.apply(key);
  await scene.pass(100);
  for (const key of ['c', 'd']) scene.apply(key);
  await scene.pass(1000);
  assert.equal(scene.flushes.length, 2);
});

test('an idle stream says every touch interval, however long the flush interval is, that nothing is pending', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  await scene.pass(60_000);
  assert.ok(scene.touches.length >= 4, `${scene.touches.length} touches`);
  for (const { at, acceptedThroughMs } of scene.touches) {
    assert.equal(acceptedThroughMs, scene.clock.now() - scene.clock.monotonic() + at);
  }
  assert.deepEqual(scene.flushes, []);
});

test('a stream with something pending looks at its row too, and does not say that nothing is pending', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.apply('a');
  await scene.pass(TOUCH_INTERVAL_MS);
  assert.deepEqual(
    scene.touches.map(({ acceptedThroughMs }) => acceptedThroughMs),
    [undefined],
  );
  assert.deepEqual(scene.flushes, []);
  scene.isMoved = true;
  await scene.pass(TOUCH_INTERVAL_MS);
  assert.equal(scene.isFenced, true);
});

test('an idle stream whose row went back is fenced within a touch interval', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.isMoved = true;
  await scene.pass(TOUCH_INTERVAL_MS);
  assert.equal(scene.isFenced, true);
});

test('what was not yet applied when the loop looks is flushed, not taken for nothing', async () => {
  const scene = new Scene({ intervalMs: 1000 });
  scene.flusher.start();
  scene.unapplied = 1;
  await scene.pass(1000);
  assert.deepEqual([scene.flushes.length, scene.touches.length], [1, 0]);
});

test('after an outage that an idle stream has noticed, what came during it is flushed within a second', async () => {
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

test('an idle stream notices within a second that the database is back, and a request for a flush is then served', async () => {
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

test('a loop that starts without the database flushes within a second of its return', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.isUnavailable = true;
  scene.flusher.start(away());
  scene.apply('a');
  await scene.pass(10_000);
  assert.deepEqual(scene.availability, [false]);
  scene.isUnavailable = false;
  await scene.pass(1050);
  assert.equal(scene.pendingSums.isSettled, true);
  assert.deepEqual(scene.availability, [false, true]);
});

test('while the database is away nothing is tried more often than the interval asks for', async () => {
  const scene = new Scene({ intervalMs: 3_600_000 });
  scene.flusher.start();
  scene.isUnavailable = true;
  await scene.pass(TOUCH_INTERVAL_MS);
  const before = scene.touches.length;
  await scene.pass(10_000);
  assert.ok(scene.touches.length - before <= 11, `${scene.touches.length - before} touches`);
});
