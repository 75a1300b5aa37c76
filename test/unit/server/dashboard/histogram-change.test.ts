import assert from 'node:assert/strict';
import { test } from 'node:test';
import { meanOf, quantileOf } from '#product/server/dashboard/histogram-change.js';

const BOUNDS = [1, 2, 5, 10];

test('a quantile is interpolated within its bucket, of what was gained only', () => {
  const before = [100, 100, 100, 100, 100];
  // Gained: 10 up to 1, 10 up to 2, none up to 5, 20 up to 10.
  const after = [110, 120, 120, 140, 140];
  assert.equal(quantileOf(before, after, BOUNDS, 0.125), 0.5);
  assert.equal(quantileOf(before, after, BOUNDS, 0.25), 1);
  assert.equal(quantileOf(before, after, BOUNDS, 0.375), 1.5);
  assert.equal(quantileOf(before, after, BOUNDS, 0.5), 2);
  assert.equal(quantileOf(before, after, BOUNDS, 0.75), 7.5);
  assert.equal(quantileOf(before, after, BOUNDS, 1), 10);
});

test('without a gain there is no quantile; above the last bound it is that bound', () => {
  assert.equal(quantileOf([1, 1, 1, 1, 1], [1, 1, 1, 1, 1], BOUNDS, 0.5), undefined);
  assert.equal(quantileOf([], [0, 0, 0, 0, 3], BOUNDS, 0.5), 10);
});

test('the mean of what was gained', () => {
  const reading = (sum: number, count: number) => ({ cumulative: [], sum, count });
  assert.equal(meanOf(reading(10, 5), reading(16, 8)), 2);
  assert.equal(meanOf(reading(10, 5), reading(10, 5)), undefined);
});
