/**
 * Background work of the nats journal. Shard thread.
 */
import { CounterError, JournalError } from '../../../core/errors.js';
import type { LogFields } from '../../../core/logger.js';

/** Writes a line of the log. */
export type WriteLine = (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;

/** One piece of work at a time, which nobody waits for. After a failure a later round repeats it. */
export class Errand {
  readonly #log: WriteLine;
  readonly #failure: string;
  #ended: Promise<void> | undefined;

  /** `failure`: the log message of a failure. */
  constructor(log: WriteLine, failure: string) {
    this.#log = log;
    this.#failure = failure;
  }

  /** Resolves when nothing is under way. */
  get ended(): Promise<void> {
    return this.#ended ?? Promise.resolve();
  }

  /** Starts the work, unless some is under way. */
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
