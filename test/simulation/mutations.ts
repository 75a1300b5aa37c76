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
  /** Everything in the journal is taken for pending. */
  readonly ignoreCheckpoint?: boolean;
  /** After a lost reply the frozen sums go on top of whatever checkpoint is found. */
  readonly mergeAfterLostReply?: boolean;
  /** A flush covers what was written, synced or not. */
  readonly freezeUnsynced?: boolean;
}
