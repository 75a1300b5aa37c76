/** The rules of the sqs journal on the simulated queue and the simulated database: walks of processes that follow them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';
import { QUEUE_MUTATIONS } from './queue-mutations.js';
import { queueWalk } from './queue-walk.js';

const WALKS = 40;
const SLEEPY_WALKS = 10;
/** Most walks until a bug is found, from the seed that it names. */
const MUTATED_WALKS_MAX = 20;

test('writers and consumers that follow the protocol count each request once through a queue', async (t) => {
  const first = seedOfRun();
  const walks = countOfRuns(WALKS);
  const sum = { acknowledged: 0, aside: 0, expired: 0 };
  for (let seed = first; seed < first + walks; seed += 1) {
    const { violation, acknowledged, aside, expired } = await queueWalk(seed, {});
    assert.equal(violation, undefined, `SEED=${seed}`);
    sum.acknowledged += acknowledged;
    sum.aside += aside;
    sum.expired += expired;
  }
  t.diagnostic(`SEED=${first}, ${walks} walks, ${JSON.stringify(sum)}`);
});

test('the same holds where writers sleep while a record is in doubt, and wake up after their tombstones are gone', async () => {
  for (let seed = 1; seed <= SLEEPY_WALKS; seed += 1) {
    const { violation } = await queueWalk(seed, {}, { sleepsInDoubt: true });
    assert.equal(violation, undefined, `SEED=${seed}`);
  }
});

for (const { name, mutations, from = 1, ...options } of QUEUE_MUTATIONS) {
  test(`a walk through a queue finds ${name}`, async (t) => {
    for (let seed = from; seed < from + MUTATED_WALKS_MAX; seed += 1) {
      const { violation } = await queueWalk(seed, mutations, options);
      if (violation === undefined) continue;
      t.diagnostic(`SEED=${seed}: ${violation.message}`);
      return;
    }
    assert.fail(`${MUTATED_WALKS_MAX} walks passed`);
  });
}
