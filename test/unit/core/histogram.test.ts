import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Histogram, histogramCells, readHistogram } from '#product/core/histogram.js';

const BOUNDS = [1, 2.5, 10];

test('a value counts in the first bucket whose bound it does not exceed, and in the last beyond all bounds', () => {
  const cells = new Float64Array(histogramCells(BOUNDS));
  const histogram = new Histogram(cells, BOUNDS);
  for (const value of [0, 1, 1.1, 2.5, 10, 10.1, 1000]) histogram.observe(value);
  assert.deepEqual(readHistogram([cells], BOUNDS), { cumulative: [2, 4, 5, 7], sum: 1024.7, count: 7 });
});

test('an observation can count several times, and parts add up', () => {
  const parts = [0, 1].map(() => new Float64Array(histogramCells(BOUNDS)));
  for (const cells of parts) new Histogram(cells, BOUNDS).observe(2, 3);
  assert.deepEqual(readHistogram(parts, BOUNDS), { cumulative: [0, 6, 6, 6], sum: 12, count: 6 });
});

test('cells of another size are a bug', () => {
  assert.throws(() => new Histogram(new Float64Array(2), BOUNDS), TypeError);
});
