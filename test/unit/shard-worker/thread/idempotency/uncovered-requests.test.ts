/** Idempotent requests that are set aside: a row for each increment, with what an operator needs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AMOUNT_MAX } from '#product/core/increment.js';
import { DIGEST_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { UncoveredRequests } from '#product/shard-worker/thread/idempotency/uncovered-requests.js';
import { idempotentEntry } from '../../../../support/record-entries.js';

/** Adds the request from the middle of a larger buffer, which is overwritten afterwards, as that of a record is. */
function add(requests: UncoveredRequests, entry: Buffer, lsn: number, time: number): number {
  const bytes = new Uint8Array(Buffer.concat([Buffer.from('before'), entry, Buffer.from('after')]));
  const increments = requests.add(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), bytes, 6, lsn, time);
  bytes.fill(0xee);
  return increments;
}

function rowsOf({ rows }: UncoveredRequests): readonly unknown[] {
  return rows.map(({ key, amount, lsn, idempotencyKey, digest, time }) => [
    Buffer.from(key).toString(),
    amount,
    lsn,
    Buffer.from(idempotencyKey).toString(),
    [digest.length, digest[0]],
    time,
  ]);
}

test('each increment is a row of its own, as it was sent, with its LSN, idempotency key, digest and time', () => {
  const requests = new UncoveredRequests();
  const first = idempotentEntry(
    'first',
    [
      ['a', 1],
      ['a', -1],
      ['ключ', AMOUNT_MAX],
    ],
    7,
  );
  assert.equal(add(requests, first, 11, 100), 3);
  assert.equal(add(requests, idempotentEntry('second', [['a', 0]], 8), 12, 0), 1);
  // The same request twice: nobody can tell whether it counts, so both are kept.
  assert.equal(add(requests, idempotentEntry('second', [['a', 0]], 8), 13, 0), 1);
  assert.deepEqual(rowsOf(requests), [
    ['a', 1, 11, 'first', [DIGEST_BYTES, 7], 100],
    ['a', -1, 11, 'first', [DIGEST_BYTES, 7], 100],
    ['ключ', AMOUNT_MAX, 11, 'first', [DIGEST_BYTES, 7], 100],
    ['a', 0, 12, 'second', [DIGEST_BYTES, 8], 0],
    ['a', 0, 13, 'second', [DIGEST_BYTES, 8], 0],
  ]);
  assert.deepEqual([requests.size, requests.increments], [3, 5]);
});

test('a request that was summed by key has a row for each key, and counts its increments as they were sent', () => {
  const requests = new UncoveredRequests();
  const sum = 2n * BigInt(AMOUNT_MAX);
  const digest = new Uint8Array(DIGEST_BYTES).fill(9);
  const requestSums = [{ number: 0, key: Buffer.from('a'), sum }];
  requests.addSummed({ idempotencyKey: 'summed "1"', digest, requestSums, increments: 2, time: 50 }, 14);
  assert.deepEqual(rowsOf(requests), [['a', sum, 14, 'summed "1"', [DIGEST_BYTES, 9], 50]]);
  assert.deepEqual([requests.size, requests.increments, requests.rows.length], [1, 2, 1]);
});

test('what is set aside takes room among the pending bytes, more for longer keys', () => {
  const [short, long] = [new UncoveredRequests(), new UncoveredRequests()];
  assert.equal(short.pendingBytes, 0);
  add(short, idempotentEntry('t', [['k', 1]]), 1, 0);
  add(long, idempotentEntry('t', [['k'.repeat(101), 1]]), 1, 0);
  assert.ok(short.pendingBytes > 0);
  assert.equal(long.pendingBytes, short.pendingBytes + 100);
});
