import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StreamBacklog } from '#product/shard-worker/journal/shared/stream-backlog.js';
import { RECORD_OFFSET } from '#product/shard-worker/protocol/record-layout.js';
import { incrementRecord } from '../../../../support/journal-fixtures.js';

const record = incrementRecord('k', 1);

/** Adds records of the LSNs, `msApart`. */
function filled(lsns: readonly number[], msApart: number): StreamBacklog {
  const backlog = new StreamBacklog();
  for (const [index, lsn] of lsns.entries()) backlog.add(lsn, record, index * msApart);
  return backlog;
}

const upTo = (count: number): readonly number[] => Array.from({ length: count }, (_, index) => index + 1);

test('increments above any LSN are counted one by one, pending and flushed', () => {
  const backlog = filled(upTo(100), 10);
  backlog.noteCheckpoint(60);
  // The part of LSN 51 to 75 is flushed in part only.
  for (const [lsn, pending, flushed] of [
    [0, 50, 50],
    [49, 50, 1],
    [60, 40, 0],
    [99, 1, 0],
    [100, 0, 0],
  ] as const) {
    assert.deepEqual(backlog.incrementsAfter(lsn), { pending, flushed }, `above ${lsn}`);
  }
});

test('LSNs that a journal skipped have no increments, and records without any count as none', () => {
  const backlog = filled([5, 9, 20], 1);
  const empty = record.slice();
  new DataView(empty.buffer).setUint32(RECORD_OFFSET.increments, 0, true);
  backlog.add(21, empty, 3);
  for (const [lsn, pending] of [
    [4, 3],
    [5, 2],
    [19, 1],
    [20, 0],
  ] as const) {
    assert.deepEqual(backlog.incrementsAfter(lsn), { pending, flushed: 0 }, `above ${lsn}`);
  }
});

test('of older records only the sums of parts are known, rounded up; the latest hundred thousand stay exact', () => {
  const backlog = filled(upTo(110_000), 0.1);
  const latest = 110_000;
  assert.equal(backlog.incrementsAfter(latest - 90_001).pending, 90_001);
  // A part of 2,500 records.
  assert.equal(backlog.incrementsAfter(1).pending, latest);
});

test('hours without a flush keep exact sums of joined parts', () => {
  const backlog = filled(upTo(20_000), 1000);
  assert.equal(backlog.incrementsAfter(0).pending, 20_000);
  assert.equal(backlog.incrementsAfter(20_000 - 1).pending, 1);
});
