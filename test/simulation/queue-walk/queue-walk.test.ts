/** The rules of the sqs journal on the simulated queue and the simulated database: walks of processes that follow them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';
import { queueWalk } from './queue-walk.js';

const WALKS = 80;

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
