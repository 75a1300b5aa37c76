/**
 * Servers that share a journal in PostgreSQL, in a simulated world. `SEED=n` replays one history with its last steps; `npm run
 * simulate -- --journal postgres` runs any number of histories.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../support/random-runs.js';
import { SHARED_MUTATIONS } from './mutations.js';
import { replay } from './replay.js';
import { runSharedHistory } from './shared-history.js';

const HISTORIES = 300;
const TIME_MAX_MS = 15_000;

/** Most histories until a bug is found, from the seed that it names. */
const MUTATED_HISTORIES_MAX = 60;

test('random histories of servers that take each other over count every acknowledged increment once', async (t) => {
  const asked = process.env['SEED'] !== undefined && process.env['SEED'] !== '';
  const first = seedOfRun();
  const histories = asked ? 1 : countOfRuns(HISTORIES);
  const until = performance.now() + TIME_MAX_MS;
  let ran = 0;
  for (let seed = first; seed < first + histories && (ran === 0 || performance.now() < until); seed += 1) {
    const { violation } = await runSharedHistory(seed);
    ran += 1;
    if (violation !== undefined) {
      await replay(seed, false, 'postgres');
      assert.fail(`SEED=${seed}: ${violation.message}`);
    }
  }
  t.diagnostic(`SEED=${first}, ${ran} histories`);
});

test('a seed replays the same history of servers with one journal step by step', async () => {
  for (const seed of [1, 2, 3]) {
    const first: string[] = [];
    const second: string[] = [];
    await runSharedHistory(seed, {}, first);
    await runSharedHistory(seed, {}, second);
    assert.ok(first.length > 10);
    assert.deepEqual(second, first);
  }
});

for (const { name, mutations, from = 1 } of SHARED_MUTATIONS) {
  test(`histories of servers with one journal show ${name}`, async (t) => {
    for (let seed = from; seed < from + MUTATED_HISTORIES_MAX; seed += 1) {
      const { violation } = await runSharedHistory(seed, mutations);
      if (violation === undefined) continue;
      t.diagnostic(`SEED=${seed}: ${violation.message}`);
      return;
    }
    assert.fail(`${MUTATED_HISTORIES_MAX} histories passed`);
  });
}
