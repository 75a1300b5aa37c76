/**
 * The log lines of a lasting problem: one when it begins, one each minute, and one when it ends. Any thread.
 *
 * ```text
 * over ──notice()──► on: "begins" ──notice() a minute after the last line──► on: "lasts"
 *   ▲                 └──end(): "ended"
 *   └───────────────────┘
 * ```
 */
import type { Clock } from './clock.js';

const REPEAT_MS = 60_000;

/** One line. */
export interface EpisodeLine {
  readonly kind: 'begins' | 'lasts' | 'ended';
  /** How long it has lasted. */
  readonly seconds: number;
  /** How often it was noticed since the last line. */
  readonly since: number;
  /** How often it was noticed since it began. */
  readonly total: number;
}

/** A problem that comes and goes. */
export class Episode {
  readonly #clock: Pick<Clock, 'monotonic'>;
  #on: { readonly beganAtMs: number; saidAtMs: number; since: number; total: number } | undefined;

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock;
  }

  /** Whether it lasts. */
  get isOn(): boolean {
    return this.#on !== undefined;
  }

  /** Counts the problem `times` more. Returns the line that is due, or undefined. */
  notice(times = 1): EpisodeLine | undefined {
    const now = this.#clock.monotonic();
    if (this.#on === undefined) {
      this.#on = { beganAtMs: now, saidAtMs: now, since: 0, total: times };
      return { kind: 'begins', seconds: 0, since: times, total: times };
    }
    this.#on.since += times;
    this.#on.total += times;
    if (now - this.#on.saidAtMs < REPEAT_MS) return undefined;
    this.#on.saidAtMs = now;
    const line = this.#line('lasts', now);
    this.#on.since = 0;
    return line;
  }

  /** Ends the problem. Returns the line for that, or undefined if it was over. */
  end(): EpisodeLine | undefined {
    const line = this.#line('ended', this.#clock.monotonic());
    this.#on = undefined;
    return line;
  }

  #line(kind: EpisodeLine['kind'], now: number): EpisodeLine | undefined {
    if (this.#on === undefined) return undefined;
    const { beganAtMs, since, total } = this.#on;
    return { kind, seconds: Math.round((now - beganAtMs) / 100) / 10, since, total };
  }
}
