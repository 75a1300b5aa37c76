import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  closeBalance,
  copyRow,
  makeStats,
  readShardHistogram,
  SHARD_HISTOGRAMS,
  shardHistogram,
  STAT,
  statsRow,
  StatsSequence,
  type ShardHistogram,
} from '#product/shard-worker/protocol/stats.js';

test('a row is not copied while it is being changed, and is copied after the change', () => {
  const row = statsRow(makeStats(2), 1);
  const [writer, reader] = [new StatsSequence(row), new StatsSequence(row)];
  const copy = new Float64Array(row.length);
  assert.equal(copyRow(row, reader, copy), true);
  writer.beginChange();
  row[STAT.accepted] = 3;
  assert.equal(copyRow(row, reader, copy), false);
  row[STAT.pendingIncrements] = 3;
  writer.endChange();
  assert.equal(copyRow(row, reader, copy), true);
  assert.deepEqual([copy[STAT.accepted], copy[STAT.pendingIncrements]], [3, 3]);
});

test('a copy is refused if a change began and ended meanwhile', () => {
  const row = statsRow(makeStats(1), 0);
  const sequence = new StatsSequence(row);
  const before = sequence.position;
  sequence.beginChange();
  sequence.endChange();
  assert.equal(sequence.isAt(before), false);
});

for (const isInTheMiddle of [false, true]) {
  test(`the balance of a thread that ended ${isInTheMiddle ? 'in the middle of' : 'between'} changes is closed, and the row can be copied`, () => {
    const row = statsRow(makeStats(1), 0);
    const sequence = new StatsSequence(row);
    sequence.beginChange();
    row[STAT.accepted] = 10;
    row[STAT.flushed] = 4;
    if (!isInTheMiddle) {
      row[STAT.pendingIncrements] = 6;
      row[STAT.oldestPendingAtMs] = 1;
      sequence.endChange();
    }
    assert.equal(closeBalance(row, STAT.handedOver), 6);
    const copy = new Float64Array(row.length);
    assert.equal(copyRow(row, sequence, copy), true);
    assert.deepEqual([copy[STAT.handedOver], copy[STAT.pendingIncrements], copy[STAT.oldestPendingAtMs]], [6, 0, 0]);
    // The next thread goes on.
    sequence.beginChange();
    assert.equal(copyRow(row, sequence, copy), false);
    sequence.endChange();
    assert.equal(copyRow(row, sequence, copy), true);
  });
}

test(
  'copies of a row that another thread changes all the time always belong together',
  { timeout: 60_000 },
  async () => {
    const memory = makeStats(1);
    const stop = new Int32Array(new SharedArrayBuffer(4));
    const stats = new URL('../../../../../dist/shard-worker/protocol/stats.js', import.meta.url).href;
    const code = `
    const { workerData: { memory, stop } } = require('node:worker_threads');
    import(${JSON.stringify(stats)}).then(({ STAT, statsRow, StatsSequence }) => {
      const row = statsRow(memory, 0);
      const sequence = new StatsSequence(row);
      while (Atomics.load(stop, 0) === 0) {
        sequence.beginChange();
        row[STAT.accepted] += 1;
        row[STAT.pendingIncrements] += 1;
        if (row[STAT.accepted] % 7 === 0) {
          row[STAT.flushed] += row[STAT.pendingIncrements];
          row[STAT.pendingIncrements] = 0;
        }
        sequence.endChange();
      }
    });`;
    const worker = new Worker(code, { eval: true, workerData: { memory, stop } });
    const row = statsRow(memory, 0);
    const sequence = new StatsSequence(row);
    const copy = new Float64Array(row.length);
    try {
      let copies = 0;
      let refused = 0;
      const until = performance.now() + 30_000;
      while (copies < 50_000 && performance.now() < until) {
        if (copyRow(row, sequence, copy)) {
          const [accepted = 0, flushed = 0, pending = 0] = [STAT.accepted, STAT.flushed, STAT.pendingIncrements].map(
            (cell) => copy[cell],
          );
          assert.equal(accepted, flushed + pending);
          if (accepted > 0) copies += 1;
        } else refused += 1;
        if ((copies + refused) % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal(copies, 50_000);
    } finally {
      Atomics.store(stop, 0, 1);
      await once(worker, 'exit');
    }
  },
);

test('histograms of a row do not overlap, nor do they reach into the next row', () => {
  const memory = makeStats(2);
  const names = Object.keys(SHARD_HISTOGRAMS) as ShardHistogram[];
  for (const [index, name] of names.entries()) {
    shardHistogram(statsRow(memory, 0), name).observe(Number.POSITIVE_INFINITY, index + 1);
    shardHistogram(statsRow(memory, 0), name).observe(0, 1);
  }
  for (const [index, name] of names.entries())
    assert.equal(readShardHistogram([statsRow(memory, 0)], name).count, index + 2);
  assert.ok(statsRow(memory, 1).every((cell) => cell === 0));
  for (const cell of Object.values(STAT)) assert.equal(statsRow(memory, 0)[cell], 0);
});
