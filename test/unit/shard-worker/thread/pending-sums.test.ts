/** The part that a stream adds to a read, depending on the checkpoint that the read saw. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hashKey } from '#product/core/key-hash.js';
import { PendingSums } from '#product/shard-worker/thread/pending-sums.js';
import type { Checkpoint } from '#product/core/checkpoint.js';
import { incrementEntries, idempotentEntry } from '../../../support/record-entries.js';

const KEY = Buffer.from('k');
const EPOCH = 7;

/** Committed to LSN 10; a frozen record adds 1, a live one 2. */
function pendingSumsOf(): PendingSums {
  const pendingSums = new PendingSums('stream', { epoch: EPOCH, lsn: 10 });
  const apply = (lsn: number, amount: number): void => {
    const entries = incrementEntries([['k', amount]]);
    pendingSums.apply(lsn, entries, 0, entries.length);
  };
  apply(11, 1);
  pendingSums.freeze(0);
  apply(12, 2);
  return pendingSums;
}

function pendingOf(pendingSums: PendingSums, view: Checkpoint | undefined): unknown {
  return pendingSums.pendingOf(hashKey(KEY, 0, KEY.length), KEY, view);
}

test('a read adds the sums above the checkpoint that it saw', () => {
  const pendingSums = pendingSumsOf();
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 10 }), 3);
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 11 }), 2);
  pendingSums.settle();
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 11 }), 2);
});

test('a read whose snapshot is older than a commit, or older than the recovery, is repeated', () => {
  const pendingSums = pendingSumsOf();
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 9 }), 'again');
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH - 1, lsn: 10 }), 'again');
  assert.equal(pendingOf(pendingSums, undefined), 'again');
});

test('a key is held where adding to it makes no new pending key; idempotent requests alone do not hold it', () => {
  const pendingSums = pendingSumsOf();
  const holds = (key: string): boolean => {
    const bytes = Buffer.from(key);
    return pendingSums.holds(hashKey(bytes, 0, bytes.length), bytes, 0, bytes.length);
  };
  const entry = idempotentEntry('idempotency key', [['idempotent', 1]]);
  pendingSums.apply(13, entry, 0, entry.length);
  assert.deepEqual(['k', 'idempotent', 'other'].map(holds), [true, false, false]);
  const keys = pendingSums.pendingKeys;
  const again = incrementEntries([['idempotent', 1]]);
  pendingSums.apply(14, again, 0, again.length);
  assert.deepEqual([pendingSums.pendingKeys, holds('idempotent')], [keys + 1, true]);
});

test('a read that saw a later owner gets nothing from this one', () => {
  assert.equal(pendingOf(pendingSumsOf(), { epoch: EPOCH + 1, lsn: 10 }), undefined);
});
