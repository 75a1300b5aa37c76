import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HotKeys } from '#product/shard-worker/thread/hot-keys.js';
import {
  IDEMPOTENT_HEADER_BYTES,
  INCREMENT_HEADER_BYTES,
  RECORD_HEADER_BYTES,
  writeIdempotentHeader,
  writeIncrement,
} from '#product/shard-worker/protocol/record-layout.js';
import { Mulberry32 } from '../../../support/mulberry32.js';

/** A record of one increment for each key. */
function recordOf(keys: readonly string[], idempotencyKey?: string): Uint8Array {
  const encoded = keys.map((key) => Buffer.from(key));
  const bytes = encoded.reduce((total, key) => total + INCREMENT_HEADER_BYTES + key.length, 0);
  const head = idempotencyKey === undefined ? 0 : IDEMPOTENT_HEADER_BYTES + idempotencyKey.length;
  // A view into a larger buffer, as batches are.
  const record = new Uint8Array(8 + RECORD_HEADER_BYTES + head + bytes).subarray(8);
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  let at = RECORD_HEADER_BYTES;
  if (idempotencyKey !== undefined) {
    at = writeIdempotentHeader(view, at, idempotencyKey.length, bytes);
    record.set(Buffer.from(idempotencyKey), at);
    at += idempotencyKey.length;
  }
  for (const key of encoded) {
    at = writeIncrement(view, at, key.length, 0, 1);
    record.set(key, at);
    at += key.length;
  }
  return record;
}

class Scene {
  nowMs = 1_000_000;
  readonly random = new Mulberry32(7);
  readonly hotKeys = new HotKeys(
    () => this.nowMs,
    () => this.random.below(1_000_000) / 1_000_000,
  );

  /** Feeds records for some seconds, a hundred times a second, and asks once a second as a dashboard does. */
  run(seconds: number, next: () => readonly string[], idempotencyKey?: string): void {
    for (let step = 0; step < seconds * 100; step += 1) {
      if (step % 100 === 0) this.hotKeys.hottest(20);
      const keys = next();
      if (keys.length > 0) this.hotKeys.feed(recordOf(keys, idempotencyKey), keys.length);
      this.nowMs += 10;
    }
  }

  rates(most = 20): Map<string, number> {
    return new Map(this.hotKeys.hottest(most).map(({ key, perSecond }) => [key, perSecond]));
  }
}

function near(actual: number | undefined, expected: number, share: number, what: string): void {
  assert.ok(
    actual !== undefined && Math.abs(actual - expected) <= expected * share,
    `${what}: ${actual}, not ${expected}`,
  );
}

test('few increments a second are all counted, also those of idempotent requests, under any key', () => {
  const scene = new Scene();
  scene.run(10, () => ['a', 'é😀', 'a']);
  near(scene.rates().get('a'), 200, 0.05, 'a');
  near(scene.rates().get('é😀'), 100, 0.05, 'é😀');
  const idempotent = new Scene();
  idempotent.run(10, () => ['a', 'b', 'a'], 'an idempotency key');
  near(idempotent.rates().get('a'), 200, 0.05, 'a');
  assert.deepEqual([...idempotent.rates().keys()], ['a', 'b']);
});

test('of very many, the hottest are found with about their rates', () => {
  const scene = new Scene();
  // 100,000 a second in records of 1,000: a tenth each for two keys, the rest over 20,000 others.
  scene.run(10, () =>
    Array.from({ length: 1_000 }, () => {
      const which = scene.random.below(10);
      return which === 0 ? 'hot-0' : which === 1 ? 'hot-1' : `cold-${scene.random.below(20_000)}`;
    }),
  );
  const rates = scene.rates();
  assert.deepEqual([...rates.keys()].slice(0, 2).sort(), ['hot-0', 'hot-1']);
  near(rates.get('hot-0'), 10_000, 0.2, 'hot-0');
  near(rates.get('hot-1'), 10_000, 0.2, 'hot-1');
  for (const [key, perSecond] of [...rates].slice(2)) assert.ok(perSecond < 2_000, `${key}: ${perSecond}`);
});

test('one body of very many keys does not hide the keys behind its first', () => {
  const scene = new Scene();
  const body = Array.from({ length: 15_000 }, (_, index) => (index === 14_999 ? 'last' : `key-${index}`));
  for (let second = 0; second < 60; second += 1) {
    scene.hotKeys.hottest(20);
    scene.hotKeys.feed(
      recordOf([...body.slice(0, 10_000), ...Array.from({ length: 4_999 }, () => 'middle'), 'last']),
      15_000,
    );
    scene.nowMs += 1_000;
  }
  near(scene.rates().get('middle'), 4_999, 0.35, 'middle');
});

test('a key that gets no more fades within seconds, and another takes its place', () => {
  const scene = new Scene();
  scene.run(10, () => ['old']);
  scene.run(10, () => ['new']);
  const rates = scene.rates();
  assert.equal([...rates.keys()][0], 'new');
  assert.ok((rates.get('old') ?? 0) < 5, String(rates.get('old')));
});

test('nothing is measured while nobody asks, and a late question begins anew', () => {
  const scene = new Scene();
  for (let step = 0; step < 100; step += 1) scene.hotKeys.feed(recordOf(['unseen']), 1);
  assert.deepEqual(scene.hotKeys.hottest(20), []);
  scene.run(5, () => ['seen']);
  scene.nowMs += 6_000;
  scene.hotKeys.feed(recordOf(['late']), 1);
  assert.deepEqual(scene.hotKeys.hottest(20), []);
});

test('no more keys than asked for', () => {
  const scene = new Scene();
  scene.run(3, () => Array.from({ length: 300 }, (_, index) => `key-${index % 100}`));
  assert.equal(scene.hotKeys.hottest(20).length, 20);
});
