import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keyChoice, type KeyDistribution } from '#product/cli/load/key-distribution.js';

const DRAWS = 200_000;
const SEED = 4711;

function frequencies(distribution: KeyDistribution, seed = SEED): Float64Array {
  const choose = keyChoice(distribution, seed);
  const counts = new Float64Array(distribution.count);
  for (let draw = 0; draw < DRAWS; draw += 1) {
    const number = choose();
    assert.ok(Number.isInteger(number) && number >= 0 && number < distribution.count, `key ${number}`);
    counts[number] = (counts[number] ?? 0) + 1;
  }
  return counts.map((count) => count / DRAWS);
}

/** Within five standard deviations of the count of a key that is chosen with `probability`. */
function assertNear(frequency: number | undefined, probability: number, what: string): void {
  const deviation = Math.sqrt((probability * (1 - probability)) / DRAWS);
  const found = frequency ?? NaN;
  assert.ok(Math.abs(found - probability) < 5 * deviation, `${what}: ${found}, not ${probability}`);
}

for (const exponent of [0.5, 1, 2]) {
  test(`with zipf ${exponent} key n is chosen as often as 1 / (n + 1) ^ ${exponent}`, () => {
    const count = 50;
    const weights = Array.from({ length: count }, (_, number) => 1 / (number + 1) ** exponent);
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const found = frequencies({ kind: 'zipf', count, exponent });
    weights.forEach((weight, number) => assertNear(found[number], weight / total, `key ${number}`));
  });
}

test('with uniform every key is chosen equally often, and with fixed there is one key', () => {
  const found = frequencies({ kind: 'uniform', count: 7 });
  found.forEach((frequency, number) => assertNear(frequency, 1 / 7, `key ${number}`));
  assert.deepEqual([...frequencies({ kind: 'fixed', count: 1 })], [1]);
});

test('a seed gives the same choices again, and another seed gives others', () => {
  const choices = (seed: number): number[] => {
    const choose = keyChoice({ kind: 'zipf', count: 1_000_000, exponent: 1 }, seed);
    return Array.from({ length: 100 }, choose);
  };
  assert.deepEqual(choices(1), choices(1));
  for (const other of [0, 2, 2 ** 32 - 1]) assert.notDeepEqual(choices(1), choices(other));
});
