/**
 * A shared journal, as a shard uses it: streams of records, who writes and who flushes them. Shard thread.
 * In `postgres/` and `nats/` a reader chooses a position. In `sqs/` a reader gets what the queue hands out.
 *
 * Calls reject with CounterError `database-unavailable` where the database fails, and with JournalError
 * `journal-unavailable` where another journal fails. The caller can repeat the call, or look up its outcome.
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../core/checkpoint.js';
import type { Clock } from '../../core/clock.js';
import type { JournalRecord, RecordBytes } from './journal.js';
import type { IncrementsAfter } from './shared/stream-backlog.js';

/** The owner of streams, as their rows name it. */
export interface LogOwner {
  /** The id of the server, a UUID. */
  readonly node: string;
  readonly shard: number;
  /** The UUID under which this thread flushes; undefined: it only writes. */
  readonly flusher: string | undefined;
}

/** A stream that this thread flushes. */
export interface OwnedLogStream extends Checkpoint {
  readonly stream: string;
  /** Idempotent records with an older time can no longer be checked against the window. */
  readonly coveredFrom: DatabaseTime;
}

/** A stream that this thread has taken. */
export interface TakenLogStream extends OwnedLogStream {
  /** Its writer is dead, and this thread may retire it. */
  readonly isAdopted: boolean;
}

/** A stream that this thread has begun. */
export interface BegunStream extends OwnedLogStream {
  /** When its row was created. */
  readonly time: DatabaseTime;
  /** False where the database was unavailable: a flusher creates the row later. */
  readonly isRegistered: boolean;
}

/** A stream that is not retired, as a survey found it. */
export interface StreamSurvey extends Checkpoint {
  readonly stream: string;
  readonly node: string;
  readonly shard: number;
  /** Its flusher. */
  readonly owner: string | undefined;
  /** Whether its flusher sends heartbeats, and whether its writer does. */
  readonly isOwned: boolean;
  readonly isWritten: boolean;
  /** One thread writes and flushes it. */
  readonly isSelfFlushed: boolean;
}

/** All streams that are not retired, and the number of flushers that send heartbeats. */
export interface Survey {
  readonly streams: readonly StreamSurvey[];
  readonly flushers: number;
}

/** The row of a stream, as its writer finds it. */
export interface StreamState extends Checkpoint {
  /** 0: there is no row yet. */
  readonly time: DatabaseTime;
}

/** A position in a stream: a read begins after it. */
export interface LogPosition {
  readonly stream: string;
  readonly lsn: Lsn;
}

/** What the writer of a stream needs of its shard. */
export interface StreamWriterDeps {
  readonly clock: Clock;
  /** How long a group may be in doubt, in ms. */
  readonly doubtMaxMs: number;
  /** The journal refused a group, or does not answer. */
  readonly unavailable: (error: unknown) => void;
}

/** The writer of one stream. One append at a time. */
export interface StreamWriter {
  readonly stream: string;
  /** The last acknowledged LSN. */
  readonly endLsn: Lsn;
  /** It appends nothing more. */
  readonly isOver: boolean;
  /** Why it ended, for the log. */
  readonly endedBecause: string;
  /** A group is under way, perhaps in doubt. */
  readonly isAppending: boolean;
  /** An attempt to append the group under way got no answer. */
  readonly isInDoubt: boolean;
  /** Bytes of records above the last known checkpoint. */
  readonly bytes: number;
  /** When the oldest of these was accepted, ms since 1970; infinite where there is none. */
  readonly oldestAcceptedAtMs: number;
  /** The journal or the database has lost everything above this LSN. */
  readonly lostAfterLsn: Lsn | undefined;

  /** Increments of records above an LSN. */
  incrementsAfter(lsn: Lsn): IncrementsAfter;

  /** The checkpoint is at `lsn`. */
  noteCheckpoint(lsn: Lsn): void;

  /** Ends the stream for this writer. A group under way may still be appended. */
  end(because: string): void;

  /**
   * Appends a group, and resolves to its last LSN. Rejects with JournalError `journal-unavailable` or `journal-fenced`: the
   * group will never be in the journal; with `journal-failed`: it may be in the journal, and the stream has ended.
   */
  append(group: readonly RecordBytes[], time: DatabaseTime): Promise<Lsn>;

  /**
   * Appends a record without increments, after the group under way: a heartbeat, which proves that the journal accepts records.
   * Rejects as `append` does.
   */
  beat(time: DatabaseTime): Promise<Lsn>;

  /** Whether an idle stream needs such a record. `isAlone`: the database has accepted no heartbeat for some seconds. */
  isBeatDue(isAlone: boolean): boolean;

  /** Records that everything an idle writer accepted before `time` is in the journal. False: the stream is fenced or retired. */
  advanceAcceptedThrough(time: DatabaseTime): Promise<boolean>;
}

/** Finds out what became of streams: a failover of the database or of a broker can undo records. */
export interface StreamFates {
  /**
   * The LSN up to which a stream that its writer released at `endLsn` is counted, and no further; undefined: it is not known
   * yet. 0 where it has neither a row nor a record. Rejects as the journal does.
   */
  countedTo(stream: string, endLsn: Lsn): Promise<Lsn | undefined>;
}

/** Ends streams that lack records in the middle, so that their writers begin others and nothing waits for them. */
export interface StreamGaps {
  /** The LSN behind missing records, where no record follows but the end of the stream; undefined: none is missing there. */
  gapBefore(stream: string): Lsn | undefined;

  /**
   * Ends a stream at its checkpoint, if the records behind it are still missing: its writer is fenced and its row retired. False:
   * they are there, or another thread has the stream. Rejects as the journal does.
   */
  endAtGap(stream: string, at: Checkpoint): Promise<boolean>;
}

