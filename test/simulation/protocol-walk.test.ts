/** The statements and the simulated database without the rest of the product: walks of nodes that follow the protocol. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../support/random-runs.js';
import type { DatabaseMutations } from './database/database-mutations.js';
import { walk } from './protocol-walk.js';

const WALKS = 200;
/** Most walks until a bug is found. A few dozen are enough, rarely a few hundred. */
const MUTATED_WALKS_MAX = 600;

/** Bugs that need no second owner of a stream. */
const MUTATIONS: readonly DatabaseMutations[] = [
  { separateTransactions: true },
  { makeRowAnew: true },
  { expireKeepsEpoch: true, fenceIgnoresState: true },
  { acceptedThroughOfNode: true },
  { acceptedThroughCapped: true },
  { newRowWithoutPruningLock: true },
  { retiredRowWithoutPruningLock: true },
  { prunedBeforeReadFirst: true },
  { pruningLockEndsEarly: true },
  { newRowCoversAll: true },
  { retiredRowKeepsCover: true },
  { newRowAcceptedNow: true },
  { reopenedRowAcceptedNow: true },
  { noMargin: true },
  { prunerWithoutGreatest: true },
  { horizonBeforeLock: true },
  { prunedBeforeWithDeletion: true },
];

test('nodes that follow the protocol count each request once, and put nothing aside without need', async (t) => {
  const first = seedOfRun();
  const walks = countOfRuns(WALKS);
  for (let seed = first; seed < first + walks; seed += 1) {
    const { violation } = await walk(seed, {});
    assert.equal(violation, undefined, `SEED=${seed}`);
  }
  t.diagnostic(`SEED=${first}, ${walks} walks`);
});

for (const mutations of MUTATIONS) {
  const name = Object.keys(mutations).join(', ');
  test(`a walk finds the bug ${name}`, async (t) => {
    // This one takes more walks than the others.
    const from = mutations.prunedBeforeWithDeletion === true ? 670 : 1;
    for (let seed = from; seed < from + MUTATED_WALKS_MAX; seed += 1) {
      const { violation } = await walk(seed, mutations);
      if (violation === undefined) continue;
      t.diagnostic(`SEED=${seed}: ${violation.message}`);
      return;
    }
    assert.fail(`${MUTATED_WALKS_MAX} walks passed`);
  });
}
