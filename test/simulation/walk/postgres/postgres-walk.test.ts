/** The statements of the postgres journal and the simulated database alone: walks of processes that follow the protocol. */
import { test } from 'node:test';
import { testPlantedBugs, walksPass } from '../planted-bugs.js';
import { POSTGRES_BUGS } from './postgres-mutations.js';
import { postgresWalk } from './postgres-walk.js';

test('writers and roll-ups of the postgres journal count each request once, and put nothing aside', (t) =>
  walksPass(t, 100, (seed) => postgresWalk(seed, {})));

testPlantedBugs('a walk with the postgres journal', POSTGRES_BUGS, 60, (seed, mutations) =>
  postgresWalk(seed, mutations),
);
