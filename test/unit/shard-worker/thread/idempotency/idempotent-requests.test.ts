/** Pending idempotent requests as flushes and reads see them, and their digests. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import type { DatabaseTime } from '#product/core/checkpoint.js';
import { AMOUNT_MAX, type Sum } from '#product/core/increment.js';
import { hashKey } from '#product/core/key-hash.js';
import { DIGEST_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { digestOf } from '#product/shard-worker/thread/idempotency/request-digest.js';
import { IdempotentRequests } from '#product/shard-worker/thread/idempotency/idempotent-requests.js';
import { Mulberry32 } from '../../../../support/mulberry32.js';
import { seedOfRun } from '../../../../support/random-runs.js';
import { incrementEntries, idempotentEntry } from '../../../../support/record-entries.js';

type ParsedRows = readonly (readonly [string, number])[];

/** Adds the request from the middle of a larger buffer, as a record has it. */
function add(
  requests: IdempotentRequests,
  idempotencyKey: string,
  increments: ParsedRows,
  digest = 0,
  time: DatabaseTime = 0,
): number {
  const entry = idempotentEntry(idempotencyKey, increments, digest);
  const bytes = Buffer.concat([Buffer.from('before'), entry, Buffer.from('after')]);
  return requests.add(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), bytes, 6, time);
}

function contents(requests: IdempotentRequests): readonly unknown[] {
  return Array.from(requests.values(), ({ idempotencyKey, digest, requestSums, increments }) => [
    idempotencyKey,
    digest[DIGEST_BYTES - 1],
    Object.fromEntries(requestSums.map(({ key, sum }) => [Buffer.from(key).toString(), sum])),
    increments,
  ]);
}

function sumOf(requests: IdempotentRequests, key: string): Sum | undefined {
  const bytes = Buffer.from(key);
  return requests.totals.get(hashKey(bytes, 0, bytes.length), bytes, 0, bytes.length);
}

void test('increments of a request are summed by key, apart from those of other requests', () => {
  const requests = new IdempotentRequests();
  assert.equal(
    add(
      requests,
      't1',
      [
        ['a', 1],
        ['b', 2],
        ['a', 10],
      ],
      7,
    ),
    3,
  );
  assert.equal(add(requests, 't2', [['b', -5]], 8), 1);
  assert.deepEqual(contents(requests), [
    ['t1', 7, { a: 11, b: 2 }, 3],
    ['t2', 8, { b: -5 }, 1],
  ]);
  assert.deepEqual([requests.size, requests.requestSums, requests.increments, requests.duplicates], [2, 3, 4, 0]);
  assert.deepEqual([sumOf(requests, 'a'), sumOf(requests, 'b'), sumOf(requests, 'c')], [11, -3, undefined]);
});

void test('a request whose idempotency key is here counts as a duplicate and adds nothing', () => {
  const requests = new IdempotentRequests();
  add(requests, 't', [['a', 1]]);
  const bytes = requests.pendingBytes;
  assert.equal(
    add(requests, 't', [
      ['a', 1],
      ['z', 1],
    ]),
    2,
  );
  assert.deepEqual(contents(requests), [['t', 0, { a: 1 }, 1]]);
  assert.deepEqual([requests.increments, requests.duplicates, requests.pendingBytes], [3, 2, bytes]);
  assert.equal(sumOf(requests, 'z'), undefined);
});

void test('sums beyond 2^53 stay exact, within a request and by key', () => {
  const requests = new IdempotentRequests();
  add(requests, 't', [
    ['a', AMOUNT_MAX],
    ['a', AMOUNT_MAX],
    ['a', -1],
  ]);
  add(requests, 'u', [['a', 1]]);
  const exact = 2n * BigInt(AMOUNT_MAX) - 1n;
  assert.deepEqual(contents(requests)[0], ['t', 0, { a: exact }, 3]);
  assert.equal(sumOf(requests, 'a'), exact + 1n);
});

void test('a request is found by its idempotency key, and none is found after clear', () => {
  const requests = new IdempotentRequests();
  add(
    requests,
    't',
    [
      ['a', 3],
      ['a', 4],
    ],
    9,
  );
  assert.equal(requests.get('t')?.increments, 2);
  assert.equal(requests.get('u'), undefined);
  requests.clear();
  assert.equal(requests.get('t'), undefined);
  assert.deepEqual([requests.size, requests.requestSums, requests.increments, requests.pendingBytes], [0, 0, 0, 0]);
  add(requests, 'u', [['b', 1]]);
  assert.deepEqual(contents(requests), [['u', 0, { b: 1 }, 1]]);
});

