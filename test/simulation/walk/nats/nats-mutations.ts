/** Bugs of the processes of a walk on the nats journal: each is an *Else* of a rule on sending, reading, purging or ending. */
import type { DatabaseMutations } from '../../database/database-mutations.js';
import type { PlantedBug } from '../planted-bugs.js';
import type { RowWriterMutations } from '../row-writer.js';

/** All bugs of a walk. */
export interface NatsWalkMutations
  extends DatabaseMutations, RowWriterMutations, WriterMutations, PurgeMutations, RollUpMutations {}

/** Bugs of writers. */
interface WriterMutations {
  /** A second group is sent behind the first with the sequence that the first will get, and its answer acknowledges it. */
  readonly pipelined?: boolean;
  /** With `pipelined`: the second group expects nothing. */
  readonly secondExpectsNothing?: boolean;
  /** A group without an answer is unknown, and another one is sent with its LSN. */
  readonly otherBytesAtLsn?: boolean;
  /** A writer looks at the last message only. */
  readonly lastMessageOnly?: boolean;
  /** A last message that is not a fence is its own group, whatever its LSN. */
  readonly lastIsOurs?: boolean;
  /** A group that a look does not find is refused. */
  readonly missingIsRefused?: boolean;
}

/** Bugs of purging. */
interface PurgeMutations {
  /** Everything committed goes, the fences, too. */
  readonly purgesAll?: boolean;
  /** Everything committed but the last message goes, the fences, too. */
  readonly purgesFences?: boolean;
  /** The whole stream goes. */
  readonly purgesWithoutSequence?: boolean;
  /** What a flush covers goes before its commit is known. */
  readonly purgesBeforeCommit?: boolean;
}

/** Bugs of roll-ups. */
interface RollUpMutations {
  /** A record counts, whatever its LSN. */
  readonly countsCopies?: boolean;
  /** A reader jumps over a gap. */
  readonly readsOverGaps?: boolean;
  /** What stands behind a fence is not read. */
  readonly stopsAtFence?: boolean;
  /** A roll-up begins to read with the first message: no bug, but some bugs show more often. */
  readonly readsFromFirst?: boolean;
  /** Replicas are further behind, in ms: no bug, but some bugs show more often. */
  readonly lagMaxMs?: number;
  /** A roll-up begins to read near the checkpoint, and never reads what is before. */
  readonly neverReadsLeftOut?: boolean;
  /** A stream is retired without a fence. */
  readonly retiresUnfenced?: boolean;
  /** A stream is retired while records below its fence are not flushed. */
  readonly retiresUnflushed?: boolean;
  /** A fence expects nothing. */
  readonly fenceExpectsNothing?: boolean;
  /** The answer to a fence counts as having read it. */
  readonly fenceReplyEnds?: boolean;
  /** A fence takes an LSN. */
  readonly fenceTakesLsn?: boolean;
  /** A retired stream is never opened again. */
  readonly neverReopens?: boolean;
  /** A tombstone goes while its stream still holds records. */
  readonly dropsTombstoneEarly?: boolean;
  /** A tombstone goes as soon as its stream holds nothing but fences, though a replica may still show its records. */
  readonly dropsTombstoneAtOnce?: boolean;
  /** A stream without a row gets one, whatever its first record. */
  readonly anyRecordMakesRow?: boolean;
  /** At the end of the stream, its roll-up takes the time of the database for the time that the writer has heard. */
  readonly touchesAtEnd?: boolean;
}

