/**
 * The shard side against a simulated world. `SEED=n` replays one history with its last steps; `npm run simulate` runs
 * any number of histories.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../support/random-runs.js';
import { isQuick } from '../support/tier.js';
import { runHistory } from './history.js';
import { MUTATIONS } from './mutations.js';
import { replay } from './replay.js';

const HISTORIES = 2000;
/** After which no further history begins. */
const TIME_MAX_MS = isQuick ? 8000 : 20_000;

/** Maximum number of histories until a mutation is found. A few dozen are enough from the seed that the bug names. */
const MUTATED_HISTORIES_MAX = 300;

/** Seeds that once showed a bug, and the bug. */
const REGRESSIONS: readonly { readonly seed: number; readonly what: string }[] = [
  { seed: 373, what: 'a drain that did not report unread records' },
  { seed: 199, what: 'a retired stream that continued' },
  { seed: 56, what: 'recovered increments that a second start forgot' },
  { seed: 301100, what: 'a synced record considered at risk after its stream was deleted' },
  { seed: 204126, what: 'records of a failed sync that were committed and then missing' },
  { seed: 3141599300, what: 'a record that was written after the shard had failed, below its checkpoint' },
  { seed: 3141599882, what: 'a stop that waits for the locks of a lost session' },
  { seed: 2001306, what: 'a record that a disk error left pending and not accepted' },
];

test('random histories of crashes and faults count every acknowledged increment once', async (t) => {
  const asked = process.env['SEED'] !== undefined && process.env['SEED'] !== '';
  const first = seedOfRun();
  const histories = asked ? 1 : countOfRuns(HISTORIES);
  const until = performance.now() + TIME_MAX_MS;
  let ran = 0;
  for (let seed = first; seed < first + histories && (ran === 0 || performance.now() < until); seed += 1) {
    const { violation } = await runHistory(seed);
    ran += 1;
    if (violation !== undefined) {
      await replay(seed);
      assert.fail(`SEED=${seed}: ${violation.message}`);
    }
  }
  t.diagnostic(`SEED=${first}, ${ran} histories`);
});

// The quick tier is fresh histories alone.
if (!isQuick) {
  for (const { seed, what } of REGRESSIONS) {
    test(`the history that once showed ${what} passes`, async () => {
      const { violation } = await runHistory(seed);
      assert.equal(violation, undefined, `SEED=${seed}`);
    });
  }

  test('a seed replays the same history step by step', async () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      const first: string[] = [];
      const second: string[] = [];
      await runHistory(seed, {}, first);
      await runHistory(seed, {}, second);
      assert.ok(first.length > 10);
      assert.deepEqual(second, first);
    }
  });

  for (const { name, mutations, from = 1 } of MUTATIONS) {
    test(`the simulation finds ${name}`, async (t) => {
      for (let seed = from; seed < from + MUTATED_HISTORIES_MAX; seed += 1) {
        const { violation } = await runHistory(seed, mutations);
        if (violation === undefined) continue;
        t.diagnostic(`SEED=${seed}: ${violation.message}`);
        return;
      }
      assert.fail(`${MUTATED_HISTORIES_MAX} histories passed`);
    });
  }
}
