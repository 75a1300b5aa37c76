/** Pauses between attempts, each twice as long as the last, up to a limit. Any thread. */

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

  /** Returns the next pause and doubles it. */
  take(): number {
    const ms = this.#nextMs;
    this.#nextMs = Math.min(2 * ms, this.#maxMs);
    return ms;
  }

  /** Starts again with the shortest pause, after a success. */
  reset(): void {
    this.#nextMs = this.#firstMs;
  }
}
