/**
 * Who may continue a stream, by the ownership claims of a journal and of the database.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ownershipOf, type OwnershipClaim } from '#product/shard-worker/journal/ownership-claim.js';

const a: OwnershipClaim = { id: 'a', lsn: 10 };
const b: OwnershipClaim = { id: 'b', lsn: 20 };
const c: OwnershipClaim = { id: 'c', lsn: 30 };

function database(lsn: number, ...claims: readonly OwnershipClaim[]) {
  return { lsn, claims, isComplete: true };
}

test('a row without ownership claims, from an older version, is accepted', () => {
  assert.deepEqual(ownershipOf([], database(100)), { kind: 'last', lost: [] });
});

test('a journal with the last claim was the last owner, wherever the checkpoint is', () => {
  assert.deepEqual(ownershipOf([a, b], database(5, a, b)), { kind: 'last', lost: [] });
  assert.deepEqual(ownershipOf([a, b], database(500, a, b)), { kind: 'last', lost: [] });
});

test('a claim that was kept and perhaps never made is known', () => {
  assert.deepEqual(ownershipOf([a, b], database(5, a)), { kind: 'last', lost: [b] });
  assert.deepEqual(ownershipOf([a, b], database(20, a)), { kind: 'last', lost: [b] });
  assert.deepEqual(ownershipOf([a, b], database(5)), { kind: 'last', lost: [a, b] });
});

test('a journal shares with a later owner the records that it had at the takeover', () => {
  assert.deepEqual(ownershipOf([a], database(40, a, b)), { kind: 'earlier', sharedLsn: 20 });
  assert.deepEqual(ownershipOf([], database(40, b)), { kind: 'earlier', sharedLsn: 20 });
});

test('of several later owners, the one with the lowest LSN counts', () => {
  assert.deepEqual(ownershipOf([a], database(40, a, c, b)), { kind: 'earlier', sharedLsn: 20 });
  assert.deepEqual(ownershipOf([a], database(40, a, b, c)), { kind: 'earlier', sharedLsn: 20 });
});

test('records under a claim that the database does not have are shared with no other owner', () => {
  assert.deepEqual(ownershipOf([a, b], database(40, a, c)), { kind: 'earlier', sharedLsn: 20 });
});

test('a checkpoint beyond a claim that the database does not have was moved by another journal', () => {
  assert.deepEqual(ownershipOf([a, b], database(21, a)), { kind: 'earlier', sharedLsn: 20 });
  assert.deepEqual(ownershipOf([a], database(11)), { kind: 'earlier', sharedLsn: 10 });
});

test('if claims were removed and none is in common, no shared record is known', () => {
  const forgetful = { lsn: 5, claims: [b, c], isComplete: false };
  assert.deepEqual(ownershipOf([a], forgetful), { kind: 'unknown' });
  assert.deepEqual(ownershipOf([b], forgetful), { kind: 'earlier', sharedLsn: 30 });
});
