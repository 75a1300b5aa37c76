/** A clock that moves only when a test moves it. */
import type { Clock, Timer } from '#product/core/clock.js';

interface Scheduled {
  readonly at: number;
  readonly callback: () => void;
}

export class ManualClock implements Clock {
  #now: number;
  #elapsed = 0;
  #suspended = 0;
  #scheduled: Scheduled[] = [];

  constructor(now = Date.UTC(2026, 0, 1)) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  monotonic(): number {
    return this.#elapsed;
  }

  uptime(): number {
    return this.#elapsed + this.#suspended;
  }

  schedule(delayMs: number, callback: () => void): Timer {
    const entry = { at: this.#elapsed + delayMs, callback };
    this.#scheduled.push(entry);
    return { cancel: () => void (this.#scheduled = this.#scheduled.filter((other) => other !== entry)) };
  }

  /** Sets the wall clock, without time passing. */
  set(byMs: number): void {
    this.#now += byMs;
  }

  /** Suspends the machine. */
  suspend(ms: number): void {
    this.#now += ms;
    this.#suspended += ms;
  }

  /** Pending timers. */
  get timers(): number {
    return this.#scheduled.length;
  }

  /** Moves time and runs the timers that become due, in order. */
  advance(ms: number): void {
    const until = this.#elapsed + ms;
    for (;;) {
      const due = this.#scheduled.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#scheduled = this.#scheduled.filter((other) => other !== due);
      this.#now += Math.max(0, due.at - this.#elapsed);
      this.#elapsed = Math.max(this.#elapsed, due.at);
      due.callback();
    }
    this.#now += until - this.#elapsed;
    this.#elapsed = until;
  }
}
