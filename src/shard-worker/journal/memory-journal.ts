/**
 * The journal that keeps nothing: an acknowledged increment is only in the memory of the shard thread. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import { JournalError } from '../../core/errors.js';
import type { Lsn } from '../../core/checkpoint.js';
import type { Journal, JournalRecord, JournalStreams, RecordBytes, RecoverableJournal } from './journal.js';

/** Counts LSNs and stores nothing. Each start of a shard thread has a new stream. */
class MemoryJournal implements Journal {
  readonly stream = randomUUID();
  readonly takesRecords = true;
  readonly bytes = 0;
  readonly isPruneDue = false;
  readonly unsyncedIncrements = 0;
  #endLsn = 0;

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get syncedLsn(): Lsn {
    return this.#endLsn;
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

  async *replay(): AsyncIterable<JournalRecord> {
    // A memory journal starts empty.
  }

  prune(): void {
    // Nothing is stored.
  }

  close(): Promise<void> {
    return Promise.resolve();
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