/** The journal of one shard, for writers and flushers of streams. */
export interface WriterLog {
  /** The id under which this thread flushes. */
  readonly flusher: string | undefined;
  /** The system that stores the records, and where in it, for messages. */
  readonly place: string;
  readonly store: string;
  /** The database stores the records: without it nothing is appended. */
  readonly isInDatabase: boolean;
  /** Most bytes of the records of one group; may be infinite. */
  readonly groupBytesMax: number;
  /** Undefined for a queue, which loses nothing that it has accepted. */
  readonly fates: StreamFates | undefined;

  /**
   * Begins a stream. Where it rejects, the stream must not be written, and a flusher retires it. A journal outside of the
   * database may return the stream of an earlier call that was rejected.
   */
  begin(stream: string): Promise<BegunStream>;

  makeWriter(begun: BegunStream, deps: StreamWriterDeps): StreamWriter;

  /** The row of an open stream, and the time of the database; undefined where it is not open. */
  ask(stream: string): Promise<StreamState | undefined>;

  /** Heartbeats of this thread, and of the writer of `streams`. */
  sendHeartbeats(streams: readonly string[]): Promise<void>;

  /** Ends heartbeats: other threads may take over at once. */
  endHeartbeats(ids: readonly string[]): Promise<void>;

  /** Whether the row of a stream is at `at`. A postgres journal also advances its `accepted_through` to that of the writer. */
  touch(stream: string, at: Checkpoint): Promise<boolean>;

  /**
   * Retires a stream that is flushed to its end. False: its row is not at `at`, or records follow; undefined: the end is not
   * read yet. Idempotent.
   */
  retire(stream: string, at: Checkpoint): Promise<boolean | undefined>;

  /** Closes the connections; no call may follow. */
  close(): Promise<void>;
}

/** A journal whose readers choose positions. */
export interface SharedLog extends WriterLog {
  /** Undefined for a journal in the database, which cannot lack records. */
  readonly gaps: StreamGaps | undefined;

  survey(): Promise<Survey>;

  /** Records above positions, in order; about `recordsMax` of each stream, fewer where it ends. */
  read(positions: readonly LogPosition[], recordsMax: number): Promise<ReadonlyMap<string, readonly JournalRecord[]>>;

  /**
   * Takes the flushes of a stream whose row is at `epoch`. With `adopt` its writer is dead, and the appends are taken, too.
   * Undefined where another thread has taken it. Rejects with `database-unavailable`: it may be taken.
   */
  take(stream: string, epoch: number, adopt: boolean): Promise<TakenLogStream | undefined>;

  /** Releases a stream at `at` to the next flusher. */
  release(stream: string, at: Checkpoint): Promise<boolean>;

  /** This thread has moved the checkpoint of a stream to `at`. */
  committed(stream: string, at: Checkpoint): void;
}

/** A received message: records of one stream that nobody else receives meanwhile. */
export interface ReceivedRecords {
  readonly stream: string;
  /** Names the message in later calls. */
  readonly receipt: string;
  /** The database of its writer; undefined for an earlier version of the server. */
  readonly database?: string | undefined;
  readonly firstLsn: Lsn;
  readonly lastLsn: Lsn;
  /** The last LSN that was acknowledged before it. LSNs between are in doubt, or do not exist. */
  readonly previousLsn: Lsn;
  /** No record of the stream follows. */
  readonly isClose: boolean;
  /** Its writer. */
  readonly node: string;
  readonly shard: number;
  readonly records: readonly JournalRecord[];
}

/** The row of a stream of received records. */
export type ReceivedStream =
  | { readonly kind: 'taken'; readonly stream: OwnedLogStream; readonly how: 'open' | 'made' | 'reopened' }
  /** The stream is retired, and all of its records up to `lsn` are counted. */
  | { readonly kind: 'ended'; readonly lsn: Lsn }
  /** The row is at `at`. An acknowledged record between it and the received records is missing. */
  | { readonly kind: 'blocked'; readonly at: Checkpoint }
  /** There is no row, and the records are not the first ones: how much of the stream is counted is unknown. */
  | { readonly kind: 'unknown' }
  /** The records belong to another database, or name none and have no row. */
  | { readonly kind: 'foreign' };

/** A journal whose readers get what a queue hands out. */
export interface QueueLog extends WriterLog {
  /** Records of any streams, in the order of each stream. Waits for a message. Rejects with `journal-unavailable`. */
  receive(): Promise<readonly ReceivedRecords[]>;

  /** Takes the stream of received records up to `lastLsn`. Rejects with `database-unavailable`: it may be taken. */
  takeReceived(first: ReceivedRecords, lastLsn: Lsn): Promise<ReceivedStream>;

  /**
   * Moves messages of a stream to `rejected_increments`. `at`: its row, which is retired, because records before them are missing;
   * undefined: it has none. Resolves to the number of increments; undefined, without an effect, where the row is another one, or
   * there is one by now. Idempotent.
   */
  setAside(messages: readonly ReceivedRecords[], at?: Checkpoint): Promise<number | undefined>;

  /** Keeps received messages from others for some more seconds. Rejects with `journal-unavailable`. */
  extend(receipts: readonly string[]): Promise<void>;

  /** Releases received messages: others receive them after `seconds`. Rejects with `journal-unavailable`. */
  release(receipts: readonly string[], seconds?: number): Promise<void>;

  /** Deletes committed messages. Rejects with `journal-unavailable`. */
  remove(receipts: readonly string[]): Promise<void>;
}
