/** What is pending in one stream: what a read adds, what a flush sends, and what becomes of it when the row is taken again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hashKey } from '#product/core/key-hash.js';
import { PendingSums } from '#product/shard-worker/thread/pending-sums.js';
import type { Checkpoint, DatabaseTime, Lsn } from '#product/core/checkpoint.js';
import { incrementEntries, idempotentEntry } from '../../../support/record-entries.js';

const KEY = Buffer.from('k');
const EPOCH = 7;
const COVERED_FROM = 1000;

/** Applies a record. Returns its increments. */
function apply(pendingSums: PendingSums, lsn: Lsn, entries: Buffer, time: DatabaseTime = COVERED_FROM): number {
  return pendingSums.apply(lsn, entries, 0, entries.length, time);
}

function taken(lsn: Lsn = 10, epoch = EPOCH, coveredFrom: DatabaseTime = COVERED_FROM) {
  return { epoch, lsn, coveredFrom };
}

/** Committed to LSN 10; a frozen record adds 1, a live one 2. */
function pendingSumsOf(): PendingSums {
  const pendingSums = new PendingSums('stream', taken());
  apply(pendingSums, 11, incrementEntries([['k', 1]]));
  pendingSums.freeze();
  apply(pendingSums, 12, incrementEntries([['k', 2]]));
  return pendingSums;
}

function pendingOf(pendingSums: PendingSums, view: Checkpoint | undefined, key: Buffer = KEY): unknown {
  return pendingSums.pendingOf(hashKey(key, 0, key.length), key, view);
}

/** Names of the requests of a range: those to be flushed, and those set aside, one for each increment. */
function requestsOf({ frozen }: PendingSums): readonly (readonly string[])[] {
  assert.ok(frozen !== undefined);
  return [
    Array.from(frozen.idempotent.values(), ({ idempotencyKey }) => idempotencyKey),
    frozen.uncovered.rows.map(({ idempotencyKey }) => Buffer.from(idempotencyKey).toString()),
  ];
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
  apply(pendingSums, 13, idempotentEntry('idempotency key', [['idempotent', 1]]));
  assert.deepEqual(['k', 'idempotent', 'other'].map(holds), [true, false, false]);
  const keys = pendingSums.pendingKeys;
  apply(pendingSums, 14, incrementEntries([['idempotent', 1]]));
  assert.deepEqual([pendingSums.pendingKeys, holds('idempotent')], [keys + 1, true]);
});

test('a read that saw a later owner gets nothing from this one', () => {
  assert.equal(pendingOf(pendingSumsOf(), { epoch: EPOCH + 1, lsn: 10 }), undefined);
});

test('a flush sends the time that its last record carries', () => {
  const pendingSums = new PendingSums('stream', taken());
  apply(pendingSums, 11, incrementEntries([['k', 1]]), 2000);
  apply(pendingSums, 12, incrementEntries([['k', 1]]), 2005);
  assert.equal(pendingSums.freeze().acceptedThrough, 2005);
  pendingSums.settle();
  apply(pendingSums, 13, incrementEntries([['k', 1]]), 2010);
  assert.equal(pendingSums.freeze().acceptedThrough, 2010);
});

test('an idempotent request older than what the row covers is set aside before it is found by its idempotency key', () => {
  const pendingSums = new PendingSums('stream', taken());
  const request = idempotentEntry('old', [
    ['a', 1],
    ['a', 2],
  ]);
  assert.equal(apply(pendingSums, 11, Buffer.concat([incrementEntries([['a', 100]]), request]), COVERED_FROM - 1), 3);
  apply(pendingSums, 12, idempotentEntry('old', [['a', 10]]), COVERED_FROM);
  const keyA = Buffer.from('a');
  // A read has the plain increment and the request that is covered.
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 10 }, keyA), 110);
  assert.equal(pendingSums.pendingIncrements, 4);
  assert.deepEqual(
    [pendingSums.liveKeys, pendingSums.pendingKeys],
    [4, 4],
    'each row that is set aside counts as a key',
  );
  const bytes = pendingSums.pendingBytes;
  const { uncovered } = pendingSums.freeze();
  assert.deepEqual(requestsOf(pendingSums), [['old'], ['old', 'old']]);
  assert.deepEqual([uncovered.size, uncovered.increments], [1, 2]);
  assert.deepEqual(
    uncovered.rows.map(({ lsn, time, amount }) => [lsn, time, amount]),
    [
      [11, COVERED_FROM - 1, 1],
      [11, COVERED_FROM - 1, 2],
    ],
  );
  assert.deepEqual([pendingSums.liveKeys, pendingSums.pendingKeys, pendingSums.pendingBytes], [0, 4, bytes]);
  pendingSums.settle();
  assert.deepEqual([pendingSums.pendingKeys, pendingSums.pendingBytes, pendingSums.pendingIncrements], [0, 0, 0]);
});

