/**
 * The crash test's own bookkeeping is correct: a ledger that accepts everything would prove nothing.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OutcomeLedger, type Outcome } from '../support/outcome-ledger.js';
import { seededRandom } from '../support/random.js';

/** Sends `outcomes.length` requests, counts each `counts` times, and returns the violations that the ledger finds. */
function violationsOf(outcomes: readonly Outcome[], counts: readonly number[]): string[] {
  const ledger = new OutcomeLedger(seededRandom('ledger'));
  const next = ledger.writer('w');
  const sums = new Map<string, bigint>();
  for (const [index, outcome] of outcomes.entries()) {
    const request = next();
    for (const [key, amount] of Object.entries(JSON.parse(request.body) as Record<string, number>)) {
      sums.set(key, (sums.get(key) ?? 0n) + BigInt(amount) * BigInt(counts[index] ?? 0));
    }
    request.settle(outcome);
  }
  return ledger.violations(sums);
}

const fifty = Array.from({ length: 50 });

test('acknowledged requests counted once, refused ones not counted and unknown ones either way pass', () => {
  const outcomes = fifty.map((_, index) => (['acknowledged', 'refused', 'unknown', 'unknown'] as const)[index % 4]);
  const counts = fifty.map((_, index) => [1, 0, 0, 1][index % 4] ?? 0);
  assert.deepEqual(violationsOf(outcomes as Outcome[], counts), []);
});

for (const [outcome, count] of [
  ['acknowledged', 0],
  ['acknowledged', 2],
  ['refused', 1],
  ['unknown', 2],
] as const) {
  test(`one request of fifty that is ${outcome} and counted ${count} times is reported`, () => {
    const at = 31;
    const outcomes = fifty.map((_, index) => (index === at ? outcome : 'acknowledged'));
    const counts = fifty.map((_, index) => (index === at ? count : 1));
    assert.match(violationsOf(outcomes, counts).join('\n'), new RegExp(`was counted ${count} times`));
  });
}

test('a counter that nobody sent is reported', () => {
  const ledger = new OutcomeLedger(seededRandom('ledger'));
  assert.deepEqual(ledger.violations(new Map([['stray', 1n]])), ['stray was never sent']);
});
