import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hashKey } from '#product/core/key-hash.js';
import { SummingMap } from '#product/shard-worker/thread/summing-map.js';

/** Sums by key, read from the columns of the map. */
function contents(map: SummingMap): Map<string, bigint> {
  const found = new Map<string, bigint>();
  for (let entry = 0; entry < map.size; entry += 1) {
    const start = map.keyStart(entry);
    const key = Buffer.from(map.arena.subarray(start, start + map.keyBytes(entry))).toString('utf8');
    assert.ok(!found.has(key), `${key} has one entry`);
    found.set(key, BigInt(map.sum(entry)));
  }
  return found;
}

function add(map: SummingMap, hash: number, key: string, amount: number): boolean {
  const bytes = Buffer.from(key);
  return map.add(hash, bytes, 0, bytes.length, amount);
}

void test('sums are exact for any keys, however many of them share a hash', () => {
  const increment = fc.tuple(fc.integer({ min: 0, max: 400 }), fc.maxSafeInteger());
  const hashes = fc.constantFrom(1, 2, 37, 2 ** 32);
  fc.assert(
    fc.property(fc.array(increment, { maxLength: 3000 }), hashes, (increments, spread) => {
      const map = new SummingMap();
      const expected = new Map<string, bigint>();
      for (const [number, amount] of increments) {
        const key = `key ${String(number)}`;
        const isNew = add(map, hashKey(Buffer.from(key), 0, key.length) % spread, key, amount);
        assert.equal(isNew, !expected.has(key));
        expected.set(key, (expected.get(key) ?? 0n) + BigInt(amount));
      }
      assert.deepEqual(contents(map), expected);
      assert.equal(map.increments, increments.length);
      for (const [key, sum] of expected) {
        const bytes = Buffer.from(key);
        assert.equal(BigInt(map.get(hashKey(bytes, 0, bytes.length) % spread, bytes, 0, bytes.length) ?? -1), sum);
      }
    }),
    { numRuns: 200 },
  );
});

void test('100,000 keys made to have the same hash take seconds at most, and are all found again', () => {
  const map = new SummingMap();
  const startedAt = performance.now();
  for (let round = 0; round < 2; round += 1) {
    for (let number = 0; number < 100_000; number += 1) add(map, 7, `collides ${String(number)}`, 1);
  }
  // A table without a limit of probes visits every earlier key, which takes minutes.
  assert.ok(performance.now() - startedAt < 10_000);
  assert.equal(map.size, 100_000);
  assert.ok([...contents(map).values()].every((sum) => sum === 2n));
});

void test('what is cleared is forgotten, crowded keys included', () => {
  const map = new SummingMap();
  for (let number = 0; number < 500; number += 1) add(map, 7, `collides ${String(number)}`, 1);
  map.clear(500);
  assert.equal(map.size, 0);
  assert.equal(map.increments, 0);
  assert.equal(map.find(7, Buffer.from('collides 499'), 0, 12), -1);
  assert.equal(add(map, 7, 'collides 499', 3), true);
  assert.deepEqual(contents(map), new Map([['collides 499', 3n]]));
});
