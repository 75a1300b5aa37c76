/** The rules of the sqs journal on the simulated queue and the simulated database: walks of processes that follow them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testPlantedBugs, walksPass } from '../planted-bugs.js';
import { SQS_BUGS } from './sqs-mutations.js';
import { sqsWalk } from './sqs-walk.js';

const SLEEPY_WALKS = 10;

test('writers and consumers of the sqs journal count each request once', (t) =>
  walksPass(t, 40, (seed) => sqsWalk(seed, {})));

test('writers of the sqs journal that sleep in doubt until their tombstones are gone count each request once', async () => {
  for (let seed = 1; seed <= SLEEPY_WALKS; seed += 1) {
    const { violation } = await sqsWalk(seed, {}, { sleepsInDoubt: true });
    assert.equal(violation, undefined, `SEED=${seed}`);
  }
});

testPlantedBugs('a walk with the sqs journal', SQS_BUGS, 20, sqsWalk);
