/** The arithmetic of the cost model, with costs that are easy to calculate with. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { balancedThreads, costInputs, keysPerNode, walls, type CostInputs } from '../../../bench/report/cost-model.js';
import { figures } from '../../../bench/report/figure-blocks.js';

const inputs: CostInputs = {
  httpThreadUs: 10,
  shardUs: { 'file-always': 2 },
  existingRowUs: 5,
  newRowUs: 8,
  flushRowUs: 1,
  rowsPerSecondOfOne: 100_000,
  rowsPerSecondMax: 200_000,
  newRowsPerSecondMax: 150_000,
  syncsPerSecond: 1000,
};
const machine = { nodes: 1, cores: 16, httpThreads: 1, shards: 4, journal: 'file-always', keysPerSecond: 0 };

void test('with one HTTP thread its core is the first wall, and the shards are the last', () => {
  assert.deepEqual(walls(inputs, machine), [
    { part: 'HTTP threads', incrementsPerSecond: 100_000 },
    { part: 'cores', incrementsPerSecond: (16 * 1e6) / 12 },
    { part: 'shard threads', incrementsPerSecond: 2_000_000 },
  ]);
});

void test('on two cores that PostgreSQL shares, the CPU time for flushed rows reduces increments', () => {
  const [first] = walls(inputs, { ...machine, cores: 1, keysPerSecond: 100_000 });
  assert.deepEqual(first, { part: 'cores', incrementsPerSecond: (1e6 - 600_000) / 12 });
});

void test('flushes that need more than all cores leave zero increments, not fewer', () => {
  const [first] = walls(inputs, { ...machine, cores: 1, keysPerSecond: 1_000_000 });
  assert.deepEqual(first, { part: 'cores', incrementsPerSecond: 0 });
});

void test('ten nodes carry ten times as much, and PostgreSQL uses none of their cores', () => {
  const flushing = { ...machine, keysPerSecond: 100_000 };
  const ten = walls(inputs, { ...flushing, nodes: 10 });
  assert.equal(ten.find(({ part }) => part === 'HTTP threads')?.incrementsPerSecond, 1_000_000);
  assert.equal(ten.find(({ part }) => part === 'cores')?.incrementsPerSecond, (10 * (16e6 - 100_000)) / 12);
});

void test('a journal that was not measured is refused', () => {
  assert.throws(() => walls(inputs, { ...machine, journal: 'file-everysec' }), /file-everysec was not measured/);
});

void test('cores are divided between HTTP threads and shards in proportion to their costs', () => {
  assert.deepEqual(balancedThreads(inputs, 14, 'file-always', 2), { httpThreads: 10, shards: 2 });
  assert.deepEqual(balancedThreads(inputs, 3, 'file-always', 1), { httpThreads: 1, shards: 1 });
});

void test('counters of all nodes share what one connection writes, other counters what PostgreSQL writes', () => {
  assert.deepEqual(keysPerNode(inputs, 10), { apart: 20_000, shared: 10_000, fresh: 15_000 });
});

void test('if a run is missing, the model names the command that makes it', () => {
  assert.deepEqual(costInputs([]), { missing: 'npm run bench' });
  assert.equal(figures('cost-model-machines', []), 'Not measured yet: `npm run bench`.');
});
