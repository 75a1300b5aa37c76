/** Regular log lines: one at the first flush, and a summary each LOG_SUMMARY_SECONDS. Main thread. */
import type { Clock } from '../core/clock.js';
import type { Logger } from '../core/logger.js';

/** Totals since the start of the process. */
export interface SummaryTotals {
  /** Increments acknowledged. */
  readonly accepted: number;
  readonly flushed: number;
  readonly pending: number;
  /** Answered requests with increments, and how many of them were not answered with 202. */
  readonly requests: number;
  readonly refusals: number;
  /** Age of the oldest pending increment, in seconds. */
  readonly flushLagSeconds: number;
}

/** See the file's head. */
export class SummaryLog {
  readonly #clock: Pick<Clock, 'monotonic'>;
  readonly #logger: Logger;
  readonly #intervalMs: number;
  #last: Pick<SummaryTotals, 'accepted' | 'flushed' | 'requests' | 'refusals'> = {
    accepted: 0,
    flushed: 0,
    requests: 0,
    refusals: 0,
  };
  #lastAtMs: number;
  #hasFlushed = false;

  /** `intervalSeconds` is LOG_SUMMARY_SECONDS: 0 for no summaries. */
  constructor(clock: Pick<Clock, 'monotonic'>, logger: Logger, intervalSeconds: number) {
    this.#clock = clock;
    this.#logger = logger;
    this.#intervalMs = intervalSeconds * 1000;
    this.#lastAtMs = clock.monotonic();
  }

  /** Writes the lines that are due. To be called once a second. */
  look(totals: SummaryTotals): void {
    if (!this.#hasFlushed && totals.flushed > 0) {
      this.#hasFlushed = true;
      const { flushed } = totals;
      const what = flushed === 1 ? '1 increment is' : `${flushed} increments are`;
      this.#logger.info({ flushed }, `First flush: ${what} in PostgreSQL`);
    }
    const now = this.#clock.monotonic();
    if (this.#intervalMs === 0 || now - this.#lastAtMs < this.#intervalMs) return;
    const seconds = Math.round((now - this.#lastAtMs) / 1000);
    this.#lastAtMs = now;
    const increments = totals.accepted - this.#last.accepted;
    const requests = totals.requests - this.#last.requests;
    const refusals = totals.refusals - this.#last.refusals;
    const flushed = totals.flushed - this.#last.flushed;
    const { pending } = totals;
    const flushLagSeconds = Math.round(totals.flushLagSeconds * 10) / 10;
    this.#last = totals;
    this.#logger.info(
      { seconds, increments, requests, refusals, flushed, pending, flushLagSeconds },
      `In ${seconds} s ${increments} increments in ${requests} requests, ${refusals} refused; ${pending} pending, ` +
        `the oldest for ${flushLagSeconds} s`,
    );
  }
}
