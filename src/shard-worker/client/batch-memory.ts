/**
 * Memory for a front end's batches to one shard: slots that both threads see and that are used again, so that a batch
 * crosses the port as a number. Front-end thread.
 *
 * A slot is the front end's until its batch is posted, the shard's until that is answered, and then the front end's
 * again; the port's own hand-over orders what one thread writes before what the other reads. To transfer a buffer
 * instead costs both threads about 20 µs, for its making, its serialising and its end.
 */

/** Bytes of a slot; a batch is posted before it would outgrow this, and one larger request goes by itself. */
export const BATCH_BYTES_MAX = 64 * 1024;

/** Most slots of a front end and a shard: of batches beyond them a copy of what they hold is transferred. */
const SLOTS_MAX = 8;

/** Memory that a batch is written into. */
export interface BatchBuffer {
  readonly memory: ArrayBufferLike;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** The slots between a front end and one shard thread; another thread gets others. */
export class BatchMemory {
  readonly #free: BatchBuffer[] = [];
  /** Not shared, and written for batches beyond the slots: as many as were open at a time. */
  readonly #spare: BatchBuffer[] = [];
  #made = 0;

  /** Memory of at least `bytes`. */
  take(bytes: number): BatchBuffer {
    if (bytes > BATCH_BYTES_MAX) return bufferOn(new ArrayBuffer(bytes));
    // The one used last, for the sake of the cache.
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made === SLOTS_MAX) return this.#spare.pop() ?? bufferOn(new ArrayBuffer(BATCH_BYTES_MAX));
    this.#made += 1;
    return bufferOn(new SharedArrayBuffer(BATCH_BYTES_MAX));
  }

  /**
   * What to post of `buffer`, whose first `end` bytes are a batch. Where it is not shared it is no longer than that: at the
   * key bound each request is a batch, and only the bytes of requests are bounded.
   */
  seal(buffer: BatchBuffer, end: number): BatchBuffer {
    if (buffer.memory instanceof SharedArrayBuffer || buffer.memory.byteLength === end) return buffer;
    const sealed = bufferOn(buffer.memory.slice(0, end));
    if (buffer.memory.byteLength === BATCH_BYTES_MAX) this.#spare.push(buffer);
    return sealed;
  }

  /** The batch is answered, or was never posted: its memory may be written again. */
  release(buffer: BatchBuffer): void {
    if (buffer.memory instanceof SharedArrayBuffer) this.#free.push(buffer);
  }
}

function bufferOn(memory: ArrayBufferLike): BatchBuffer {
  return { memory, bytes: new Uint8Array(memory), view: new DataView(memory) };
}
