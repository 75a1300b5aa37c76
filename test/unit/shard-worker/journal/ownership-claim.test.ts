/**
 * Who may continue a stream, by the ownership claims of a journal and of the database.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  CLAIMS_KEPT_MAX,
  isTakenByOthers,
  newOwnership,
  ownershipOf,
  withClaim,
  type ClaimInDatabase,
  type ClaimsInDatabase,
  type KeptClaim,
} from '#product/shard-worker/journal/ownership-claim.js';

const a: ClaimInDatabase = { id: 'a', lsn: 10, epoch: 1 };
const b: ClaimInDatabase = { id: 'b', lsn: 20, epoch: 2 };
const c: ClaimInDatabase = { id: 'c', lsn: 30, epoch: 3 };
/** The reply to it never came. */
const unnoted = (claim: ClaimInDatabase): KeptClaim => ({ ...claim, lsn: 0, epoch: undefined });
/** The epoch of a row that an operator or the pruner has retired. */
const RETIRED = 99;

/** A row at `lsn`, at the epoch of its last claim or another one. */
function database(lsn: number, claims: readonly ClaimInDatabase[], epoch = claims.at(-1)?.epoch): ClaimsInDatabase {
  return { epoch, lsn, claims, isComplete: true };
}

test('a journal without claims may go on where nobody has claimed the stream, wherever the checkpoint is', () => {
  assert.deepEqual(ownershipOf([], database(100, [], 0)), { kind: 'last', lost: [] });
  assert.deepEqual(ownershipOf([], database(100, [], RETIRED)), { kind: 'last', lost: [] });
  assert.deepEqual(ownershipOf([], database(0, [])), { kind: 'last', lost: [] }, 'there is no row');
});

test('a journal with the last claim was the last owner, wherever the checkpoint is', () => {
  assert.deepEqual(ownershipOf([a, b], database(5, [a, b])), { kind: 'last', lost: [] });
  assert.deepEqual(ownershipOf([a, b], database(500, [a, b])), { kind: 'last', lost: [] });
});

test('a row that was retired since is still of its last owner', () => {
  assert.deepEqual(ownershipOf([a, b], database(500, [a, b], RETIRED)), { kind: 'last', lost: [] });
});

test('a row at the epoch that the journal noted last was taken by nobody since, whatever became of the claims', () => {
  assert.deepEqual(ownershipOf([a, b], database(500, [], b.epoch)), { kind: 'last', lost: [a, b] });
  assert.deepEqual(ownershipOf([a, b], database(500, [a], b.epoch)), { kind: 'last', lost: [b] });
});

test('an epoch of 0, of claims before epochs were kept, says nothing', () => {
  const old = { ...a, epoch: 0 };
  assert.deepEqual(ownershipOf([old], database(40, [old, b], 0)), { kind: 'earlier', sharedLsn: 20, lost: [] });
});

test('a claim of ours that commits late is ours, noted or not', () => {
  assert.deepEqual(ownershipOf([a, unnoted(b)], database(500, [a, b])), { kind: 'last', lost: [] });
  assert.deepEqual(ownershipOf([unnoted(a)], database(500, [a])), { kind: 'last', lost: [] });
});

test('a noted claim that the database took back is lost, and repeated by the next taking; one that was not noted is not', () => {
  assert.deepEqual(ownershipOf([a, b], database(5, [a])), { kind: 'last', lost: [b] });
  assert.deepEqual(ownershipOf([a, b], database(20, [a])), { kind: 'last', lost: [b] });
  assert.deepEqual(ownershipOf([a, unnoted(b)], database(500, [a])), { kind: 'last', lost: [] });
});

test('where the row is gone, the noted claims are lost, unless others have claims', () => {
  assert.deepEqual(ownershipOf([a, b], { ...database(0, []), epoch: undefined }), { kind: 'last', lost: [a, b] });
  assert.deepEqual(ownershipOf([a, b], { ...database(0, [a, b]), epoch: undefined }), { kind: 'last', lost: [] });
  assert.deepEqual(ownershipOf([a], { ...database(0, [a, b]), epoch: undefined }), {
    kind: 'earlier',
    sharedLsn: 20,
    lost: [],
  });
});

