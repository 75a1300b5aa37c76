/**
 * A batch while it is being filled: record header and entries in one buffer that is then posted. HTTP thread.
 *
 * The memory for the batches to one shard are slots that both threads see and that are used again, so that a batch
 * crosses the port as a number. A slot is the HTTP thread's until its batch is posted, the shard's until that is
 * answered, and then the HTTP thread's again. The port's own hand-over orders what one thread writes before what the
 * other reads. To transfer a buffer instead costs both threads about 20 µs: it is made, serialised and freed.
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

/** What was taken out of an {@link OutgoingBatch}. */
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

  constructor(kind: BatchKind, clock: Clock, memory: BatchMemory) {
    this.kind = kind;
    this.#clock = clock;
    this.#memory = memory;
  }

  /** The next batches are written into `memory`; this one must be empty. */
  useMemory(memory: BatchMemory): void {
    this.#memory = memory;
    this.#buffer = undefined;
  }

  get isEmpty(): boolean {
    return this.#replies.length === 0;
  }

  /** When the first request went in, on the monotonic clock. */
  get openedAtMs(): number {
    return this.#openedAtMs;
  }

  /** Whether `bytes` more fit; an empty batch is made to fit. */
  hasRoom(bytes: number): boolean {
    const needed = this.#end + bytes;
    if (this.#buffer !== undefined && needed <= this.#buffer.bytes.length) return true;
    if (!this.isEmpty) return false;
    if (this.#buffer !== undefined) this.#memory.release(this.#buffer);
    this.#buffer = this.#memory.take(needed);
    return true;
  }

  /** Begins a request with a token, whose pairs of `pairsBytes` bytes follow; {@link hasRoom} made room for it. */
  writeIdempotencyKey(idempotencyKey: string, incrementsBytes: number): void {
    const { view, bytes } = this.#buffer as BatchBuffer;
    const start = writeIdempotentHeader(view, this.#end, idempotencyKey.length, incrementsBytes);
    for (let index = 0; index < idempotencyKey.length; index += 1)
      bytes[start + index] = idempotencyKey.charCodeAt(index);
    this.#end = start + idempotencyKey.length;
  }

  /** Adds row `row`; {@link hasRoom} made room for it. */
  write(increments: ParsedIncrements, row: number): void {
    // Rows below `count` exist in every column.
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

  /** Ends a request: `reply` is settled with the batch. */
  finish(reply: PendingReply): void {
    if (this.#replies.length === 0) this.#openedAtMs = this.#clock.monotonic();
    this.#replies.push(reply);
  }

  /** Takes everything out, stamped with the time, and begins anew; it must not be empty. */
  take(nowMs: number): FilledBatch {
    const buffer = this.#buffer as BatchBuffer;
    const { view } = buffer;
    view.setUint32(RECORD_OFFSET.bytes, this.#end, true);
    view.setUint32(RECORD_OFFSET.increments, this.#increments, true);
    view.setUint32(RECORD_OFFSET.flags, 0, true);
    writeUint64(view, RECORD_OFFSET.acceptedAt, nowMs);
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

/** Bytes of a tokened request's entry. */
export function idempotentRequestBytes(idempotencyKey: string, incrementsBytes: number): number {
  return IDEMPOTENT_HEADER_BYTES + idempotencyKey.length + incrementsBytes;
}

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
