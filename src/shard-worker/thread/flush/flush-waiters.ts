/**
 * Callers that wait until a stream is committed up to an LSN. Shard thread.
 */
import { CounterError } from '../../../core/errors.js';
import type { Lsn } from '../../../core/checkpoint.js';

/** Most callers that wait at a time; one more is refused as overloaded. */
const WAITERS_MAX = 1024;

interface Waiter {
  readonly target: Lsn;
  keys: number;
  readonly resolve: (keys: number) => void;
  readonly reject: (error: CounterError) => void;
}

/** The callers of one stream. */
export class FlushWaiters {
  #waiters: Waiter[] = [];

  get isEmpty(): boolean {
    return this.#waiters.length === 0;
  }

  /**
   * Waits for the checkpoint to reach `target`; resolves to the keys written meanwhile. Rejects with `database-unavailable`
   * where they are let down, with `overloaded` where too many wait.
   */
  add(target: Lsn): Promise<number> {
    if (this.#waiters.length >= WAITERS_MAX) {
      return Promise.reject(new CounterError('overloaded', 'Too many flush requests are waiting.'));
    }
    return new Promise((resolve, reject) => {
      this.#waiters.push({ target, keys: 0, resolve, reject });
    });
  }

  /** So many keys were written for all who wait. */
  count(keys: number): void {
    for (const waiter of this.#waiters) waiter.keys += keys;
  }

  /** Answers those whose LSN is committed. */
  answer(checkpoint: Lsn): void {
    if (this.#waiters.length === 0) return;
    const left: Waiter[] = [];
    for (const waiter of this.#waiters) {
      if (waiter.target <= checkpoint) waiter.resolve(waiter.keys);
      else left.push(waiter);
    }
    this.#waiters = left;
  }

  /** The database is away: nobody waits for it. */
  reject(): void {
    for (const waiter of this.#waiters) waiter.reject(databaseUnavailable());
    this.#waiters = [];
  }
}

/** What callers hear while the database is away. */
export function databaseUnavailable(): CounterError {
  return new CounterError('database-unavailable', 'The database cannot be reached; what is pending stays pending.');
}
