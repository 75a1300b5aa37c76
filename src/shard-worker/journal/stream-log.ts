/**
 * A journal that other servers can reach, as a shard uses it: streams of records, who writes and who flushes them. Shard thread.
 * `postgres/` and `nats/` implement it; they let a reader choose a position. `sqs/` hands records out to whoever receives.
 *
 * A failure of the database is CounterError `database-unavailable`, a failure of a journal elsewhere JournalError
 * `journal-unavailable`. Either way the call can be repeated, or what it was for can be looked up.
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../core/checkpoint.js';
import type { Clock } from '../../core/clock.js';
import type { JournalRecord, RecordBytes } from './journal.js';
import type { IncrementsAfter } from './shared/stream-backlog.js';

/** Whose streams these are, kept in their rows. */
export interface LogOwner {
  /** The id of the server, a UUID. */
  readonly node: string;
  readonly shard: number;
  /** The id of this thread as one that flushes, a UUID; undefined: it only writes. */
  readonly flusher: string | undefined;
}

/** A stream whose flushes this thread has. */
export interface OwnedLogStream extends Checkpoint {
  readonly stream: string;
  /** Idempotent records that carry an older time cannot be checked against the window any more. */
  readonly coveredFrom: DatabaseTime;
}

/** A stream that this thread has taken. */
export interface TakenLogStream extends OwnedLogStream {
  /** Its writer is gone, and this thread may retire it. */
  readonly isAdopted: boolean;
}

/** A stream that this thread has begun. */
export interface BegunStream extends OwnedLogStream {
  /** When its row was made. */
  readonly time: DatabaseTime;
  /** False where the database was unavailable: whoever flushes makes the row, and flushes the stream. */
  readonly isRegistered: boolean;
}

/** A stream that is not retired, as a look at all of them found it. */
export interface StreamSurvey extends Checkpoint {
  readonly stream: string;
  readonly node: string;
  readonly shard: number;
  /** Who flushes it. */
  readonly owner: string | undefined;
  /** Whether who flushes it, and who writes it, shows signs of life. */
  readonly isOwned: boolean;
  readonly isWritten: boolean;
  /** The thread that writes it owns its flushes, too. */
  readonly isSelfFlushed: boolean;
}

/** All streams that are not retired, and how many threads that flush show signs of life. */
export interface Survey {
  readonly streams: readonly StreamSurvey[];
  readonly flushers: number;
}

/** What the writer of a stream finds when it asks for its row. */
export interface StreamState extends Checkpoint {
  /** 0: the row is not made yet. */
  readonly time: DatabaseTime;
}

/** Where a stream is whose writer has left it. */
export type StreamFate =
  /** Somebody goes on with it, or will. */
  | { readonly kind: 'open' }
  /** All that is counted of it is up to `lsn`. */
  | { readonly kind: 'ended'; readonly lsn: Lsn }
  /** It has neither a row nor a record. */
  | { readonly kind: 'nowhere' };

/** A place in a stream: what comes after it is read. */
export interface LogPosition {
  readonly stream: string;
  readonly lsn: Lsn;
}

/** What the writer of a stream needs of its shard. */
export interface StreamWriterDeps {
  readonly clock: Clock;
  /** How long a group may be in doubt, in ms. */
  readonly doubtMaxMs: number;
  /** The journal did not take a group, or does not answer. */
  readonly unavailable: (error: unknown) => void;
}

/** The writer of one stream. One append at a time. */
export interface StreamWriter {
  readonly stream: string;
  /** The last LSN that is known to be in the journal. */
  readonly endLsn: Lsn;
  /** Appends nothing more. */
  readonly isOver: boolean;
  /** Why it is over, for the log. */
  readonly endedBecause: string;
  /** A group is under way, or its outcome is not known. */
  readonly isAppending: boolean;
  /** An attempt to append the group under way got no answer. */
  readonly isInDoubt: boolean;
  /** Bytes of records above the last known checkpoint. */
  readonly bytes: number;
  /** When the oldest of these was accepted, ms since 1970; infinite where there is none. */
  readonly oldestAcceptedAtMs: number;
  /** What the journal or the database has lost, where that was found: everything above this LSN. */
  readonly lostAfterLsn: Lsn | undefined;

  /** Increments of records above an LSN. */
  incrementsAfter(lsn: Lsn): IncrementsAfter;

  /** The checkpoint is at `lsn`. */
  noteCheckpoint(lsn: Lsn): void;

  /** Ends the stream for this writer. A group under way is settled first, if that is possible. */
  end(because: string): void;

  /**
   * Appends a group, and resolves to its last LSN. Rejects with JournalError `journal-unavailable` or `journal-fenced`: nothing is
   * in the journal, nor ever will be; with `journal-failed`: it may be in the journal, and the stream is over.
   */
  append(group: readonly RecordBytes[], time: DatabaseTime): Promise<Lsn>;

  /**
   * Appends a record without increments, after the group under way: proof that the journal takes records, and a sign of life.
   * Rejects as `append` does.
   */
  beat(time: DatabaseTime): Promise<Lsn>;

  /**
   * Whether such a record is due although nothing was accepted. `isAlone`: no row has shown for some seconds that the writer lives.
   */
  isBeatDue(isAlone: boolean): boolean;

  /** The word of an idle writer: what it accepted before `time` is in the journal. False: the stream has another writer, or has ended. */
  advanceAcceptedThrough(time: DatabaseTime): Promise<boolean>;
}

