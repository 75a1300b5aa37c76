import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addSums, AMOUNT_MAX } from '#product/core/increment.js';
import { hashKey, shardOfHash } from '#product/core/key-hash.js';

test('sums are exact beyond the safe integers, and numbers again within them', () => {
  assert.equal(addSums(1, 2), 3);
  assert.equal(addSums(AMOUNT_MAX, 1), 9007199254740992n);
  assert.equal(addSums(AMOUNT_MAX, AMOUNT_MAX), 18014398509481982n);
  assert.equal(addSums(-AMOUNT_MAX, -2), -9007199254740993n);
  assert.equal(addSums(9007199254740993n, -2), AMOUNT_MAX);
});

test('the key hash spreads sequential keys over 16 shards within 2 %', () => {
  const counts = new Array<number>(16).fill(0);
  const keys = 400_000;
  for (let n = 0; n < keys; n += 1) {
    const bytes = Buffer.from(`page:/articles/${n}`);
    const shard = shardOfHash(hashKey(bytes, 0, bytes.length), 16);
    counts[shard] = (counts[shard] ?? 0) + 1;
  }
  for (const count of counts) assert.ok(Math.abs(count / (keys / 16) - 1) < 0.02, `${count} of ${keys / 16}`);
});

test('the key hash is FNV-1a with the finalizer of MurmurHash3', () => {
  // FNV-1a of "a" is 0xe40c292c; fmix32 of that, computed independently with BigInt.
  let h = 0xe40c292cn;
  h ^= h >> 16n;
  h = (h * 0x85ebca6bn) & 0xffffffffn;
  h ^= h >> 13n;
  h = (h * 0xc2b2ae35n) & 0xffffffffn;
  h ^= h >> 16n;
  assert.equal(hashKey(Buffer.from('a'), 0, 1), Number(h));
});
