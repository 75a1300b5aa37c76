import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeStats, STAT, statsRow } from '#product/shard-worker/protocol/stats.js';
import { HandedOverStreams } from '#product/shard-worker/supervisor/handed-over-streams.js';

test('the last 1,000 streams with records that were not committed are remembered', () => {
  const streams = new HandedOverStreams();
  const row = statsRow(makeStats(1), 0);
  streams.add('committed', row);
  row[STAT.ownAppliedLsn] = 7;
  streams.add(undefined, row);
  for (let stream = 1; stream <= 1001; stream += 1) streams.add(String(stream), row);
  assert.equal(streams.all.length, 1000);
  assert.deepEqual([streams.all[0]?.stream, streams.all[0]?.appliedLsn], ['2', 7]);
  streams.remove('2');
  assert.equal(streams.all[0]?.stream, '3');
});
