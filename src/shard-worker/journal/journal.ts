import type { Lsn } from '../../core/checkpoint.js';
import type { OwnershipClaim } from './ownership-claim.js';

/** One record to append: the whole buffer region is the record, header first, laid out as `messages.ts` says. */
export type RecordBytes = Uint8Array;

/** One record as replay finds it. `entries` is valid until the next step of the iteration. */
export interface JournalRecord {
  readonly lsn: Lsn;
  /** When the front end accepted it, ms since 1970. */
  readonly acceptedAt: number;
  /** Pairs and other entries, without the header. */
  readonly entries: Uint8Array;
}

/** One stream of records. One owner, one thread; calls do not overlap. */
export interface Journal {
  /** The stream's random id, a UUID. */
  readonly stream: string;
  /** LSN of the last record appended or found; 0 if there never was one. */
  readonly endLsn: Lsn;
  /** Every record up to this LSN is as durable as the journal promises. */
  readonly syncedLsn: Lsn;
  /** False where it is only read, and flushed to its end: known once it is recovered. */
  readonly takesRecords: boolean;
  /** Bytes that stand in the way of new records, for the bound JOURNAL_MAX_BYTES. It may change with every other call. */
  readonly bytes: number;

  /**
   * Appends the group in order, giving its records consecutive LSNs from `endLsn + 1`; fills in LSN, synced LSN and CRC.
   * Returns the last LSN. Throws or rejects with JournalError: where `nothingKept`, the journal is as before and may be
   * used again; otherwise it is dead, and only recovery through a new instance tells what was kept.
   */
  append(group: readonly RecordBytes[]): Lsn | Promise<Lsn>;

  /**
   * Makes room for a group of `bytes`, as {@link Journal.append} would first. Throws JournalError: as there.
   */
  reserve(bytes: number): void;

  /** Makes everything appended durable. Throws or rejects with JournalError `journal-failed`: the journal is dead. */
  sync(): void | Promise<void>;

  /** The records above `after` that were in the journal when it was opened, in order of LSN. */
  replay(after: Lsn): AsyncIterable<JournalRecord>;

  /**
   * The stream's row was seen a moment ago with this process's own epoch, and its checkpoint is `upTo`. The journal removes
   * what is committed and has been kept for long enough, and never at any other time.
   */
  prune(upTo: Lsn): void;

  /** What is committed has been kept for long enough: it goes with the next {@link Journal.prune}. */
  readonly isPruneDue: boolean;

  /** Syncs and lets go of files and connections. */
  close(): Promise<void>;
}

/** What recovery found, for the log. */
export interface RecoveryFacts {
  /** Records above the checkpoint. */
  readonly records: number;
  /** Set where the checkpoint is beyond the journal's end: a volume was restored. */
  readonly beyondEnd?: { readonly checkpoint: Lsn; readonly journalEnd: Lsn };
  /** Bytes of a torn tail that were cut. */
  readonly cutBytes: number;
}

/** A journal of an earlier run. */
export interface RecoverableJournal extends Journal {
  /** Where it is, for messages. */
  readonly location: string;
  /** Claims by which this journal was taken over, oldest first, those included that may never have reached the database. */
  claims(): readonly OwnershipClaim[];

  /**
   * Keeps a claim, durably, that is about to be made. `inDatabase` are the claims there, of which one may be needed again.
   * Throws JournalError `journal-unavailable`.
   */
  keepClaim(claim: OwnershipClaim, inDatabase: readonly OwnershipClaim[]): void;

  /**
   * The last LSN that is here, or the one before the first; changes nothing. Records at or below `checkpoint` need not be
   * read. To be called before `recover`. Throws JournalError `journal-corrupt`, `journal-unavailable`.
   */
  findEnd(checkpoint: Lsn): Lsn;

  /**
   * Checks the journal against the stream's checkpoint and makes it ready to append. To be called once, after the epoch
   * was raised and before `replay`. Throws JournalError `journal-corrupt`, `journal-gap`, `journal-foreign`.
   */
  recover(checkpoint: Lsn): RecoveryFacts;
}

/** A stream of an earlier run that nobody has read yet. */
export interface FoundStream {
  readonly stream: string;
  /** What it takes of the bound JOURNAL_MAX_BYTES. */
  readonly bytes: number;
}

/** The streams of one shard on this node. */
export interface JournalStreams {
  /** Nothing is left of a stream when its thread has ended. */
  readonly endsWithThread: boolean;
  /** How long a stream that is committed to its end stays before it is removed, in ms. */
  readonly keepMs: number;
  /** Streams of earlier runs: the one to continue, and those of shards that are no more, to be finished. */
  existing(): { readonly own: FoundStream | undefined; readonly orphaned: readonly FoundStream[] };
  create(): Journal;
  open(stream: string): RecoverableJournal;
  /** Forgets a finished stream and its data. */
  remove(journal: RecoverableJournal): void;
  /** Does what can wait, for a moment at most; to be called now and then. */
  tend(): void;
  /** The database that new segments belong to, once it is known. */
  setDatabaseId(databaseId: string): void;
}
