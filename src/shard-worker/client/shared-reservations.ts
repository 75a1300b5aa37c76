/**
 * The room that all front ends together have reserved, where there are several: in shared memory, so that the bounds of a
 * node hold over all of its threads. Front-end threads.
 *
 * A front end takes first and looks then, and gives back what turns out to be too much. Two that take at the same moment
 * both see it, so a bound is never passed; near it both may be refused. What is given back here was added to the shard's
 * gauges before, and is read here before the gauges are, so nothing is missed between the two.
 */

const INCREMENTS = 0;
const BYTES = 1;
/** Cells of a shard, so that two shards do not share a cache line. */
const ROW = 16;

/**
 * Memory for the reservations in `shards` shards. A cell counts to 2^32, and 64 front ends reserve at most 16 MiB, or one
 * body's 40 MiB, each beyond that in a shard.
 */
export function makeReservations(shards: number): SharedArrayBuffer {
  return new SharedArrayBuffer(shards * ROW * Uint32Array.BYTES_PER_ELEMENT);
}

/** The reservations of all front ends. */
export class SharedReservations {
  readonly #cells: Uint32Array;

  constructor(memory: SharedArrayBuffer) {
    this.#cells = new Uint32Array(memory);
  }

  /** Reserves room in a shard, whether there is any or not. */
  take(shard: number, increments: number, bytes: number): void {
    Atomics.add(this.#cells, shard * ROW + INCREMENTS, increments);
    Atomics.add(this.#cells, shard * ROW + BYTES, bytes);
  }

  /** Gives back what was taken. */
  release(shard: number, increments: number, bytes: number): void {
    Atomics.sub(this.#cells, shard * ROW + INCREMENTS, increments);
    Atomics.sub(this.#cells, shard * ROW + BYTES, bytes);
  }

  /** Pairs reserved in a shard by all front ends. */
  increments(shard: number): number {
    return Atomics.load(this.#cells, shard * ROW + INCREMENTS);
  }

  /** Bytes reserved in a shard by all front ends. */
  bytes(shard: number): number {
    return Atomics.load(this.#cells, shard * ROW + BYTES);
  }
}