void test('older requests are taken out, with all that they added; a duplicate has the time of the first', () => {
  const requests = new IdempotentRequests();
  const exact = 3n * BigInt(AMOUNT_MAX);
  add(
    requests,
    'old',
    [
      ['a', 1],
      ['b', 2],
    ],
    1,
    99,
  );
  add(
    requests,
    'large',
    [
      ['a', -AMOUNT_MAX],
      ['a', -AMOUNT_MAX],
      ['a', -AMOUNT_MAX],
      ['c', 0],
    ],
    2,
    100,
  );
  add(requests, 'new', [['a', 40]], 3, 101);
  add(requests, 'old', [['a', 1]], 1, 101);
  add(requests, 'new', [['a', 40]], 3, 101);
  assert.deepEqual(
    [99, 100].map((time) => requests.hasOlderThan(time)),
    [false, true],
  );
  assert.deepEqual(requests.takeOlderThan(99), []);
  assert.equal(sumOf(requests, 'a'), 41n - exact);
  const taken = requests.takeOlderThan(100);
  assert.deepEqual(
    taken.map(({ idempotencyKey, digest, requestSums, increments, time }) => [
      idempotencyKey,
      digest[0],
      requestSums.map(({ key, sum }) => [Buffer.from(key).toString(), sum]),
      increments,
      time,
    ]),
    [
      [
        'old',
        1,
        [
          ['a', 1],
          ['b', 2],
        ],
        2,
        99,
      ],
    ],
  );
  assert.equal(requests.hasOlderThan(100), false);
  assert.deepEqual(contents(requests), [
    ['large', 2, { a: -exact, c: 0 }, 4],
    ['new', 3, { a: 40 }, 1],
  ]);
  assert.deepEqual([sumOf(requests, 'a'), sumOf(requests, 'b'), sumOf(requests, 'c')], [40n - exact, undefined, 0]);
  assert.deepEqual(
    [requests.get('old'), requests.get('new')?.time, requests.get('new')?.increments],
    [undefined, 101, 1],
  );
  // Duplicates are counted, and are not kept.
  assert.deepEqual([requests.size, requests.requestSums, requests.duplicates, requests.increments], [2, 3, 2, 7]);
});

void test('what is left after older requests were taken takes as much memory as if they had never been there', () => {
  const increments: ParsedRows = [
    ['a', 1],
    ['key', 2],
  ];
  const [requests, expected] = [new IdempotentRequests(), new IdempotentRequests()];
  add(requests, 'old', increments, 0, 1);
  for (const each of [requests, expected]) add(each, 'kept', increments, 0, 2);
  requests.takeOlderThan(2);
  assert.equal(requests.pendingBytes, expected.pendingBytes);
  for (const each of [requests, expected]) add(each, 'next', [['a', 5]], 0, 2);
  assert.deepEqual(contents(requests), contents(expected));
  assert.equal(sumOf(requests, 'a'), sumOf(expected, 'a'));
  assert.deepEqual(
    requests.takeOlderThan(9).map(({ idempotencyKey }) => idempotencyKey),
    ['kept', 'next'],
  );
  assert.deepEqual([requests.size, requests.requestSums, requests.increments, requests.pendingBytes], [0, 0, 0, 0]);
});

void test('random requests have the same sums as a plain map of maps', () => {
  const seed = seedOfRun();
  console.log(`SEED=${seed}`);
  const random = new Mulberry32(seed);
  const requests = new IdempotentRequests();
  for (let round = 0; round < 3; round += 1) {
    const expected = new Map<string, [number, Record<string, number>, number]>();
    for (let n = 0; n < 3000; n += 1) {
      const increments: ParsedRows = Array.from(
        { length: 1 + random.below(5) },
        () => [`k${random.below(300)}`, random.below(100) - 50] as const,
      );
      const idempotencyKey = `${'t'.repeat(1 + random.below(40))}${random.below(2500)}`;
      add(requests, idempotencyKey, increments, n % 256);
      if (expected.has(idempotencyKey)) continue;
      const sums: Record<string, number> = {};
      for (const [key, amount] of increments) sums[key] = (sums[key] ?? 0) + amount;
      expected.set(idempotencyKey, [n % 256, sums, increments.length]);
    }
    assert.deepEqual(
      contents(requests),
      Array.from(expected, ([idempotencyKey, [digest, sums, increments]]) => [
        idempotencyKey,
        digest,
        sums,
        increments,
      ]),
    );
    requests.clear();
  }
});

void test('a digest is the first half of SHA-256 over keys in bytewise order, each with its sum', () => {
  const digest = (increments: ParsedRows): string => {
    const entries = incrementEntries(increments);
    const bytes = Buffer.concat([Buffer.from('xy'), entries]);
    return Buffer.from(digestOf(bytes, 2, bytes.length)).toString('hex');
  };
  const expected = (text: string): string =>
    createHash('sha256').update(text).digest().subarray(0, DIGEST_BYTES).toString('hex');
  assert.equal(digest([['a', 1]]), expected('a\0' + '1\0'));
  assert.equal(digest([['ключ', -5]]), expected('ключ\0-5\0'));
  assert.equal(
    digest([
      ['b', 2],
      ['a', 1],
      ['b', 3],
    ]),
    expected('a\0' + '1\0b\0' + '5\0'),
  );
  assert.equal(
    digest([
      ['a', AMOUNT_MAX],
      ['a', 1],
    ]),
    expected('a\0' + '9007199254740992\0'),
  );
  // U+FF5E sorts above U+1F600 by UTF-16 units and below it by bytes.
  assert.equal(
    digest([
      ['😀', 1],
      ['～', 2],
    ]),
    expected('～\0' + '2\0😀\0' + '1\0'),
  );
  const long: ParsedRows = Array.from({ length: 2000 }, (_, n) => [`key:${String(n).padStart(6, '0')}`, n]);
  assert.equal(digest(long), expected(long.map(([key, sum]) => `${key}\0${sum}\0`).join('')));
  assert.equal(digest([['a', 1]]), expected('a\0' + '1\0'));
});

void test('one increment has the same digest as two increments of the same key and sum', () => {
  const one = Buffer.from(digestOf(incrementEntries([['a', 0]]), 0, incrementEntries([['a', 0]]).length));
  const parts = incrementEntries([
    ['a', 5],
    ['a', -5],
  ]);
  assert.deepEqual(Buffer.from(digestOf(parts, 0, parts.length)), one);
});
