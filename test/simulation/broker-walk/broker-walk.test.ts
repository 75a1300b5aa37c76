/** The rules of the nats journal on the simulated broker and the simulated database: walks of processes that follow them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';
import { BROKER_MUTATIONS } from './broker-mutations.js';
import { brokerWalk } from './broker-walk.js';

const WALKS = 80;
/** Most walks until a bug is found, from the seed that it names. */
const MUTATED_WALKS_MAX = 40;

test('writers and roll-ups that follow the protocol count each request once through a broker', async (t) => {
  const first = seedOfRun();
  const walks = countOfRuns(WALKS);
  for (let seed = first; seed < first + walks; seed += 1) {
    const { violation } = await brokerWalk(seed, {});
    assert.equal(violation, undefined, `SEED=${seed}`);
  }
  t.diagnostic(`SEED=${first}, ${walks} walks`);
});

for (const { name, mutations, from = 1, maySetAside = false } of BROKER_MUTATIONS) {
  test(`a walk through a broker finds ${name}`, async (t) => {
    for (let seed = from; seed < from + MUTATED_WALKS_MAX; seed += 1) {
      const { violation } = await brokerWalk(seed, mutations, { maySetAside });
      if (violation === undefined) continue;
      t.diagnostic(`SEED=${seed}: ${violation.message}`);
      return;
    }
    assert.fail(`${MUTATED_WALKS_MAX} walks passed`);
  });
}
