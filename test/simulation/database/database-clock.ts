/**
 * The time of the simulated database. It is not the time of any node, and it runs faster than that of the world, so that the
 * whole seconds of the protocol and the durations in SQL fit into short histories.
 */
import type { Mulberry32 } from '../../support/mulberry32.js';
import type { Scheduler } from '../scheduler.js';

/** How long the durations in SQL take in a history. In ms of the world, except `rate`. */
export interface TimeScale {
  /** Seconds of the database in one second of the world. */
  readonly rate: number;
  /** An hour of IDEMPOTENCY_WINDOW_HOURS. */
  readonly windowHourMs: number;
  /**
   * The five minutes for requests under way. Longer than any request is under way, by a second of the database, because
   * times are rounded down, and by {@link CLOCK_STEP_MAX_MS}.
   */
  readonly marginMs: number;
  /** A day of STREAM_EXPIRY_DAYS. */
  readonly expiryDayMs: number;
  /** The ten minutes between two rounds of the pruner that are a gap. */
  readonly gapMs: number;
  /** The hour after a gap, and after the last sign of life of a memory journal's stream. */
  readonly hourMs: number;
  /** The 15 days after the window for which a tombstone stays. */
  readonly tombstoneMs: number;
  /**
   * The 15 days after which the pruner retires a silent stream of the sqs journal. Undefined: it leaves these streams to processes
   * of a walk, which retire them and remove their tombstones.
   */
  readonly queueExpiryMs?: number;
  /** lock_timeout. */
  readonly lockTimeoutMs: number;
  /** idle_in_transaction_session_timeout: the latest time at which the server ends a transaction whose client is silent. */
  readonly idleTimeoutMs: number;
}

/** A window of three seconds. */
export const DEFAULT_SCALE: TimeScale = {
  rate: 10,
  windowHourMs: 3000,
  marginMs: 1000,
  expiryDayMs: 8000,
  gapMs: 2000,
  hourMs: 3000,
  tombstoneMs: 6000,
  lockTimeoutMs: 5000,
  idleTimeoutMs: 10_000,
};

/** Most by which the clock of a standby differs, in ms of the world. */
const CLOCK_STEP_MAX_MS = 30;

const BEGINNING = Date.UTC(2026, 0, 1);
/** Most by which the clock of the database differs from those of nodes at the beginning, in ms. */
const SKEW_MAX_MS = 3_600_000;

/** A clock in ms since 1970. */
export class DatabaseClock {
  readonly scale: TimeScale;
  readonly #scheduler: Scheduler;
  readonly #random: Mulberry32;
  #beginning: number;

  constructor(scheduler: Scheduler, random: Mulberry32, scale: TimeScale) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.scale = scale;
    this.#beginning = BEGINNING + random.below(2 * SKEW_MAX_MS) - SKEW_MAX_MS;
  }

  now(): number {
    return this.#beginning + Math.floor(this.scale.rate * this.#scheduler.now);
  }

  /** A duration of the world, in ms of this clock. */
  span(worldMs: number): number {
    return this.scale.rate * worldMs;
  }

  /** Another machine takes over: its clock is a little apart, in either direction. */
  step(): void {
    this.#beginning += this.span(this.#random.below(2 * CLOCK_STEP_MAX_MS) - CLOCK_STEP_MAX_MS);
  }
}
