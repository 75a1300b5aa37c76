/** Bugs of the processes of a walk on the sqs journal: each is an *Else* of a rule on sending, reading or ending. */
import type { DatabaseMutations } from '../../database/database-mutations.js';
import type { PlantedBug } from '../planted-bugs.js';
import type { RowWriterMutations } from '../row-writer.js';

/** All bugs of a walk. */
export interface SqsWalkMutations extends DatabaseMutations, RowWriterMutations, SenderMutations, ConsumerMutations {}

/** Bugs of writers. */
interface SenderMutations {
  /** A second record is sent before the first is answered. */
  readonly sendsAhead?: boolean;
  /** A record without an answer is repeated behind later ones, and an answer acknowledges it. */
  readonly repeatsBehind?: boolean;
  /** The number of a record that was given up is used again. */
  readonly reusesNumber?: boolean;
  /** A refusal refuses the request, though an attempt before it had no answer. */
  readonly refusedAfterUnknown?: boolean;
  /** A request whose attempts had no answer in time is refused. */
  readonly timeoutIsRefused?: boolean;
  /** The library that sends requests repeats them by itself, and reports the last refusal. */
  readonly libraryRepeats?: boolean;
  /** The deduplication id is the LSN alone. */
  readonly sharedDeduplicationId?: boolean;
  /** An opening record without an answer is given up like any record. */
  readonly openingRecordGivenUp?: boolean;
  /** A record names the last LSN that was used, not the last that was acknowledged. */
  readonly namesLastUsed?: boolean;
  /** A record carries the time of its sending, not that of the request's acceptance. */
  readonly timeOfSending?: boolean;
  /** A heartbeat is sent while requests are in hand. */
  readonly heartbeatOverHand?: boolean;
  /** A record is never over: a process that has slept repeats it. */
  readonly repeatsForEver?: boolean;
  /** A writer that finds its row retired or gone goes on. */
  readonly ignoresRetirement?: boolean;
  /** The close record goes before what is in hand. */
  readonly closesEarly?: boolean;
}

/** Bugs of consumers. */
interface ConsumerMutations {
  /** What is in memory is deleted before it is committed. */
  readonly deletesBeforeCommit?: boolean;
  /** A message whose LSN is not above the last one in memory is deleted at once. */
  readonly deletesDropped?: boolean;
  /** A flush that applies to nothing counts as applied if the checkpoint has moved. */
  readonly missIsOurs?: boolean;
  /** A flush that applies to nothing, or has no reply, is sent again on top of what the row says. */
  readonly flushesOnTop?: boolean;
  /** A record counts, whatever its LSN. */
  readonly countsCopies?: boolean;
  /** Nobody looks at the LSN that a record names. */
  readonly ignoresPredecessor?: boolean;
  /** A retired row is treated as an open one. */
  readonly ignoresRetiredRow?: boolean;
  /** A retired stream is never opened again. */
  readonly neverReopens?: boolean;
  /** Nothing is put aside because of its time. */
  readonly countsUncovered?: boolean;
  /** A stream without a row gets one, whatever its first record. */
  readonly anyRecordMakesRow?: boolean;
  /** A tombstone goes at once. */
  readonly dropsTombstoneEarly?: boolean;
  /** With nothing in memory, a consumer takes the time of the database for the time that the writer has heard. */
  readonly touchesAtEnd?: boolean;
  /** A stream is retired by its age a short time after its last record. */
  readonly retiresEarly?: boolean;
  /** The message of a close record is deleted before its stream is retired. */
  readonly deletesCloseFirst?: boolean;
  /** The visibility of messages is never extended. */
  readonly neverExtends?: boolean;
}

