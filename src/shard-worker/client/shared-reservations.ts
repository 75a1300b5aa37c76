/**
 * The room that several HTTP servers have reserved together, in shared memory, so that the limits of the server hold for all of
 * its HTTP threads. HTTP threads.
 *
 * An HTTP server reserves first, then compares with the limits, and releases the excess. Two that reserve at the same moment
 * both see the sum, so a limit is never exceeded; near it, both may be refused. A shard adds to its stats before room is
 * released here. Readers read the reservations before the stats, so they miss nothing in between.
 */

const INCREMENTS = 0;
const BYTES = 1;
/** Cells of a shard, so that two shards do not share a cache line. */
const ROW = 16;

/**
 * Memory for the reservations in `shards` shards. A cell counts to 2^32. In a shard, 64 HTTP servers reserve at most 16
 * MiB each, or the 40 MiB of one body.
 */
export function makeReservations(shards: number): SharedArrayBuffer {
  return new SharedArrayBuffer(shards * ROW * Uint32Array.BYTES_PER_ELEMENT);
}

/** The reservations of all HTTP servers. */
export class SharedReservations {
  readonly #cells: Uint32Array;

  constructor(memory: SharedArrayBuffer) {
    this.#cells = new Uint32Array(memory);
  }

  /** Reserves room in a shard without checking limits. */
  reserve(shard: number, increments: number, bytes: number): void {
    Atomics.add(this.#cells, shard * ROW + INCREMENTS, increments);
    Atomics.add(this.#cells, shard * ROW + BYTES, bytes);
  }

  /** Releases room that was reserved. */
  release(shard: number, increments: number, bytes: number): void {
    Atomics.sub(this.#cells, shard * ROW + INCREMENTS, increments);
    Atomics.sub(this.#cells, shard * ROW + BYTES, bytes);
  }

  /** Increments that all HTTP servers have reserved room for in a shard. */
  increments(shard: number): number {
    return Atomics.load(this.#cells, shard * ROW + INCREMENTS);
  }

  /** Bytes that all HTTP servers have reserved in a shard. */
  bytes(shard: number): number {
    return Atomics.load(this.#cells, shard * ROW + BYTES);
  }
}
