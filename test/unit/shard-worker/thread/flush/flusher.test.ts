/** When the flush loop flushes, and when it touches the row of its stream. Times are virtual. */
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
/** Every wait of the loop is at least this part of its interval, and at most the interval. */
const JITTER = 0.9;

/** A flush loop over pending sums, with a database that a test can make unavailable, and a record of its calls. */
class Scene {
  readonly clock = new ManualClock();
  readonly pendingSums = new PendingSums('stream', { epoch: 1, lsn: 0 });
  readonly flusher: Flusher;
  /** When flushes and touches began. */
  readonly flushes: number[] = [];
  readonly touches: { readonly at: number; readonly acceptedThroughMs: number | undefined }[] = [];
  /** Availability of the database, as the loop reported it. */
  readonly availability: boolean[] = [];
  isUnavailable = false;
  /** The row is not where the stream's owner left it. */
  isMoved = false;
  isRefused = false;
  isFenced = false;
  flushMs = 0;
  /** Number of records that are applied when the loop asks up to which time everything is applied. */
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
        bytesMax: Number.POSITIVE_INFINITY,
        recordBytesMax: Number.POSITIVE_INFINITY,
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

  /** Applies a record of one increment. */
  apply(key: string): void {
    const entries = incrementEntries([[key, 1]]);
    this.pendingSums.apply(this.pendingSums.appliedLsn + 1, entries, 0, entries.length);
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

  #touch(acceptedThroughMs: number | undefined): Promise<boolean> {
    this.touches.push({ at: this.clock.monotonic(), acceptedThroughMs });
    return this.isUnavailable ? Promise.reject(unavailable()) : Promise.resolve(!this.isMoved);
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
  for (const { at, acceptedThroughMs } of scene.touches) {
    assert.equal(acceptedThroughMs, scene.clock.now() - scene.clock.monotonic() + at);
  }
  assert.deepEqual(scene.flushes, []);
});

test('a stream with pending increments touches its row, too, and does not advance accepted_through', async () => {
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

test('a record that is applied only when the loop asks is flushed, and the stream does not count as idle', async () => {
  const scene = new Scene({ intervalMs: 1000 });
  scene.flusher.start();
  scene.unapplied = 1;
  await scene.pass(1000);
  assert.deepEqual([scene.flushes.length, scene.touches.length], [1, 0]);
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
});
