/**
 * Bugs between the product and its world. The simulation must find each of them, so the proof is tested, too.
 */
import type { DatabaseMutations } from './database/database-mutations.js';

/** The bugs. */
export interface Mutations extends DatabaseMutations {
  /** `always` answers before the sync. */
  readonly acknowledgeBeforeSync?: boolean;
  /** Segments are deleted when a flush is sent. */
  readonly pruneBeforeCommit?: boolean;
  /** Segments are deleted after the keep time, whether or not the database answers. */
  readonly pruneByClock?: boolean;
  /** Recovery considers everything in the journal pending. */
  readonly ignoreCheckpoint?: boolean;
  /** After a lost reply the frozen sums are added to whatever checkpoint is found. */
  readonly mergeAfterLostReply?: boolean;
  /** A flush covers written records, synced or not. */
  readonly freezeUnsynced?: boolean;
  /** Records of an earlier run that may not be durable are synced, and not written again. */
  readonly trustLaterSync?: boolean;
  /** A segment that follows a failed sync lacks the records of that sync. */
  readonly forgetUnsynced?: boolean;
  /** A thread does not compare what it finds in the journal with what the thread before it had. */
  readonly forgetHandedOver?: boolean;
  /** A directory takes its stream back, even if another one has owned it since. */
  readonly ignoreClaims?: boolean;
  /** Touches send the time of the database while records are unflushed. */
  readonly touchUnflushed?: boolean;
  /** A time is sent without being durable in the directory. */
  readonly timeNotNoted?: boolean;
  /** Records carry the time that was heard last, not the largest. */
  readonly lastTimeHeard?: boolean;
  /** What an open row covers is known only to the process that made or reopened it. */
  readonly coverInMemory?: boolean;
  /** Every row covers everything. */
  readonly nothingPutAside?: boolean;
  /** Of the claims of others the last one counts, not that with the smallest end. */
  readonly lastClaim?: boolean;
  /** A claim is ours only once it is noted. */
  readonly onlyNotedClaims?: boolean;
  /** One claim for all takings of a process. */
  readonly claimOfStart?: boolean;
  /** The journal is not looked at again after the reply of a taking. */
  readonly noSecondLook?: boolean;
  /** The first registration of a stream takes a row that is there for its own. */
  readonly registerBlindly?: boolean;
  /** The end of a claim is that of the journal, also below the checkpoint. */
  readonly claimEndOfJournal?: boolean;
  /** A taking makes a missing row anew, at LSN 0. */
  readonly makeMissingRow?: boolean;
  /** An id in the directory is ours, also one that was copied with the directory. */
  readonly trustCopiedIds?: boolean;
  /** The row of a stream is made when a process starts, and is not known to the directory. */
  readonly registerAtStart?: boolean;
  /** A clean stop leaves the rows of its streams open. */
  readonly closeNothing?: boolean;
}

