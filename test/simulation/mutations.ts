/**
 * Bugs between the product and its world. The simulation must find each of them, so the proof is tested, too.
 */
import type { DatabaseMutations } from './database/database-mutations.js';
import type { SharedMutations } from './mutated-log.js';
import type { NatsMutations } from './mutated-nats.js';
import type { SqsMutations } from './mutated-sqs.js';

/** The bugs. */
export interface Mutations extends DatabaseMutations, SharedMutations, NatsMutations, SqsMutations {
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

/**
 * The bugs that random histories find. `from`: where to begin, for a bug that takes more than some dozens of histories to show.
 * Walks find bugs of statements (`protocol-walk.test.ts`), written histories those that need two owners of a stream
 * (`two-owners.test.ts`). `pruneByClock` and `forgetHandedOver` take more histories than a test has time for.
 */
export const MUTATIONS: readonly { readonly name: string; readonly mutations: Mutations; readonly from?: number }[] = [
  { name: 'acknowledging before the sync', mutations: { acknowledgeBeforeSync: true } },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true } },
  { name: 'a compare-and-set without the epoch', mutations: { ignoreEpoch: true }, from: 130 },
  { name: 'pruning before the commit is known', mutations: { pruneBeforeCommit: true } },
  { name: 'a recovery that ignores the checkpoint', mutations: { ignoreCheckpoint: true } },
  { name: 'frozen sums on top of an unknown checkpoint', mutations: { mergeAfterLostReply: true }, from: 45 },
  { name: 'a flush beyond the synced records', mutations: { freezeUnsynced: true } },
  { name: 'a sync that is believed after one that failed', mutations: { trustLaterSync: true }, from: 500 },
  { name: 'a new segment without the records of a failed sync', mutations: { forgetUnsynced: true }, from: 40 },
  { name: 'a copy of a directory that takes its stream back', mutations: { ignoreClaims: true }, from: 80 },
  { name: 'a touch with a time while records are unflushed', mutations: { touchUnflushed: true }, from: 360 },
  { name: 'a time that is sent before it is noted', mutations: { timeNotNoted: true }, from: 50 },
  { name: 'the last time heard instead of the largest', mutations: { lastTimeHeard: true } },
  { name: 'covered_from in memory only', mutations: { coverInMemory: true }, from: 1045 },
  { name: 'nothing put aside', mutations: { nothingPutAside: true }, from: 135 },
  { name: 'the last claim of others instead of the smallest end', mutations: { lastClaim: true }, from: 290 },
  { name: 'only noted claims for ours', mutations: { onlyNotedClaims: true } },
  { name: 'one claim for all takings of a process', mutations: { claimOfStart: true } },
  { name: 'a registration that takes any row for its own', mutations: { registerBlindly: true }, from: 310 },
  {
    name: 'a claim that ends with the journal, below the checkpoint',
    mutations: { claimEndOfJournal: true },
    from: 30,
  },
  { name: 'a missing row that a taking makes anew', mutations: { makeMissingRow: true }, from: 85 },
  { name: 'a row that a start without traffic makes', mutations: { registerAtStart: true }, from: 235 },
  { name: 'a clean stop that closes nothing', mutations: { closeNothing: true } },
  { name: 'a first flush that compares no epoch', mutations: { firstFlushIgnoresEpoch: true }, from: 380 },
  { name: 'an accepted_through by the clock of a node', mutations: { acceptedThroughOfNode: true }, from: 65 },
  { name: 'a taking without the lock on the row', mutations: { takeWithoutRowLock: true }, from: 165 },
  { name: 'a taking that keeps the epoch', mutations: { takeKeepsEpoch: true }, from: 85 },
  { name: 'rows that a trigger drops and nobody misses', mutations: { droppedRowsPass: true } },
  { name: 'idempotency keys that a trigger drops for duplicates', mutations: { unseenIsDuplicate: true } },
  { name: 'a search for rows that drops everything', mutations: { noOwnKey: true }, from: 75 },
];

/** The bugs that random histories of servers with one journal find. */
export const SHARED_MUTATIONS: readonly {
  readonly name: string;
  readonly mutations: Mutations;
  readonly from?: number;
}[] = [
  { name: 'a compare-and-set without the epoch', mutations: { ignoreEpoch: true } },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true } },
  { name: 'an append without the fence', mutations: { appendWithoutFence: true }, from: 215 },
  {
    name: 'a server that retires a stream of which it has only taken the flushes',
    mutations: { followerRetires: true },
    from: 26,
  },
  {
    name: 'an adoption that reads the log first, and a retirement that does not look at the log',
    mutations: { adoptionReadsFirst: true, retireIgnoresLog: true },
    from: 88,
  },
  { name: 'a group without an answer that is refused', mutations: { unknownIsRefused: true } },
];

