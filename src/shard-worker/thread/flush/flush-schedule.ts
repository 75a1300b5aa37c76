/**
 * When a stream's flush loop has something to do. Shard thread.
 *
 * Waits are 90 to 100 % of their intervals, so that nodes do not beat in step. An interval begins with a flush and not at
 * its end, so what comes during a flush waits no longer than what comes after it.
 */
import type { Clock } from '../../../core/clock.js';

/** Longest wait while the database is away: an outage of an hour must not be followed by a wait of an interval. */
const UNAVAILABLE_INTERVAL_MS = 1000;

/** The intervals. */
export interface FlushScheduleOptions {
  /** What waits is flushed this often. */
  readonly intervalMs: number;
  /** The stream's row is looked at this often where no flush does so, and an idle stream's `accepted_through` moves. */
  readonly touchIntervalMs: number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
}

/** The schedule of one loop, which begins now. Times are ms. */
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

  /** How long the loop has nothing to do, unless somebody asks for it. */
  restMs(isAvailable: boolean): number {
    const otherwiseAt = isAvailable ? this.#touchDueAt : this.#in(UNAVAILABLE_INTERVAL_MS);
    return Math.max(0, Math.min(this.#flushDueAt, otherwiseAt) - this.#clock.monotonic());
  }

  /** Whether an interval is over. */
  get isFlushDue(): boolean {
    return this.#clock.monotonic() >= this.#flushDueAt;
  }

  get isTouchDue(): boolean {
    return this.#clock.monotonic() >= this.#touchDueAt;
  }

  /** A flush begins, or is not needed: the next is due an interval from now. */
  beginInterval(): void {
    this.#flushDueAt = this.#in(this.#options.intervalMs);
  }

  /** The row has been looked at. */
  noticeTouch(): void {
    this.#touchDueAt = this.#in(this.#options.touchIntervalMs);
  }

  /** The row is to be looked at now. */
  askForTouch(): void {
    this.#touchDueAt = Number.NEGATIVE_INFINITY;
  }

  #in(intervalMs: number): number {
    return this.#clock.monotonic() + intervalMs * (0.9 + 0.1 * this.#options.random());
  }
}
