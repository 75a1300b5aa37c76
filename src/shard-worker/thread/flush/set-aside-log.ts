/**
 * Logs what flushes set aside: rows that PostgreSQL refused, at most one line a second, and idempotent requests that can no
 * longer be checked. Shard thread.
 *
 * A constraint may refuse thousands of keys in every flush. The first set of a second is logged at once, with an example. The
 * others are counted and logged when the second is over, or at the end of the shard.
 */
import type { Clock, Timer } from '../../../core/clock.js';
import type { LogFields } from '../../../core/logger.js';
import type { DatabaseTime } from '../../../core/checkpoint.js';
import type { RejectedKeys } from './poison-search.js';
import type { CommittedFlush } from './range-flush.js';

const INTERVAL_MS = 1000;

/** The log of one shard. */
export class SetAsideLog {
  readonly #clock: Clock;
  readonly #log: (fields: LogFields, message: string) => void;
  #timer: Timer | undefined;
  /** Not logged yet, with the latest example. */
  #rest: { readonly increments: number; readonly rejected: RejectedKeys } | undefined;

  /** `log` writes a line of level error. */
  constructor(clock: Clock, log: (fields: LogFields, message: string) => void) {
    this.#clock = clock;
    this.#log = log;
  }

  /** A flush of `stream` was committed, with requests that were accepted through `time`. */
  note(stream: string, { rejected, rejectedKeys, uncovered }: CommittedFlush, time: DatabaseTime): void {
    if (rejectedKeys !== undefined) this.#noteRejected(rejected, rejectedKeys);
    const { requests, increments } = uncovered;
    if (requests === 0) return;
    this.#log(
      { stream, requests, increments, acceptedThrough: time },
      `${requests} idempotent requests of stream ${stream} with ${increments} increments can no longer be checked against ` +
        'IDEMPOTENCY_WINDOW_HOURS; they are kept in rejected_increments and not counted. List them with ' +
        '`npm run journal -- rejected`',
    );
  }

  #noteRejected(increments: number, rejected: RejectedKeys): void {
    const { increments: before = 0, rejected: { keys = 0 } = {} } = this.#rest ?? {};
    this.#rest = { increments: before + increments, rejected: { ...rejected, keys: keys + rejected.keys } };
    if (this.#timer === undefined) this.#writeRest();
  }

  /** Logs the rest. */
  close(): void {
    this.#timer?.cancel();
    this.#writeRest();
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #writeRest(): void {
    this.#timer = undefined;
    if (this.#rest === undefined) return;
    const { increments, rejected } = this.#rest;
    const { keys, sqlState } = rejected;
    this.#rest = undefined;
    const what = keys === 1 ? 'a key' : `${keys} keys`;
    const kept = increments === 1 ? '1 increment is' : `${increments} increments are`;
    this.#log(
      { ...rejected, increments },
      `PostgreSQL refused ${what} (SQLSTATE ${sqlState}); ${kept} kept in rejected_increments and not counted. ` +
        'List them with `npm run journal -- rejected`',
    );
    this.#timer = this.#clock.schedule(INTERVAL_MS, () => {
      this.#writeRest();
    });
  }
}
