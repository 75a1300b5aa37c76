/**
 * Bodies that come in pieces, and the memory that all of them together may take: clients that send half of a body each
 * and no more must not fill it. Front-end thread.
 */

/** The first piece gets at least this much room. */
const BYTES_MIN = 1024;

/** What the bodies that have come in part may take at a time. */
export class BodyMemory {
  /** Bytes that are left. */
  free: number;

  constructor(bytesMax: number) {
    this.free = bytesMax;
  }
}

/** A body gathered from pieces, in a buffer that doubles. */
export class GatheredBody {
  readonly #memory: BodyMemory;
  #bytes = new Uint8Array(0);
  #length = 0;

  constructor(memory: BodyMemory) {
    this.#memory = memory;
  }

  get length(): number {
    return this.#length;
  }

  /** What has come so far. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Copies a piece; false, and nothing changed, where the memory for it is not there. */
  append(chunk: Uint8Array): boolean {
    const needed = this.#length + chunk.length;
    if (needed > this.#bytes.length) {
      const capacity = Math.max(BYTES_MIN, 2 * this.#bytes.length, needed);
      const more = capacity - this.#bytes.length;
      if (more > this.#memory.free) return false;
      this.#memory.free -= more;
      const larger = new Uint8Array(capacity);
      larger.set(this.bytes);
      this.#bytes = larger;
    }
    this.#bytes.set(chunk, this.#length);
    this.#length = needed;
    return true;
  }

  /** Gives the memory back; what has come is gone. */
  release(): void {
    this.#memory.free += this.#bytes.length;
    this.#bytes = new Uint8Array(0);
    this.#length = 0;
  }
}
