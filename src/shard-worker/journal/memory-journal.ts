/**
 * The journal that keeps nothing: acknowledged means added up in one thread's memory. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import { JournalError } from '../../core/errors.js';
import type { Lsn } from '../../core/checkpoint.js';
import type { Journal, JournalRecord, JournalStreams, RecordBytes, RecoverableJournal } from './journal.js';

/** LSNs and nothing else. A new stream for each process start, since nothing of an earlier one is left. */
export class MemoryJournal implements Journal {
  readonly stream = randomUUID();
  readonly takesRecords = true;
  readonly bytes = 0;
  readonly isPruneDue = false;
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
    // Nothing is written.
  }

  sync(): void {
    // There is nothing that could be made more durable.
  }

  async *replay(): AsyncIterable<JournalRecord> {
    // A memory journal starts empty.
  }

  prune(): void {
    // Nothing is kept.
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** The streams of a shard with a memory journal: always a new one. */
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
    throw new JournalError('journal-gap', `Stream ${stream} was kept in memory and is gone.`);
  }

  remove(): void {
    // Nothing is kept.
  }

  tend(): void {
    // Nothing is to be done.
  }

  setDatabaseId(): void {
    // Nothing is kept that could belong to another database.
  }
}
