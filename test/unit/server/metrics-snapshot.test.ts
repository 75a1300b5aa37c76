import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { takeSnapshot, type MetricsSources } from '#product/server/metrics/metrics-snapshot.js';
import { makeStats, statsRow, StatsSequence } from '#product/shard-worker/protocol/stats.js';

test('a shard that never finishes a change of its numbers is reported as overloaded', async () => {
  const stats = makeStats(1);
  const sequence = new StatsSequence(statsRow(stats, 0));
  // All that a snapshot uses.
  const sources = { config: { shards: 1 }, stats } as MetricsSources;
  sequence.beginChange();
  await assert.rejects(takeSnapshot(sources), (error) => error instanceof CounterError && error.code === 'overloaded');
  sequence.endChange();
  assert.equal((await takeSnapshot(sources)).shards.length, 1);
});
