import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { HandedOverStream } from '#product/shard-worker/protocol/control-messages.js';
import { closeBalance, makeStats, STAT, statsRow } from '#product/shard-worker/protocol/stats.js';
import { HandedOverStreams } from '#product/shard-worker/supervisor/handed-over-streams.js';
import { PendingSums } from '#product/shard-worker/thread/pending-sums.js';
import { handedOverAbove, missingIncrements } from '#product/shard-worker/thread/streams/handed-over.js';
import { publishOwn } from '#product/shard-worker/thread/shard-balance.js';
import { idempotentEntry, incrementEntries } from '../../../support/record-entries.js';

/** LSN 11 to 15 were being flushed, 16 to 20 were not. */
const HANDED_OVER: HandedOverStream = {
  stream: 's',
  checkpointLsn: 10,
  frozenLsn: 15,
  appliedLsn: 20,
  frozenIncrements: 50,
  liveIncrements: 7,
};

for (const [what, checkpoint, endLsn, found, above, missing] of [
  ['is whole and nothing was committed', 10, 20, 57, 10, 0],
  ['holds more than was acknowledged', 10, 23, 90, 10, 0],
  ['lacks the end', 10, 18, 53, 10, 4],
  ['lacks the end behind a flush that was committed', 15, 18, 3, 15, 4],
  ['ends below a flush that was committed', 15, 15, 0, 15, 7],
  ['lacks the end under a database that went back', 4, 18, 53, 10, 4],
  ['is committed to its end', 20, 20, 0, 15, 0],
] as const) {
  test(`of a journal that ${what}, ${missing} increments are missing`, () => {
    assert.equal(handedOverAbove(HANDED_OVER, checkpoint), above);
    assert.equal(missingIncrements(HANDED_OVER, above, endLsn, found), missing);
  });
}

test('what an ended thread leaves of its own stream is remembered until a later thread has read it', () => {
  const row = statsRow(makeStats(1), 0);
  const streams = new HandedOverStreams();
  streams.add('s', row);
  assert.deepEqual(streams.all, [], 'nothing was pending');
  row[STAT.ownCheckpointLsn] = 10;
  row[STAT.ownFrozenLsn] = 15;
  row[STAT.ownAppliedLsn] = 20;
  row[STAT.ownFrozenIncrements] = 50;
  row[STAT.ownLiveIncrements] = 7;
  streams.add('s', row);
  closeBalance(row, STAT.handedOver);
  // A thread that ended before it had a stream.
  streams.add('s', row);
  assert.deepEqual(streams.all, [HANDED_OVER]);
  streams.remove('s');
  assert.deepEqual(streams.all, []);
});

test('idempotent requests that are set aside belong to the range whose flush is under way', () => {
  const row = statsRow(makeStats(1), 0);
  const pendingSums = new PendingSums('s', { epoch: 1, lsn: 10, coveredFrom: 100 });
  const old = idempotentEntry('uncovered', [
    ['a', 1],
    ['b', 1],
  ]);
  pendingSums.apply(11, old, 0, old.length, 99);
  pendingSums.freeze();
  const plain = incrementEntries([['c', 1]]);
  pendingSums.apply(12, plain, 0, plain.length, 100);
  publishOwn(pendingSums, row);
  assert.deepEqual([row[STAT.ownFrozenIncrements], row[STAT.ownLiveIncrements]], [2, 1]);
});