/** The bugs that walks find. */
export const SQS_BUGS: readonly PlantedBug<SqsWalkMutations>[] = [
  { name: 'a second record before the first is answered', mutations: { sendsAhead: true } },
  { name: 'a record that is repeated behind later ones', mutations: { repeatsBehind: true } },
  { name: 'an LSN that was given up and is used again', mutations: { reusesNumber: true }, from: 5 },
  { name: '503 for a refusal after an attempt without an answer', mutations: { refusedAfterUnknown: true } },
  { name: '503 for a record that had no answer in time', mutations: { timeoutIsRefused: true } },
  { name: 'a client library that repeats sends by itself', mutations: { libraryRepeats: true } },
  {
    name: '503 for a record in doubt when its stream is left',
    mutations: { sentIsRefused: true },
    from: 89,
  },
  { name: 'a deduplication id without the stream', mutations: { sharedDeduplicationId: true } },
  { name: 'an opening record that is given up', mutations: { openingRecordGivenUp: true }, from: 30 },
  { name: 'a record that names the last LSN used', mutations: { namesLastUsed: true } },
  { name: 'idempotent requests before the row is made', mutations: { acceptBeforeRow: true } },
  {
    name: 'idempotent requests before the row is made, and rows that cover everything',
    mutations: { acceptBeforeRow: true, newRowCoversAll: true },
    from: 51,
    maySetAside: true,
  },
  { name: 'idempotent requests under the row of another stream', mutations: { coverOfProcess: true }, from: 72 },
  { name: 'a heartbeat over requests in hand', mutations: { heartbeatOverHand: true }, from: 32 },
  { name: 'requests that a writer carries to its new stream', mutations: { carriesHand: true }, from: 53 },
  {
    name: 'a record with the time of its sending, while older requests wait',
    mutations: { timeOfSending: true },
    from: 206,
  },
  { name: 'a close record before the last requests', mutations: { closesEarly: true }, from: 3 },
  {
    name: 'a close record before the last requests, and retired streams that are never opened again',
    mutations: { closesEarly: true, neverReopens: true },
    from: 3,
  },
  { name: 'a deletion before the commit', mutations: { deletesBeforeCommit: true }, from: 2 },
  { name: 'a deletion of what is already in memory', mutations: { deletesDropped: true }, from: 6 },
  { name: 'a flush of another consumer that is taken for ours', mutations: { missIsOurs: true }, from: 9 },
  { name: 'sums that are flushed on top of an unknown checkpoint', mutations: { flushesOnTop: true } },
  { name: 'a consumer that counts an LSN twice', mutations: { countsCopies: true } },
  {
    name: 'a consumer that ignores the named predecessor, in a queue that locks no groups',
    mutations: { ignoresPredecessor: true },
    from: 4,
  },
  {
    name: 'a flush that does not look at retired_at',
    mutations: { fenceIgnoresState: true, ignoresRetiredRow: true },
    from: 4,
    maySetAside: true,
  },
  { name: 'retired streams that are never opened again', mutations: { neverReopens: true }, from: 4 },
  { name: 'nothing put aside', mutations: { countsUncovered: true }, from: 5, maySetAside: true },
  {
    name: 'a row for a stream whose first record is not LSN 1, and records that are repeated for ever',
    mutations: { anyRecordMakesRow: true, repeatsForEver: true },
    from: 20,
    sleepsInDoubt: true,
  },
  { name: 'a row that its writer makes again', mutations: { remakeRow: true }, from: 23, sleepsInDoubt: true },
  {
    name: 'a tombstone that goes while its stream is in the queue',
    mutations: { dropsTombstoneEarly: true },
    from: 4,
  },
  {
    name: 'a close record that is deleted before its stream is retired',
    mutations: { deletesCloseFirst: true },
    from: 396,
  },
  { name: 'a stream that is retired soon after its last record', mutations: { retiresEarly: true } },
  { name: 'the clock of the consumer in a flush', mutations: { acceptedThroughCapped: true }, from: 4 },
  { name: 'the clock of the consumer with nothing in memory', mutations: { touchesAtEnd: true } },
  {
    name: 'a retired row that keeps covered_from',
    mutations: { retiredRowKeepsCover: true },
    from: 5,
    maySetAside: true,
  },
  {
    name: 'accepted_through = now() in a reopened row',
    mutations: { reopenedRowAcceptedNow: true },
    from: 4,
    maySetAside: true,
  },
  { name: 'no pruning lock when a row is made', mutations: { newRowWithoutPruningLock: true }, from: 144 },
  {
    name: 'no pruning lock when a retired row is opened again',
    mutations: { retiredRowWithoutPruningLock: true },
    from: 4,
    maySetAside: true,
  },
  { name: 'a pruned_before that goes back', mutations: { prunerWithoutGreatest: true }, from: 53, maySetAside: true },
  { name: 'a deletion of keys without the margin', mutations: { noMargin: true }, from: 33 },
  { name: 'checkpoint and sums in separate transactions', mutations: { separateTransactions: true }, from: 8 },
];