test('a row that covers everything sets nothing aside, not even what carries no time', () => {
  const pendingSums = new PendingSums('stream', taken(10, EPOCH, 0));
  apply(pendingSums, 11, idempotentEntry('of an older version', [['a', 1]]), 0);
  pendingSums.freeze();
  assert.deepEqual(requestsOf(pendingSums), [['of an older version'], []]);
});

test('a stream without a row is not flushed, and its sums are pending whatever row a read saw', () => {
  const pendingSums = new PendingSums('stream', undefined);
  assert.equal(pendingSums.isRegistered, false);
  apply(pendingSums, 1, incrementEntries([['k', 5]]), 0);
  assert.throws(() => pendingSums.freeze(), TypeError);
  assert.equal(pendingOf(pendingSums, undefined), 5);
  // Made by a taking whose reply is not here yet.
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 0 }), 5);
  assert.equal(pendingSums.take(taken(0)), 'same');
  assert.deepEqual([pendingSums.isRegistered, pendingSums.epoch, pendingSums.coveredFrom], [true, EPOCH, COVERED_FROM]);
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 0 }), 5);
  assert.equal(pendingSums.freeze().epoch, EPOCH);
});

test('a row that is taken again at the checkpoint keeps the frozen range under the new epoch', () => {
  const pendingSums = pendingSumsOf();
  assert.equal(pendingSums.take(taken(10, EPOCH + 5)), 'same');
  const { frozen } = pendingSums;
  assert.deepEqual([frozen?.epoch, frozen?.fromLsn, frozen?.toLsn], [EPOCH + 5, 10, 11]);
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH + 5, lsn: 10 }), 3);
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 10 }), 'again');
});

test('a row that is taken again at the target of the frozen range shows that the range is committed', () => {
  const pendingSums = pendingSumsOf();
  assert.equal(pendingSums.take(taken(11, EPOCH + 5)), 'committed');
  pendingSums.settle();
  assert.deepEqual(pendingSums.checkpoint, { epoch: EPOCH + 5, lsn: 11 });
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH + 5, lsn: 11 }), 2);
});

for (const lsn of [9, 12, 13]) {
  test(`a row that is taken again at LSN ${lsn}, which is not one of this process, changes nothing`, () => {
    const pendingSums = pendingSumsOf();
    assert.equal(pendingSums.take(taken(lsn, EPOCH + 5)), 'elsewhere');
    assert.deepEqual(pendingSums.checkpoint, { epoch: EPOCH, lsn: 10 });
    assert.equal(pendingSums.frozen?.epoch, EPOCH);
    assert.equal(pendingOf(pendingSums, { epoch: EPOCH, lsn: 10 }), 3);
  });
}

test('a row that covers less when it is taken again sets older requests aside, also of a frozen range that is sent again', () => {
  const pendingSums = new PendingSums('stream', taken());
  const request = (name: string): Buffer => idempotentEntry(name, [['a', 1]]);
  apply(pendingSums, 11, request('frozen old'), 1500);
  apply(pendingSums, 12, request('frozen new'), 2000);
  pendingSums.freeze();
  apply(pendingSums, 13, request('live old'), 1999);
  apply(pendingSums, 14, request('live new'), 2000);
  assert.deepEqual(
    [1500, 1501, 2000].map((time) => pendingSums.hasOlderThan(time)),
    [false, true, true],
  );
  assert.equal(pendingSums.take(taken(10, EPOCH + 1, 2000)), 'same');
  assert.equal(pendingSums.hasOlderThan(2000), false);
  assert.deepEqual(requestsOf(pendingSums), [['frozen new'], ['frozen old']]);
  assert.equal(pendingSums.frozen?.uncovered.rows[0]?.lsn, 12, 'an LSN of the range');
  assert.equal(pendingOf(pendingSums, { epoch: EPOCH + 1, lsn: 10 }, Buffer.from('a')), 2);
  pendingSums.settle();
  pendingSums.freeze();
  assert.deepEqual(requestsOf(pendingSums), [['live new'], ['live old']]);
});

test('a committed range keeps its requests when its row is taken again, because they were counted', () => {
  const pendingSums = new PendingSums('stream', taken());
  apply(pendingSums, 11, idempotentEntry('counted', [['a', 1]]), 1500);
  pendingSums.freeze();
  assert.equal(pendingSums.take(taken(11, EPOCH + 1, 2000)), 'committed');
  assert.deepEqual(requestsOf(pendingSums), [['counted'], []]);
});
