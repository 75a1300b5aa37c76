/**
 * Open batches, and the memory for them. A batch is a record header and entries in one buffer. HTTP thread.
 *
 * Batches are written into reused slots of shared memory, so that a batch crosses the port as a number. A slot belongs to the
 * HTTP thread until its batch is posted, then to the shard until the batch is answered. The port orders the writes of one
 * thread before the reads of the other. A transferred buffer would cost both threads about 20 µs, because it is made,
 * serialised and freed each time.
 */
import type { Clock } from '../../core/clock.js';
import type { ParsedIncrements, PendingReply } from '../../core/increment.js';
import type { BatchKind } from '../protocol/batches.js';
import {
  IDEMPOTENT_HEADER_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  writeIdempotentHeader,
  writeIncrement,
  writeUint64,
} from '../protocol/record-layout.js';

/** The content of an {@link OutgoingBatch}, ready to post. */
export interface FilledBatch {
  readonly buffer: BatchBuffer;
  readonly replies: PendingReply[];
  readonly increments: number;
  /** Bytes of the entries. */
  readonly bytes: number;
}

/** An open batch for one shard. */
export class OutgoingBatch {
  readonly kind: BatchKind;
  readonly #clock: Clock;
  #memory: BatchMemory;
  #buffer: BatchBuffer | undefined;
  #end = RECORD_HEADER_BYTES;
  #increments = 0;
  #replies: PendingReply[] = [];
  #openedAtMs = 0;
  readonly #readGeneration: () => number;
  #generation = 0;

  /** `readGeneration`: reads `STAT.generation` of the shard. */
  constructor(kind: BatchKind, clock: Clock, memory: BatchMemory, readGeneration: () => number) {
    this.kind = kind;
    this.#clock = clock;
    this.#memory = memory;
    this.#readGeneration = readGeneration;
  }

  /** Writes the next batches into `memory`. The batch must be empty. */
  useMemory(memory: BatchMemory): void {
    this.#memory = memory;
    this.#buffer = undefined;
  }

  get isEmpty(): boolean {
    return this.#replies.length === 0;
  }

  /** When the first request was added, on the monotonic clock. */
  get openedAtMs(): number {
    return this.#openedAtMs;
  }

