/**
 * A small, fast, seeded source of random numbers for tests that draw millions of them: mulberry32 by Tommy Ettinger
 * (2017, public domain), 32 bits of state, period 2^32.
 */
export class Mulberry32 {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** The next unsigned 32-bit integer. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  }

  /** An integer from 0 to `bound` − 1. */
  below(bound: number): number {
    return Math.floor((this.next() / 0x1_0000_0000) * bound);
  }

  /** One of the items; there must be at least one. */
  pick<T>(items: readonly T[]): T {
    // In range by `below`.
    return items[this.below(items.length)] as T;
  }
}