/** Tells what has become of streams: records of a journal outside of the database can be lost while rows stay. */
export interface StreamFates {
  /** What has become of a stream that its writer has left, with records up to `endLsn`. Rejects as the journal does. */
  fateOf(stream: string, endLsn: Lsn): Promise<StreamFate>;
}

/** The log of one shard, as the writer of a stream uses it, and whoever flushes one. */
export interface WriterLog {
  /** The id of this thread as one that flushes. */
  readonly flusher: string | undefined;
  /** The system that has the records, and what of it holds them, as messages name them. */
  readonly place: string;
  readonly store: string;
  /** The records are in the database itself: without it none is appended. */
  readonly isInDatabase: boolean;
  /** Most bytes of the records of one group; may be infinite. */
  readonly groupBytesMax: number;
  /** Undefined for a journal in the database, which does not lose a record while it keeps the row. */
  readonly fates: StreamFates | undefined;

  /**
   * Begins a stream. Where it rejects, the stream must not be written, and whoever flushes ends it. A journal outside of the
   * database may return another stream, with which an earlier call did not get to the end.
   */
  begin(stream: string): Promise<BegunStream>;

  /** The writer of a stream that was begun. */
  makeWriter(begun: BegunStream, deps: StreamWriterDeps): StreamWriter;

  /** Where the row of an open stream is, and what time it is there; undefined where it is not open. */
  ask(stream: string): Promise<StreamState | undefined>;

  /** Signs of life of this thread, and of the writer of `streams`. */
  sendHeartbeats(streams: readonly string[]): Promise<void>;

  /** The last sign of life: other threads may take over at once. */
  endHeartbeats(ids: readonly string[]): Promise<void>;

  /** Looks whether the row of a stream that another process writes is at `at`, and passes its writer's word on. */
  touch(stream: string, at: Checkpoint): Promise<boolean>;

  /**
   * Ends a stream that is flushed to the end of its log. False: its row is not at `at`, or the log goes on; undefined: the end is
   * not read yet. Idempotent.
   */
  retire(stream: string, at: Checkpoint): Promise<boolean | undefined>;

  /** Closes the connections of the log; no call may follow. */
  close(): Promise<void>;
}

/** A log whose readers choose positions. */
export interface SharedLog extends WriterLog {
  /** Looks at all streams. */
  survey(): Promise<Survey>;

  /** Records above positions in their streams, in order; about `recordsMax` of each stream, fewer where it ends there. */
  read(positions: readonly LogPosition[], recordsMax: number): Promise<ReadonlyMap<string, readonly JournalRecord[]>>;

  /**
   * Takes the flushes of a stream whose row is at `epoch`, and the appends, too, with `adopt`: its writer is gone. Undefined where
   * another thread has taken it meanwhile. Rejects with `database-unavailable`: it may be taken.
   */
  take(stream: string, epoch: number, adopt: boolean): Promise<TakenLogStream | undefined>;

  /** Leaves a stream at `at` to whoever flushes it next. */
  release(stream: string, at: Checkpoint): Promise<boolean>;

  /** This thread has moved the checkpoint of a stream to `at`. */
  committed(stream: string, at: Checkpoint): void;
}

/** A message of a queue: records of one stream that this thread holds, and that nobody else receives meanwhile. */
export interface ReceivedRecords {
  readonly stream: string;
  /** Stands for the message in later calls. */
  readonly receipt: string;
  readonly firstLsn: Lsn;
  readonly lastLsn: Lsn;
  /** The last LSN that its writer knew to be in the queue before it. LSNs between are missing, or are of unknown outcome. */
  readonly previousLsn: Lsn;
  /** No record of the stream follows. */
  readonly isClose: boolean;
  /** Who wrote it. */
  readonly node: string;
  readonly shard: number;
  readonly records: readonly JournalRecord[];
}

/** What a thread that has received records of a stream finds in the database. */
export type ReceivedStream =
  | { readonly kind: 'taken'; readonly stream: OwnedLogStream; readonly how: 'open' | 'made' | 'reopened' }
  /** The stream is retired, and all of its records up to `lsn` are counted. */
  | { readonly kind: 'ended'; readonly lsn: Lsn }
  /** The row is at `at`, and an acknowledged record between that and the records received is missing. */
  | { readonly kind: 'blocked'; readonly at: Checkpoint }
  /** There is no row, and the records are not the first ones: nobody can tell what of the stream is counted. */
  | { readonly kind: 'unknown' };

/** A log whose readers get what a queue hands out. */
export interface QueueLog extends WriterLog {
  /** Records of any streams, in the order of each. Waits a while for the first ones. Rejects with `journal-unavailable`. */
  receive(): Promise<readonly ReceivedRecords[]>;

  /** Takes the stream of received records, whose last one is `lastLsn`. Rejects with `database-unavailable`: it may be taken. */
  takeReceived(first: ReceivedRecords, lastLsn: Lsn): Promise<ReceivedStream>;

  /**
   * Keeps records of a stream without a row where an operator finds them. Resolves to their increments; undefined where the
   * stream has a row by now, and nothing was kept. Idempotent.
   */
  setAside(received: ReceivedRecords): Promise<number | undefined>;

  /** Holds what was received for some more seconds. Rejects with `journal-unavailable`. */
  extend(receipts: readonly string[]): Promise<void>;

  /** Lets others receive it again after `seconds`. In the order of the streams. Rejects with `journal-unavailable`. */
  release(receipts: readonly string[], seconds?: number): Promise<void>;

  /** Deletes what is committed. Rejects with `journal-unavailable`. */
  remove(receipts: readonly string[]): Promise<void>;
}