test('a journal shares with a later owner the records that it had at the takeover', () => {
  assert.deepEqual(ownershipOf([a], database(40, [a, b])), { kind: 'earlier', sharedLsn: 20, lost: [] });
  assert.deepEqual(ownershipOf([], database(40, [b])), { kind: 'earlier', sharedLsn: 20, lost: [] });
});

test('of several later owners, the one with the lowest LSN counts', () => {
  const low = { ...b, epoch: 4 };
  assert.deepEqual(ownershipOf([a], database(40, [a, c, low])), { kind: 'earlier', sharedLsn: 20, lost: [] });
  assert.deepEqual(ownershipOf([a], database(40, [a, b, c])), { kind: 'earlier', sharedLsn: 20, lost: [] });
});

test('only a noted claim hides what others did before it', () => {
  const ours = { ...c, epoch: 3 };
  assert.deepEqual(ownershipOf([a, ours], database(40, [a, b, ours])), { kind: 'last', lost: [] });
  assert.deepEqual(ownershipOf([a, unnoted(ours)], database(40, [a, b, ours])), {
    kind: 'earlier',
    sharedLsn: 20,
    lost: [],
  });
});

test('records under a claim that the database does not have are shared with no other owner', () => {
  assert.deepEqual(ownershipOf([a, b], database(40, [a, c])), { kind: 'earlier', sharedLsn: 20, lost: [b] });
});

test('a checkpoint beyond a claim that the database does not have was moved by an owner that cannot be told', () => {
  assert.deepEqual(ownershipOf([a, b], database(21, [a])), { kind: 'unknown' });
  assert.deepEqual(ownershipOf([a], database(5, [], RETIRED)), { kind: 'unknown' }, 'all claims are gone');
});

test('if claims were removed and none is in common, no shared record is known', () => {
  const forgetful = { epoch: 3, lsn: 5, claims: [b, c], isComplete: false };
  assert.deepEqual(ownershipOf([a], forgetful), { kind: 'unknown' });
  assert.deepEqual(ownershipOf([b], forgetful), { kind: 'earlier', sharedLsn: 30, lost: [] });
});

test('a process whose row was retired, or claimed late by itself, is not taken by others; a foreign claim later than its own is', () => {
  assert.equal(isTakenByOthers([a], 1, [a]), false);
  assert.equal(isTakenByOthers([a, unnoted(b)], 1, [a, b]), false);
  assert.equal(isTakenByOthers([b], 2, [a, b]), false, 'an earlier one');
  assert.equal(isTakenByOthers([a], 1, [a, b]), true);
});

test('a claim that is kept again is noted in its place at the end, and there is no other of its id', () => {
  assert.deepEqual(newOwnership('cover'), { mark: 'unregistered', cover: 'cover', claims: [] });
  assert.deepEqual(withClaim([unnoted(a), b], a), [b, a]);
});

test('of noted claims and of those that are not noted the newest are kept, each kind apart', () => {
  let claims: readonly KeptClaim[] = [];
  for (let n = 0; n < CLAIMS_KEPT_MAX + 3; n += 1) {
    claims = withClaim(claims, { id: `noted ${n}`, lsn: n, epoch: n });
    claims = withClaim(claims, { id: `open ${n}`, lsn: 0, epoch: undefined });
  }
  assert.equal(claims.length, 2 * CLAIMS_KEPT_MAX);
  assert.deepEqual(
    claims.slice(0, 3).map(({ id }) => id),
    ['noted 3', 'open 3', 'noted 4'],
  );
  for (let n = 0; n < CLAIMS_KEPT_MAX; n += 1)
    claims = withClaim(claims, { id: `failed ${n}`, lsn: 0, epoch: undefined });
  assert.equal(claims.findLast(({ epoch }) => epoch !== undefined)?.id, `noted ${CLAIMS_KEPT_MAX + 2}`);
});

test('an id that was copied with the directory, and that the original then claimed by, is of the original', () => {
  // The copy kept it before its own claim; both lock the row, so a claim of its own would have an earlier epoch.
  const copy = [unnoted(c), b];
  assert.deepEqual(ownershipOf(copy, database(40, [b, c])), { kind: 'earlier', sharedLsn: 30, lost: [] });
  assert.equal(isTakenByOthers(copy, b.epoch, [b, c]), true);
  assert.equal(isTakenByOthers([b, unnoted(c)], b.epoch, [b, c]), false);
});