/** The bugs that walks find. */
export const NATS_BUGS: readonly PlantedBug<NatsWalkMutations>[] = [
  { name: 'a second publish in flight with a predicted sequence', mutations: { pipelined: true } },
  {
    name: 'a second publish without an expectation, and readers that jump over gaps',
    mutations: { pipelined: true, secondExpectsNothing: true, readsOverGaps: true },
  },
  { name: 'other bytes at the LSN of a group in doubt', mutations: { otherBytesAtLsn: true } },
  { name: 'a last message that is taken for the group, whatever its LSN', mutations: { lastIsOurs: true } },
  {
    name: '503 for a group in doubt below a fence, after a look at the last message only',
    mutations: { lastMessageOnly: true, sentIsRefused: true },
    from: 13,
  },
  {
    name: 'a look at the last message only, and retired streams that are never opened again',
    mutations: { lastMessageOnly: true, neverReopens: true },
    from: 283,
  },
  { name: '503 for a group that one read lacks', mutations: { missingIsRefused: true } },
  { name: '503 for a group that was sent and is not found', mutations: { sentIsRefused: true }, from: 14 },
  { name: 'requests that a writer carries to its new stream', mutations: { carriesHand: true }, from: 61 },
  { name: 'idempotent requests before the row is made', mutations: { acceptBeforeRow: true } },
  {
    name: 'idempotent requests before the row is made, and rows that cover everything',
    mutations: { acceptBeforeRow: true, newRowCoversAll: true },
    from: 138,
    maySetAside: true,
  },
  { name: 'idempotent requests under the row of another stream', mutations: { coverOfProcess: true }, from: 6 },
  { name: 'a purge without a sequence', mutations: { purgesWithoutSequence: true } },
  { name: 'a purge before the commit is known', mutations: { purgesBeforeCommit: true } },
  {
    name: 'a purge that leaves a stream empty, and retired streams that are never opened again',
    mutations: { purgesAll: true, neverReopens: true },
    from: 7,
  },
  {
    name: 'a purge of fences, and retired streams that are never opened again',
    mutations: { purgesFences: true, neverReopens: true },
    from: 167,
  },
  { name: 'a reader that counts an LSN twice', mutations: { countsCopies: true } },
  { name: 'a reader that stops at a fence', mutations: { stopsAtFence: true }, from: 18 },
  {
    name: 'a retirement of a stream of which messages were left out, and retired streams that are never opened again',
    mutations: { neverReadsLeftOut: true, neverReopens: true },
  },
  { name: 'a retirement without a fence', mutations: { retiresUnfenced: true }, from: 27 },
  {
    name: 'a retirement without a fence, and retired streams that are never opened again',
    mutations: { retiresUnfenced: true, neverReopens: true },
    from: 3,
  },
  {
    name: 'a retirement with unflushed records, and retired streams that are never opened again',
    mutations: { retiresUnflushed: true, neverReopens: true },
  },
  {
    name: 'a fence without an expectation whose answer ends the stream, and retired streams that are never opened again',
    mutations: { fenceExpectsNothing: true, fenceReplyEnds: true, neverReopens: true },
  },
  { name: 'a fence with an LSN', mutations: { fenceTakesLsn: true }, from: 6 },
  { name: 'retired streams that are never opened again', mutations: { neverReopens: true }, from: 167 },
  { name: 'a tombstone that goes before the records of its stream', mutations: { dropsTombstoneEarly: true } },
  {
    name: 'a tombstone that goes while a replica shows the records of its stream',
    mutations: { dropsTombstoneAtOnce: true, readsFromFirst: true, lagMaxMs: 300 },
    from: 2291,
  },
  { name: 'the clock of the roll-up in a flush', mutations: { acceptedThroughCapped: true }, from: 13 },
  { name: 'the clock of the roll-up at the end of a stream', mutations: { touchesAtEnd: true }, from: 130 },
  {
    name: 'a retired row that keeps covered_from',
    mutations: { retiresUnfenced: true, retiredRowKeepsCover: true },
    from: 27,
    maySetAside: true,
  },
  {
    name: 'accepted_through = now() in a reopened row',
    mutations: { retiresUnfenced: true, reopenedRowAcceptedNow: true },
    from: 9,
    maySetAside: true,
  },
  { name: 'no pruning lock when a row is made', mutations: { newRowWithoutPruningLock: true }, from: 68 },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true }, from: 7 },
];
