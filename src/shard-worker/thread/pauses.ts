/** Waits that can be ended together. Shard thread. */
import type { Clock } from '../../core/clock.js';

/** The waits of one object. */
export class Pauses {
  readonly #clock: Clock;
  readonly #ends = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Waits for `ms`, or until {@link endAll}. */
  pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        timer.cancel();
        this.#ends.delete(end);
        resolve();
      };
      const timer = this.#clock.schedule(ms, end);
      this.#ends.add(end);
    });
  }

  /** Ends all waits that are under way. */
  endAll(): void {
    for (const end of this.#ends) end();
  }
}
