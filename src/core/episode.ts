/**
 * Something that lasts, for the log: a line when it begins, one each minute while it lasts, and one when it ends. Any thread.
 *
 * ```text
 * over ──notice()──► on: "begins" ──notice() a minute after the last line──► on: "lasts"
 *   ▲                 └──end(): "ended"
 *   └───────────────────┘
 * ```
 */
import type { Clock } from './clock.js';

const REPEAT_MS = 60_000;

/** What a line can say. */
export interface EpisodeLine {
  readonly kind: 'begins' | 'lasts' | 'ended';
  /** How long it has lasted. */
  readonly seconds: number;
  /** How often it was met since the last line. */
  readonly since: number;
  /** How often it was met since it began. */
  readonly total: number;
}

/** One kind of trouble, which comes and goes. */
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

  /** It is there, and was met `times` more. Returns the line that is due, or undefined. */
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

  /** It is over. Returns the line that says so, or undefined if it was over before. */
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
