/**
 * Bugs between the product and its world. The simulation must find each of them, so the proof is tested, too.
 */
import type { DatabaseMutations } from './postgres-model.js';

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
  /** A stream reports everything as committed up to a time, although some of it is not applied. */
  readonly acceptedThroughAhead?: boolean;
}

/** Each bug. `from`: the first seed, if a bug takes some thousands of histories to show. */
export const MUTATIONS: readonly { readonly name: string; readonly mutations: Mutations; readonly from?: number }[] = [
  { name: 'acknowledging before the sync', mutations: { acknowledgeBeforeSync: true } },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true } },
  { name: 'a compare-and-set without the epoch', mutations: { ignoreEpoch: true } },
  { name: 'a raise of the epoch from any epoch', mutations: { raiseAnyEpoch: true }, from: 22100 },
  { name: 'pruning before the commit is known', mutations: { pruneBeforeCommit: true } },
  { name: 'pruning by time alone', mutations: { pruneByClock: true }, from: 700 },
  { name: 'a recovery that ignores the checkpoint', mutations: { ignoreCheckpoint: true } },
  { name: 'frozen sums on top of an unknown checkpoint', mutations: { mergeAfterLostReply: true } },
  { name: 'a flush beyond the synced records', mutations: { freezeUnsynced: true } },
  { name: 'a sync that is believed after one that failed', mutations: { trustLaterSync: true } },
  { name: 'a new segment without the records of a failed sync', mutations: { forgetUnsynced: true } },
  { name: 'records handed over that nobody misses', mutations: { forgetHandedOver: true }, from: 68900 },
  { name: 'a copy of a directory that takes its stream back', mutations: { ignoreClaims: true } },
  { name: 'an accepted_through ahead of the applied records', mutations: { acceptedThroughAhead: true } },
];
