/**
 * Pauses between attempts, each twice as long as the one before it, up to a limit. Any thread.
 */

/** The pauses of one series of attempts, in ms. */
export class Backoff {
  readonly #firstMs: number;
  readonly #maxMs: number;
  #nextMs: number;

  constructor(firstMs: number, maxMs: number) {
    this.#firstMs = firstMs;
    this.#maxMs = maxMs;
    this.#nextMs = firstMs;
  }

  /** The next pause. */
  get nextMs(): number {
    return this.#nextMs;
  }

  /** The next pause, which is taken: the one after it is longer. */
  take(): number {
    const ms = this.#nextMs;
    this.#nextMs = Math.min(2 * ms, this.#maxMs);
    return ms;
  }

  /** An attempt has succeeded: the next series begins with the shortest pause. */
  reset(): void {
    this.#nextMs = this.#firstMs;
  }
}
