/** The rules of the nats journal on the simulated broker and the simulated database: walks of processes that follow them. */
import { test } from 'node:test';
import { testPlantedBugs, walksPass } from '../planted-bugs.js';
import { NATS_BUGS } from './nats-mutations.js';
import { natsWalk } from './nats-walk.js';

test('writers and roll-ups of the nats journal count each request once', (t) =>
  walksPass(t, 80, (seed) => natsWalk(seed, {})));

testPlantedBugs('a walk with the nats journal', NATS_BUGS, 40, natsWalk);
