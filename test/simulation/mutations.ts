/**
 * Bugs put between the product and its world, each of which the simulation must find: the proof is tested too.
 */
import type { DatabaseMutations } from './postgres-model.js';

/** What is broken. */
export interface Mutations extends DatabaseMutations {
  /** `always` answers without its sync. */
  readonly acknowledgeBeforeSync?: boolean;
  /** Segments go when a flush is sent. */
  readonly pruneBeforeCommit?: boolean;
  /** Segments go when the keep time is over, whether or not the database answers. */
  readonly pruneByClock?: boolean;
  /** Everything in the journal is taken for pending. */
  readonly ignoreCheckpoint?: boolean;
  /** After a lost reply the frozen sums go on top of whatever checkpoint is found. */
  readonly mergeAfterLostReply?: boolean;
  /** A flush covers what was written, synced or not. */
  readonly freezeUnsynced?: boolean;
  /** A directory takes its stream back, whoever has owned it since. */
  readonly ignoreClaims?: boolean;
  /** A stream says that all is committed up to a time when some of it is not applied. */
  readonly acceptedThroughAhead?: boolean;
}

/** Each bug. `from`: the seed to begin with, where a bug takes some thousands of histories to show. */
export const MUTATIONS: readonly { readonly name: string; readonly mutations: Mutations; readonly from?: number }[] = [
  { name: 'acknowledging before the sync', mutations: { acknowledgeBeforeSync: true } },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true } },
  { name: 'a compare-and-set without the epoch', mutations: { ignoreEpoch: true } },
  { name: 'a raise of the epoch that does not say from which', mutations: { raiseAnyEpoch: true }, from: 22100 },
  { name: 'pruning before the commit is known', mutations: { pruneBeforeCommit: true } },
  { name: 'pruning by the clock', mutations: { pruneByClock: true }, from: 46000 },
  { name: 'a recovery that ignores the checkpoint', mutations: { ignoreCheckpoint: true } },
  { name: 'frozen sums on top of an unknown checkpoint', mutations: { mergeAfterLostReply: true } },
  { name: 'a flush beyond what is synced', mutations: { freezeUnsynced: true } },
  { name: 'a copy of a directory that takes its stream back', mutations: { ignoreClaims: true } },
  { name: 'an accepted_through that is ahead of what is applied', mutations: { acceptedThroughAhead: true } },
];
