/**
 * When the flush loop of a stream has something to do. Shard thread.
 *
 * Waits are 90 to 100 % of their intervals, so that nodes do not flush at the same moments. An interval begins when a flush
 * begins. Increments that arrive during a flush wait no longer than those after it.
 */
import type { Clock } from '../../../core/clock.js';

/** Longest wait while the database is unavailable. The first flush after an outage must not wait for an interval. */
const UNAVAILABLE_INTERVAL_MS = 1000;

/** The intervals. */
export interface FlushScheduleOptions {
  /** Time between flushes. */
  readonly intervalMs: number;
  /** Time between touches where no flush sees the row. A touch of an idle stream advances `accepted_through`. */
  readonly touchIntervalMs: number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
}

/** The schedule of one loop; it begins now. Times are ms. */
export class FlushSchedule {
  readonly #clock: Clock;
  readonly #options: FlushScheduleOptions;
  #flushDueAt: number;
  #touchDueAt: number;

  constructor(clock: Clock, options: FlushScheduleOptions) {
    this.#clock = clock;
    this.#options = options;
    this.#flushDueAt = this.#in(options.intervalMs);
    this.#touchDueAt = this.#in(options.touchIntervalMs);
  }

  /** How long the loop can wait unless it is asked to flush. */
  restMs(isAvailable: boolean): number {
    const otherwiseAt = isAvailable ? this.#touchDueAt : this.#in(UNAVAILABLE_INTERVAL_MS);
    return Math.max(0, Math.min(this.#flushDueAt, otherwiseAt) - this.#clock.monotonic());
  }

  get isFlushDue(): boolean {
    return this.#clock.monotonic() >= this.#flushDueAt;
  }

  get isTouchDue(): boolean {
    return this.#clock.monotonic() >= this.#touchDueAt;
  }

  /** A flush begins, or nothing is pending: the next is due an interval from now. */
  beginInterval(): void {
    this.#flushDueAt = this.#in(this.#options.intervalMs);
  }

  /** The row was seen: the next touch is due an interval from now. */
  noticeTouch(): void {
    this.#touchDueAt = this.#in(this.#options.touchIntervalMs);
  }

  /** Makes the touch due now. */
  askForTouch(): void {
    this.#touchDueAt = Number.NEGATIVE_INFINITY;
  }

  #in(intervalMs: number): number {
    return this.#clock.monotonic() + intervalMs * (0.9 + 0.1 * this.#options.random());
  }
}
