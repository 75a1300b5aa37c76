/**
 * Bugs of less careful statements, to prove that the simulation finds them. Each is the *Else* of a rule of the protocol that
 * lies in SQL; `mutated` in the statements marks where.
 */

/** The bugs. Without any, statements mean what their text says. */
export interface DatabaseMutations extends FenceMutations, TakingMutations, PrunerMutations, LogMutations {}

/** Bugs of the statements that an owner sends under its epoch. */
interface FenceMutations {
  /** A flush does not compare the rows of counters that were written with those that were meant. */
  readonly droppedRowsPass?: boolean;
  /** A flush takes an idempotency key that was not written for a duplicate, visible or not. */
  readonly unseenIsDuplicate?: boolean;
  /** A search for rows that are not written does not try a key of its own. */
  readonly noOwnKey?: boolean;
  /** A survey finds the streams of every store. */
  readonly surveyOfAllStores?: boolean;
  /** Owners' statements compare no epoch. */
  readonly ignoreEpoch?: boolean;
  /** The checkpoint commits before the sums. */
  readonly separateTransactions?: boolean;
  /** A flush or a touch whose row is missing makes it, at LSN 0. */
  readonly makeRowAnew?: boolean;
  /** The first flush of a stream applies to any row at LSN 0, also one that another session has made or taken. */
  readonly firstFlushIgnoresEpoch?: boolean;
  /** A flush applies to closed and retired rows. Harmful together with `expireKeepsEpoch` or `closeComparesLsnOnly`. */
  readonly fenceIgnoresState?: boolean;
  /** A close compares the LSN, and no epoch. */
  readonly closeComparesLsnOnly?: boolean;
  /** A touch compares the LSN, and no epoch. */
  readonly touchComparesLsnOnly?: boolean;
  /** A touch compares neither epoch nor LSN. */
  readonly touchComparesNothing?: boolean;
  /** A flush sends the time of its node, whose clock is two hours ahead. */
  readonly acceptedThroughOfNode?: boolean;
  /** The same, and the statement caps it: `least(node's clock, now())`. */
  readonly acceptedThroughCapped?: boolean;
}

/** Bugs of the transaction that takes a stream. */
interface TakingMutations {
  /** The row is not locked between the statement that reads it and the one that raises its epoch, whatever that is by then. */
  readonly takeWithoutRowLock?: boolean;
  /** A taking keeps the epoch of the row. */
  readonly takeKeepsEpoch?: boolean;
  /** No pruning lock when a row is made. */
  readonly newRowWithoutPruningLock?: boolean;
  /** No pruning lock when a retired row is reopened. */
  readonly retiredRowWithoutPruningLock?: boolean;
  /** `pruned_before` is read before the wait for the pruner. */
  readonly prunedBeforeReadFirst?: boolean;
  /** The pruning lock ends before the commit. */
  readonly pruningLockEndsEarly?: boolean;
  /** A new row covers everything. */
  readonly newRowCoversAll?: boolean;
  /** A retired row that is reopened keeps what it covered. */
  readonly retiredRowKeepsCover?: boolean;
  /** A new row begins with `accepted_through = now()`. */
  readonly newRowAcceptedNow?: boolean;
  /** A closed or retired row begins anew with `accepted_through = now()`. */
  readonly reopenedRowAcceptedNow?: boolean;
}

/** Bugs of the pruner. */
interface PrunerMutations {
  /** An expired stream keeps its epoch. Harmful together with `fenceIgnoresState`. */
  readonly expireKeepsEpoch?: boolean;
  /** The deletion leaves no time for requests under way. */
  readonly noMargin?: boolean;
  /** `pruned_before` may go back. */
  readonly prunerWithoutGreatest?: boolean;
  /** The horizon is computed before the wait for takings. */
  readonly horizonBeforeLock?: boolean;
  /** `pruned_before` is written by the statement that deletes. */
  readonly prunedBeforeWithDeletion?: boolean;
}

/** Bugs of the statements of the postgres journal. */
interface LogMutations {
  /** An append compares neither stream nor epoch. */
  readonly appendWithoutFence?: boolean;
  /** An append compares them, and locks nothing. */
  readonly appendWithoutLock?: boolean;
  /** An append does not look for the record before it. */
  readonly appendOverGap?: boolean;
  /** The last LSN is that of the log, whose flushed records are pruned. */
  readonly lastLsnOfLogAlone?: boolean;
  /** An adoption keeps the append epoch. */
  readonly adoptionKeepsAppendEpoch?: boolean;
  /** A touch takes the writer's word over though the log goes on above the checkpoint. */
  readonly wordOverLog?: boolean;
  /** A touch at the end of the log takes the time of the database for the writer's word. */
  readonly wordOfRollUp?: boolean;
  /** A retirement does not look at the log. */
  readonly retireIgnoresLog?: boolean;
}
