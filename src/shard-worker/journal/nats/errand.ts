/**
 * Work in the background of the nats journal, once at a time. Shard thread.
 */
import { CounterError, JournalError } from '../../../core/errors.js';
import type { LogFields } from '../../../core/logger.js';

/** Writes a line of the log. */
export type WriteLine = (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;

/** Work that nobody waits for, and that is tried again later where it fails. */
export class Errand {
  readonly #log: WriteLine;
  readonly #failure: string;
  #ended: Promise<void> | undefined;

  /** `failure`: the line of the log for work that has failed. */
  constructor(log: WriteLine, failure: string) {
    this.#log = log;
    this.#failure = failure;
  }

  /** Resolves when nothing is under way. */
  get ended(): Promise<void> {
    return this.#ended ?? Promise.resolve();
  }

  /** Does the work, unless some is under way. */
  run(work: () => Promise<void>): void {
    this.#ended ??= work()
      .catch((error: unknown) => {
        const isOutage =
          error instanceof JournalError || (error instanceof CounterError && error.code === 'database-unavailable');
        this.#log(isOutage ? 'debug' : 'error', { err: error }, this.#failure);
      })
      .finally(() => {
        this.#ended = undefined;
      });
  }
}
