/**
 * Paces the connections of a load. Main thread of a command.
 *
 * With a rate, requests are due at even intervals. A connection that is ready too early waits. If all are late, the next one
 * gets a past instant, so that its latency includes the delay that the server caused.
 */

/** A user of a pacer, which asks at most once at a time. */
export interface PacedSender {
  /** `dueAt`, by `performance.now()`: when the request was due, not in the future. */
  send(dueAt: number): void;
}

/** The longest timeout of Node.js. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;

/** Gives each request its instant. */
export class Pacer {
  readonly #intervalMs: number;
  /** In the order of asking. */
  readonly #waiting = new Set<PacedSender>();
  /** Undefined until the first connection is ready. */
  #nextDueAt: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** `rate`: requests a second; undefined: at once. */
  constructor(rate: number | undefined) {
    this.#intervalMs = rate === undefined ? 0 : 1000 / rate;
  }

  /** Calls `send` once, now or when it is due. */
  ask(sender: PacedSender): void {
    if (this.#intervalMs === 0) {
      sender.send(performance.now());
      return;
    }
    this.#waiting.add(sender);
    this.#serve();
  }

  /** Withdraws a request of a sender. */
  withdraw(sender: PacedSender): void {
    this.#waiting.delete(sender);
  }

  /** No waiting sender is called any more. */
  stop(): void {
    this.#waiting.clear();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #serve(): void {
    const now = performance.now();
    let dueAt = this.#nextDueAt ?? now;
    for (const sender of this.#waiting) {
      if (dueAt > now) break;
      this.#waiting.delete(sender);
      sender.send(dueAt);
      dueAt += this.#intervalMs;
    }
    this.#nextDueAt = dueAt;
    if (this.#waiting.size === 0 || this.#timer !== undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#serve();
      },
      Math.min(dueAt - now, TIMEOUT_MS_MAX),
    );
  }
}
