/** The statements and the simulated database without the rest of the product: walks of nodes that follow the protocol. */
import { test } from 'node:test';
import type { DatabaseMutations } from '../../database/database-mutations.js';
import { type PlantedBug, testPlantedBugs, walksPass } from '../planted-bugs.js';
import { fileWalk } from './protocol-walk.js';

/** Most walks until a bug is found. A few dozen are enough, rarely a few hundred. */
const MUTATED_WALKS_MAX = 600;

/** Bugs that need no second owner of a stream. */
const BUGS: readonly PlantedBug<DatabaseMutations>[] = [
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true } },
  { name: 'a missing row that a flush or a touch makes again', mutations: { makeRowAnew: true } },
  {
    name: 'an expiry without a new epoch, and a flush that applies to a retired row',
    mutations: { expireKeepsEpoch: true, fenceIgnoresState: true },
    from: 19,
  },
  { name: 'an accepted_through by the clock of a node', mutations: { acceptedThroughOfNode: true } },
  {
    name: 'an accepted_through by the clock of a node, capped by now()',
    mutations: { acceptedThroughCapped: true },
    from: 21,
  },
  { name: 'no pruning lock when a row is made', mutations: { newRowWithoutPruningLock: true }, from: 25 },
  { name: 'no pruning lock when a retired row is reopened', mutations: { retiredRowWithoutPruningLock: true } },
  { name: 'pruned_before read before the lock', mutations: { prunedBeforeReadFirst: true }, from: 64 },
  { name: 'a pruning lock that ends before the commit', mutations: { pruningLockEndsEarly: true } },
  { name: 'a new row without covered_from', mutations: { newRowCoversAll: true }, from: 9 },
  { name: 'a retired row that keeps covered_from', mutations: { retiredRowKeepsCover: true } },
  { name: 'accepted_through = now() in a new row', mutations: { newRowAcceptedNow: true } },
  { name: 'accepted_through = now() in a reopened row', mutations: { reopenedRowAcceptedNow: true } },
  { name: 'a deletion without the margin', mutations: { noMargin: true }, from: 18 },
  { name: 'a pruned_before that goes back', mutations: { prunerWithoutGreatest: true }, from: 39 },
  { name: 'a horizon computed before the lock', mutations: { horizonBeforeLock: true } },
  { name: 'a pruned_before written with the deletion', mutations: { prunedBeforeWithDeletion: true }, from: 1358 },
];

test('nodes that follow the protocol count each request once, and put nothing aside without need', (t) =>
  walksPass(t, 200, (seed) => fileWalk(seed, {})));

testPlantedBugs('a walk with the file journal', BUGS, MUTATED_WALKS_MAX, (seed, mutations) =>
  fileWalk(seed, mutations),
);
