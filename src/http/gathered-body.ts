/**
 * Bodies that arrive in pieces, and a limit on the memory of all of them. HTTP thread.
 *
 * Without the limit, clients that send half bodies could fill the memory of the server.
 */

/** Least size of a buffer. */
const BYTES_MIN = 1024;

/** The memory that all unfinished bodies share. */
export class BodyMemory {
  /** Bytes not in use. */
  free: number;

  constructor(bytesMax: number) {
    this.free = bytesMax;
  }
}

/** A body gathered from pieces, in a buffer that doubles in size. */
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

  /** The bytes received so far. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Copies a piece. Returns false and changes nothing if there is no memory for it. */
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

  /** Releases the memory and discards the bytes. */
  release(): void {
    this.#memory.free += this.#bytes.length;
    this.#bytes = new Uint8Array(0);
    this.#length = 0;
  }
}
