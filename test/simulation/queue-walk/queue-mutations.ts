/** Bugs of the processes of a walk on the sqs journal: each is an *Else* of a rule on sending, reading or ending. */
import type { DatabaseMutations } from '../database/database-mutations.js';

/** All bugs of a walk. */
export interface QueueWalkMutations extends DatabaseMutations, SenderMutations, ConsumerMutations {}

/** Bugs of writers. */
export interface SenderMutations {
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
  /** A record that was sent, and is in doubt when the stream is left, is refused. */
  readonly sentIsRefused?: boolean;
  /** The library that sends requests repeats them by itself, and reports the last refusal. */
  readonly libraryRepeats?: boolean;
  /** The deduplication id is the LSN alone. */
  readonly sharedDeduplicationId?: boolean;
  /** A hello without an answer is given up like any record. */
  readonly helloGivenUp?: boolean;
  /** A record names the last LSN that was used, not the last that was acknowledged. */
  readonly namesLastUsed?: boolean;
  /** Idempotent requests are taken before the row is made. */
  readonly acceptBeforeRow?: boolean;
  /** Idempotent requests are taken once the row of any stream of the process was open. */
  readonly coverOfProcess?: boolean;
  /** A record carries the time of its sending, not that of the request's acceptance. */
  readonly timeOfSending?: boolean;
  /** A heartbeat is sent while requests are in hand. */
  readonly heartbeatOverHand?: boolean;
  /** What was never sent goes to the new stream. */
  readonly carriesHand?: boolean;
  /** A record is never over: a process that has slept repeats it. */
  readonly repeatsForEver?: boolean;
  /** A writer that finds its row gone makes it anew. */
  readonly remakeRow?: boolean;
  /** A writer that finds its row retired or gone goes on. */
  readonly ignoresRetirement?: boolean;
  /** The close record goes before what is in hand. */
  readonly closesEarly?: boolean;
}

/** Bugs of consumers. */
export interface ConsumerMutations {
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
  /** With nothing in memory, a consumer takes the time of the database for the word of the writer. */
  readonly touchesAtEnd?: boolean;
  /** A stream is retired by its age a short time after its last record. */
  readonly retiresEarly?: boolean;
  /** The visibility of messages is never extended. */
  readonly neverExtends?: boolean;
}

/** A bug that walks find. */
export interface PlantedBug {
  readonly name: string;
  readonly mutations: QueueWalkMutations;
  /** Where to begin, for a bug that takes more than a few walks to show. */
  readonly from?: number;
  /** It also puts requests aside, and the walk looks for worse. */
  readonly maySetAside?: boolean;
}