/** Each bug. `from`: the first seed, if a bug takes some thousands of histories to show. */
export const MUTATIONS: readonly { readonly name: string; readonly mutations: Mutations; readonly from?: number }[] = [
  { name: 'acknowledging before the sync', mutations: { acknowledgeBeforeSync: true } },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true } },
  { name: 'a compare-and-set without the epoch', mutations: { ignoreEpoch: true } },
  { name: 'pruning before the commit is known', mutations: { pruneBeforeCommit: true } },
  { name: 'pruning by time alone', mutations: { pruneByClock: true }, from: 700 },
  { name: 'a recovery that ignores the checkpoint', mutations: { ignoreCheckpoint: true } },
  { name: 'frozen sums on top of an unknown checkpoint', mutations: { mergeAfterLostReply: true } },
  { name: 'a flush beyond the synced records', mutations: { freezeUnsynced: true } },
  { name: 'a sync that is believed after one that failed', mutations: { trustLaterSync: true } },
  { name: 'a new segment without the records of a failed sync', mutations: { forgetUnsynced: true } },
  { name: 'records handed over that nobody misses', mutations: { forgetHandedOver: true }, from: 68900 },
  { name: 'a copy of a directory that takes its stream back', mutations: { ignoreClaims: true } },
  { name: 'a touch with a time while records are unflushed', mutations: { touchUnflushed: true } },
  { name: 'a time that is sent before it is noted', mutations: { timeNotNoted: true } },
  { name: 'the last time heard instead of the largest', mutations: { lastTimeHeard: true } },
  { name: 'covered_from in memory only', mutations: { coverInMemory: true } },
  { name: 'nothing put aside', mutations: { nothingPutAside: true } },
  { name: 'the last claim of others instead of the smallest end', mutations: { lastClaim: true } },
  { name: 'only noted claims for ours', mutations: { onlyNotedClaims: true } },
  { name: 'a copied id for one of ours', mutations: { trustCopiedIds: true } },
  { name: 'one claim for all takings of a process', mutations: { claimOfStart: true } },
  { name: 'no second look at the journal after a taking', mutations: { noSecondLook: true } },
  { name: 'a registration that takes any row for its own', mutations: { registerBlindly: true } },
  { name: 'a claim that ends with the journal, below the checkpoint', mutations: { claimEndOfJournal: true } },
  { name: 'a missing row that a taking makes anew', mutations: { makeMissingRow: true } },
  { name: 'a row that a start without traffic makes', mutations: { registerAtStart: true } },
  { name: 'a clean stop that closes nothing', mutations: { closeNothing: true } },
  { name: 'a missing row made anew by a flush or a touch', mutations: { makeRowAnew: true } },
  { name: 'a first flush that compares no epoch', mutations: { firstFlushIgnoresEpoch: true } },
  {
    name: 'an expiry without a new epoch, and a flush that applies to a retired row',
    mutations: { expireKeepsEpoch: true, fenceIgnoresState: true },
  },
  {
    name: 'a close that compares no epoch, and a flush that applies to a closed row',
    mutations: { closeComparesLsnOnly: true, fenceIgnoresState: true },
  },
  { name: 'a touch that compares the LSN only', mutations: { touchComparesLsnOnly: true } },
  { name: 'a touch that compares nothing', mutations: { touchComparesNothing: true } },
  { name: 'an accepted_through by the clock of a node', mutations: { acceptedThroughOfNode: true } },
  { name: 'an accepted_through by the clock of a node, or now()', mutations: { acceptedThroughCapped: true } },
  { name: 'a taking without the lock on the row', mutations: { takeWithoutRowLock: true } },
  { name: 'a taking that keeps the epoch', mutations: { takeKeepsEpoch: true } },
  { name: 'no pruning lock when a row is made', mutations: { newRowWithoutPruningLock: true } },
  { name: 'no pruning lock when a retired row is reopened', mutations: { retiredRowWithoutPruningLock: true } },
  { name: 'pruned_before read before the lock', mutations: { prunedBeforeReadFirst: true } },
  { name: 'a pruning lock that ends before the commit', mutations: { pruningLockEndsEarly: true } },
  { name: 'a new row without covered_from', mutations: { newRowCoversAll: true } },
  { name: 'a retired row that keeps covered_from', mutations: { retiredRowKeepsCover: true } },
  { name: 'accepted_through = now() in a new row', mutations: { newRowAcceptedNow: true } },
  { name: 'accepted_through = now() in a reopened row', mutations: { reopenedRowAcceptedNow: true } },
  { name: 'a deletion without the margin', mutations: { noMargin: true } },
  { name: 'a pruned_before that goes back', mutations: { prunerWithoutGreatest: true } },
  { name: 'a horizon computed before the lock', mutations: { horizonBeforeLock: true } },
  { name: 'a pruned_before written with the deletion', mutations: { prunedBeforeWithDeletion: true } },
];
