/** The statements of the postgres journal and the simulated database alone: walks of processes that follow the protocol. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';
import { logWalk } from './log-walk.js';
import { LOG_MUTATIONS } from './log-mutations.js';

const WALKS = 100;
/** Most walks until a bug is found, from the seed that it names. */
const MUTATED_WALKS_MAX = 60;

test('writers and roll-ups that follow the protocol count each request once, and put nothing aside', async (t) => {
  const first = seedOfRun();
  const walks = countOfRuns(WALKS);
  for (let seed = first; seed < first + walks; seed += 1) {
    const { violation } = await logWalk(seed, {});
    assert.equal(violation, undefined, `SEED=${seed}`);
  }
  t.diagnostic(`SEED=${first}, ${walks} walks`);
});

for (const { name, mutations, from = 1 } of LOG_MUTATIONS) {
  test(`a walk finds ${name}`, async (t) => {
    for (let seed = from; seed < from + MUTATED_WALKS_MAX; seed += 1) {
      const { violation } = await logWalk(seed, mutations);
      if (violation === undefined) continue;
      t.diagnostic(`SEED=${seed}: ${violation.message}`);
      return;
    }
    assert.fail(`${MUTATED_WALKS_MAX} walks passed`);
  });
}