  /** Whether `bytes` more fit. An empty batch takes memory of that size. */
  hasRoom(bytes: number): boolean {
    const needed = this.#end + bytes;
    if (this.#buffer !== undefined && needed <= this.#buffer.bytes.length) return true;
    if (!this.isEmpty) return false;
    if (this.#buffer !== undefined) this.#memory.release(this.#buffer);
    this.#buffer = this.#memory.take(needed);
    return true;
  }

  /** Starts an idempotent request; its increments of `incrementsBytes` bytes follow. {@link hasRoom} has made room. */
  writeIdempotencyKey(idempotencyKey: string, incrementsBytes: number): void {
    const { view, bytes } = this.#buffer as BatchBuffer;
    const start = writeIdempotentHeader(view, this.#end, idempotencyKey.length, incrementsBytes);
    for (let index = 0; index < idempotencyKey.length; index += 1)
      bytes[start + index] = idempotencyKey.charCodeAt(index);
    this.#end = start + idempotencyKey.length;
  }

  /** Adds row `row` of `increments`. {@link hasRoom} has made room. */
  write(increments: ParsedIncrements, row: number): void {
    // Every column has all rows below `count`.
    const keyBytes = increments.keyBytes[row] as number;
    const start = increments.keyStart[row] as number;
    const source = start >= 0 ? increments.body : increments.decoded;
    const from = start >= 0 ? start : ~start;
    const { view, bytes } = this.#buffer as BatchBuffer;
    const hash = increments.hash[row] as number;
    const key = writeIncrement(view, this.#end, keyBytes, hash, increments.amount[row] as number);
    for (let index = 0; index < keyBytes; index += 1) bytes[key + index] = source[from + index] as number;
    this.#end = key + keyBytes;
    this.#increments += 1;
  }

  /** Ends a request. Its `reply` is settled with the batch. */
  finish(reply: PendingReply): void {
    if (this.#replies.length === 0) {
      this.#openedAtMs = this.#clock.monotonic();
      this.#generation = this.#readGeneration();
    }
    this.#replies.push(reply);
  }

  /** The reply of the request that was added last; undefined if the batch is empty. */
  get lastReply(): PendingReply | undefined {
    return this.#replies.at(-1);
  }

  /** Removes the request that was added last. It has `increments` increments in `bytes` bytes. */
  removeLast(increments: number, bytes: number): void {
    this.#replies.pop();
    this.#end -= bytes;
    this.#increments -= increments;
    if (!this.isEmpty) return;
    // The request may have taken memory larger than a slot. Others must not gather in it.
    this.#memory.release(this.#buffer as BatchBuffer);
    this.#buffer = undefined;
  }

  /** Stamps the batch with the time, returns its content and empties it. It must not be empty before. */
  take(nowMs: number): FilledBatch {
    const buffer = this.#buffer as BatchBuffer;
    const { view } = buffer;
    view.setUint32(RECORD_OFFSET.bytes, this.#end, true);
    view.setUint32(RECORD_OFFSET.increments, this.#increments, true);
    view.setUint32(RECORD_OFFSET.databaseTime, 0, true);
    writeUint64(view, RECORD_OFFSET.acceptedAt, nowMs);
    // Until the journal gives it an LSN.
    writeUint64(view, RECORD_OFFSET.lsn, this.#generation);
    const filled = {
      buffer: this.#memory.seal(buffer, this.#end),
      replies: this.#replies,
      increments: this.#increments,
      bytes: this.#end - RECORD_HEADER_BYTES,
    };
    this.#buffer = undefined;
    this.#end = RECORD_HEADER_BYTES;
    this.#increments = 0;
    this.#replies = [];
    return filled;
  }
}

/** Bytes of the entry of an idempotent request. */
export function idempotentRequestBytes(idempotencyKey: string, incrementsBytes: number): number {
  return IDEMPOTENT_HEADER_BYTES + idempotencyKey.length + incrementsBytes;
}

/** Bytes of a slot. A batch is posted before it becomes larger; a larger request has a batch of its own. */
export const BATCH_BYTES_MAX = 64 * 1024;

/** Most slots between an HTTP server and a shard. The content of further batches is copied and transferred. */
const SLOTS_MAX = 8;

/** Memory that a batch is written into. */
export interface BatchBuffer {
  readonly memory: ArrayBufferLike;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** The slots between an HTTP server and one shard thread. Another shard thread gets other slots. */
export class BatchMemory {
  readonly #free: BatchBuffer[] = [];
  /** Unshared memory for batches beyond the slots. */
  readonly #spare: BatchBuffer[] = [];
  #made = 0;

  /** Memory of at least `bytes`. */
  take(bytes: number): BatchBuffer {
    if (bytes > BATCH_BYTES_MAX) return bufferOn(new ArrayBuffer(bytes));
    // The last used slot is most likely in the cache.
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made === SLOTS_MAX) return this.#spare.pop() ?? bufferOn(new ArrayBuffer(BATCH_BYTES_MAX));
    this.#made += 1;
    return bufferOn(new SharedArrayBuffer(BATCH_BYTES_MAX));
  }

  /**
   * What to post for the batch in the first `end` bytes of `buffer`: shared memory itself, else a copy of `end` bytes. A copy,
   * because at the key bound each request is a batch, and the limits count only the bytes of requests.
   */
  seal(buffer: BatchBuffer, end: number): BatchBuffer {
    if (buffer.memory instanceof SharedArrayBuffer || buffer.memory.byteLength === end) return buffer;
    const sealed = bufferOn(buffer.memory.slice(0, end));
    if (buffer.memory.byteLength === BATCH_BYTES_MAX) this.#spare.push(buffer);
    return sealed;
  }

  /** Returns the memory of a batch that is answered or was never posted. */
  release(buffer: BatchBuffer): void {
    if (buffer.memory instanceof SharedArrayBuffer) this.#free.push(buffer);
  }
}

function bufferOn(memory: ArrayBufferLike): BatchBuffer {
  return { memory, bytes: new Uint8Array(memory), view: new DataView(memory) };
}
