/**
 * A journal in memory or in a directory: an ordered run of records under a stream's id. Shard thread and command.
 * `memory-journal.ts` and `file/` implement it; `stream-log.ts` has the interfaces of shared journals.
 *
 * Every call is synchronous, so nothing else runs on the thread between an append and the addition to the sums.
 *
 * Durability: when `append` has returned, every record of the group survives what the journal promises to survive.
 * With deferred syncs `syncedLsn` says up to where that is true, and `sync` makes it true for everything appended.
 */
import type { DatabaseTime, Lsn } from '../../core/checkpoint.js';
import type { StreamMark, StreamOwnership } from './ownership-claim.js';

/** One record to append, header first: all bytes of the array, with the layout of `record-layout.ts`. */
export type RecordBytes = Uint8Array;

/** One record of a replay. `entries` is valid until the next step of the iteration. */
export interface JournalRecord {
  readonly lsn: Lsn;
  /** When the HTTP server accepted it, ms since 1970, by the clock of its node. */
  readonly acceptedAt: number;
  /** The largest time of the database that the shard knew when it wrote the record. */
  readonly databaseTime: DatabaseTime;
  /** The entries, without the header of the record. */
  readonly entries: Uint8Array;
}

/** One stream of records. It has one owner on one thread. */
export interface Journal {
  /** The stream's random id, a UUID. */
  readonly stream: string;
  /** LSN of the last record that was appended or found; 0 if there never was one. */
  readonly endLsn: Lsn;
  /** Every record up to this LSN is as durable as this kind of journal promises. */
  readonly syncedLsn: Lsn;
  /** False for a stream that is only read and flushed to its end. Valid after recovery. */
  readonly takesRecords: boolean;
  /** Bytes that count towards JOURNAL_MAX_BYTES. Every other call may change them. */
  readonly bytes: number;
  /** Files that hold the stream. */
  readonly segments: number;

  /** Where it is stored, for messages. */
  readonly location: string;
  /** First LSN of the oldest record that it may still hold. */
  readonly firstLsn: Lsn;

  /** The ownership that is stored with the stream. Throws JournalError `journal-unavailable`, `journal-corrupt`. */
  ownership(): StreamOwnership;

  /**
   * Stores the ownership as durably as the records. Also creates a new stream, so that it exists before its row. Throws
   * JournalError `journal-unavailable`.
   */
  keepOwnership(ownership: StreamOwnership): void;

  /**
   * The LSN of the last record, or the one before the first. Changes nothing. Before recovery it reads the end of the journal.
   * Throws JournalError `journal-corrupt`, `journal-unavailable`.
   */
  findEnd(): Lsn;

  /** The LSN up to which the stream is counted, as an operator stated for a missing row. Throws as `ownership`. */
  acceptedCheckpoint(): Lsn | undefined;

  /** Removes the accepted checkpoint after its use. Throws JournalError `journal-unavailable`. */
  forgetAcceptedCheckpoint(): void;

  /**
   * Appends the records of a group in order, with consecutive LSNs from `endLsn + 1`. Fills in LSN, synced LSN, the time of the
   * database and CRC. Returns the last LSN. Throws JournalError. With `nothingKept`, the journal is as before and can be used
   * again. Otherwise it has failed: only recovery with a new instance tells which records were kept.
   */
  append(group: readonly RecordBytes[], databaseTime: DatabaseTime): Lsn;

  /** Makes room for a group of `bytes`, which is the first step of {@link Journal.append}. Throws as that does. */
  reserve(bytes: number): void;

  /**
   * Makes all appended records durable. Throws JournalError `journal-failed`: the journal has failed. With
   * `journal-unavailable` they are still in memory, and the journal tries again by itself; until it succeeds it takes no
   * records.
   */
  sync(): void;

  /** The records above `after` that the journal had when it was opened, in order of LSN. */
  replay(after: Lsn): Iterable<JournalRecord>;

  /**
   * Removes records up to `upTo` whose keep time has passed. The caller has just read the checkpoint `upTo`
   * with its own epoch. The journal removes nothing at any other time.
   */
  prune(upTo: Lsn): void;

  /** Whether the next {@link Journal.prune} could remove something. */
  readonly isPruneDue: boolean;

  /**
   * Checks that the files are where they were made, so that the next start finds them. Throws JournalError
   * `journal-unavailable`; then no group is taken until they are there again.
   */
  requireInPlace(): void;

  /** What the next start would find of `pending` increments above `after`, where a sync failed or files are gone. */
  kept(after: Lsn, pending: number): KeptRecords;

  /** Syncs, then closes the files, also where the sync throws as {@link Journal.sync} does. */
  close(): void;
}

/** Records that a disk holds for certain. */
export interface KeptRecords {
  /** LSN of the last one. */
  readonly throughLsn: Lsn;
  readonly increments: number;
}

/** What recovery found, for the log. */
export interface RecoveryFacts {
  /** Records above the checkpoint. */
  readonly records: number;
  /** Set if the checkpoint is beyond the end of the journal, because a volume was restored. */
  readonly beyondEnd?: { readonly checkpoint: Lsn; readonly journalEnd: Lsn };
  /** Bytes of the torn tail that was cut. */
  readonly cutBytes: number;
}

/** A stream of an earlier run. */
export interface RecoverableJournal extends Journal {
  /**
   * Compares the journal with the checkpoint of the stream and makes it ready to append. To be called once, after the
   * epoch was raised and before `replay`. Throws JournalError `journal-corrupt`, `journal-gap`, `journal-foreign`.
   */
  recover(checkpoint: Lsn): RecoveryFacts;
}

/** A stream of an earlier run, before it is read. */
export interface FoundStream {
  readonly stream: string;
  /** Bytes that count towards JOURNAL_MAX_BYTES. */
  readonly bytes: number;
  readonly mark: StreamMark;
}

/** The streams of one shard. */
export interface JournalStreams {
  /** Whether streams end with their thread, because they are in its memory. */
  readonly endsWithThread: boolean;
  /** How long a stream is kept after it was committed to its end, in ms. */
  readonly keepMs: number;
  /** Streams of earlier runs: the one that this shard continues, and the orphaned ones that it flushes to their end. */
  existing(): { readonly own: FoundStream | undefined; readonly orphaned: readonly FoundStream[] };
  /** A new stream. `cover`: see {@link StreamOwnership}. */
  create(cover?: string): Journal;
  open(stream: string): RecoverableJournal;
  /** Removes a stream that is flushed to its end and retired. */
  remove(journal: Journal): void;
  /** The mark of a stream of this shard; undefined where there is no such stream. */
  markOf(stream: string): StreamMark | undefined;
  /**
   * The largest time of the database that any shard has noted, or that a record of this shard's streams carries. To be called
   * at a start. 0 where there is none or the disk does not say.
   */
  notedTime(): DatabaseTime;
  /** Notes a time of the database durably, apart from the streams. Throws JournalError `journal-unavailable`. */
  noteTime(time: DatabaseTime): void;
  /** Does short background work. To be called now and then. */
  tend(): void;
  /** Sets the database to which new segments belong, once it is known. */
  setDatabaseId(databaseId: string): void;
}