/**
 * The bugs that random histories of servers with one journal in a broker find. Walks find those of the broker's messages that the
 * product's code has no place for (`nats-walk.test.ts`).
 */
export const NATS_MUTATIONS: typeof SHARED_MUTATIONS = [
  { name: 'a compare-and-set without the epoch', mutations: { ignoreEpoch: true }, from: 37 },
  { name: 'a taking that keeps the epoch', mutations: { takeKeepsEpoch: true }, from: 65 },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true }, from: 49 },
  { name: 'a group without an answer that is refused', mutations: { unknownIsRefused: true } },
  { name: '503 for a group that one read lacks', mutations: { missingIsRefused: true }, from: 60 },
  { name: '503 for a group that was sent and is not found', mutations: { sentIsRefused: true }, from: 47 },
  { name: 'idempotent requests before the row is made', mutations: { acceptBeforeRow: true }, from: 390 },
  { name: 'a purge without a sequence', mutations: { purgesWithoutSequence: true } },
  { name: 'a purge before the commit is known', mutations: { purgesBeforeCommit: true } },
  {
    name: 'a purge behind a commit that a failover has taken back',
    mutations: { purgesTakenBack: true },
    from: 329,
  },
  { name: 'a retirement without a fence', mutations: { retiresUnfenced: true }, from: 78 },
  {
    name: 'a fence without an expectation whose answer ends the stream, and retired streams that stay so',
    mutations: { fenceReplyEnds: true, neverReopens: true },
    from: 98,
  },
  { name: 'retired streams that stay so', mutations: { neverReopens: true }, from: 1298 },
  {
    name: 'a retired row that keeps covered_from',
    mutations: { retiresUnfenced: true, retiredRowKeepsCover: true },
    from: 418,
  },
  { name: 'the clock of the roll-up at the end of a stream', mutations: { wordOfRollUp: true }, from: 200 },
  { name: 'streams of another database', mutations: { countsForeign: true } },
  { name: 'a survey of the streams of all stores', mutations: { surveyOfAllStores: true } },
  // Only a broker that loses messages shows these.
  { name: 'a sequence that a writer takes for its last record', mutations: { trustsOwnSequence: true }, from: 2370 },
  { name: 'a sequence that a reader takes for its last message', mutations: { trustsReadSequence: true }, from: 4358 },
  { name: 'a loss by the checkpoint that the writer knows', mutations: { saysLostAtOnce: true }, from: 2846 },
  { name: 'sums in memory that go with their stream', mutations: { dropsPending: true }, from: 53 },
  { name: 'a loss that nobody looks for', mutations: { saysNoLoss: true }, from: 2846 },
];

/** The bugs that random histories of servers with one journal in a queue find. */
export const SQS_MUTATIONS: typeof SHARED_MUTATIONS = [
  { name: 'a compare-and-set without the epoch', mutations: { ignoreEpoch: true }, from: 4 },
  { name: 'a taking that keeps the epoch', mutations: { takeKeepsEpoch: true }, from: 26 },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true } },
  { name: 'a deletion before the commit', mutations: { deletesBeforeCommit: true } },
  { name: 'a deletion of what is already in memory', mutations: { deletesReceived: true } },
  { name: 'a consumer that deletes what it cannot count', mutations: { deletesUncounted: true }, from: 12 },
  { name: 'a consumer that ignores the named predecessor', mutations: { ignoresPredecessor: true }, from: 5 },
  { name: 'LSNs of unknown outcome that are used again', mutations: { reusesLsns: true }, from: 12 },
  { name: 'a consumer that goes on after its row was taken', mutations: { flushesOnTop: true }, from: 98 },
  { name: 'a flush of another consumer that is taken for ours', mutations: { missIsOurs: true }, from: 12 },
  { name: 'a stream that is retired after its last message is deleted', mutations: { deletesCloseFirst: true } },
  { name: '503 for a message that had no answer', mutations: { unknownIsRefused: true }, from: 10 },
  { name: '503 for a message of unknown outcome', mutations: { sentIsRefused: true }, from: 12 },
  { name: 'a client library that repeats sends by itself', mutations: { libraryRepeats: true }, from: 119 },
  { name: 'a first message that is given up', mutations: { helloGivenUp: true }, from: 40 },
  { name: 'a deduplication id without the stream', mutations: { sharedDeduplicationId: true } },
  { name: 'a message that names the last LSN used', mutations: { namesLastUsed: true }, from: 19 },
  { name: 'idempotent requests before the row is made', mutations: { acceptBeforeRow: true }, from: 155 },
  { name: 'retired streams that stay so', mutations: { neverReopens: true } },
];
