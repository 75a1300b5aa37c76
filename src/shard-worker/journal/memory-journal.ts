/**
 * The journal that keeps nothing: an acknowledged increment is only in the memory of the shard thread. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import { JournalError } from '../../core/errors.js';
import type { DatabaseTime, Lsn } from '../../core/checkpoint.js';
import { newOwnership, type StreamMark, type StreamOwnership } from './ownership-claim.js';
import type {
  Journal,
  JournalRecord,
  JournalStreams,
  KeptRecords,
  RecordBytes,
  RecoverableJournal,
} from './journal.js';

/** Counts LSNs and stores nothing. Each start of a shard thread has a new stream. */
class MemoryJournal implements Journal {
  readonly stream = randomUUID();
  readonly takesRecords = true;
  readonly bytes = 0;
  readonly segments = 0;
  readonly isPruneDue = false;
  readonly location = 'memory';
  readonly firstLsn = 1;
  #ownership = newOwnership(undefined);
  #endLsn = 0;

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get syncedLsn(): Lsn {
    return this.#endLsn;
  }

  ownership(): StreamOwnership {
    return this.#ownership;
  }

  keepOwnership(ownership: StreamOwnership): void {
    this.#ownership = ownership;
  }

  findEnd(): Lsn {
    return this.#endLsn;
  }

  acceptedCheckpoint(): Lsn | undefined {
    return undefined;
  }

  forgetAcceptedCheckpoint(): void {
    // There is none.
  }

  append(group: readonly RecordBytes[]): Lsn {
    this.#endLsn += group.length;
    return this.#endLsn;
  }

  reserve(): void {
    // Nothing is stored.
  }

  sync(): void {
    // Nothing is stored.
  }

  /** A memory journal starts empty. */
  replay(): Iterable<JournalRecord> {
    return [];
  }

  prune(): void {
    // Nothing is stored.
  }

  requireInPlace(): void {
    // There are no files.
  }

  /** Its thread ends. */
  kept(): KeptRecords {
    return { throughLsn: 0, increments: 0 };
  }

  close(): void {
    // Nothing is open.
  }
}

/** The streams of a shard with a memory journal: always one new stream. */
export class MemoryJournalStreams implements JournalStreams {
  readonly endsWithThread = true;
  readonly keepMs = 0;

  existing(): ReturnType<JournalStreams['existing']> {
    return { own: undefined, orphaned: [] };
  }

  create(): Journal {
    return new MemoryJournal();
  }

  open(stream: string): RecoverableJournal {
    throw new JournalError('journal-gap', `Stream ${stream} was in memory and is lost.`);
  }

  markOf(): StreamMark | undefined {
    return undefined;
  }

  notedTime(): DatabaseTime {
    return 0;
  }

  noteTime(): void {
    // The streams need no time after the thread has ended.
  }

  remove(): void {
    // Nothing is stored.
  }

  tend(): void {
    // There is no background work.
  }

  setDatabaseId(): void {
    // Nothing is stored that could belong to another database.
  }
}
