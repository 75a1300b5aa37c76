/**
 * A batch while it is being filled: record header and entries in one buffer that is then posted. Front-end thread.
 */
import type { Clock } from '../../core/clock.js';
import type { ParsedIncrements, PendingReply } from '../../core/increment.js';
import {
  IDEMPOTENT_HEADER_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  writeIdempotentHeader,
  writeIncrement,
  writeUint64,
} from '../protocol/record-layout.js';
import type { BatchBuffer, BatchMemory } from './batch-memory.js';

/** What was taken out of an {@link OutgoingBatch}. */
export interface FilledBatch {
  readonly buffer: BatchBuffer;
  readonly replies: PendingReply[];
  readonly increments: number;
  /** Bytes of the entries. */
  readonly bytes: number;
}

/** The open batch of one shard. */
export class OutgoingBatch {
  readonly #clock: Clock;
  #memory: BatchMemory;
  #buffer: BatchBuffer | undefined;
  #end = RECORD_HEADER_BYTES;
  #increments = 0;
  #replies: PendingReply[] = [];
  #openedAtMs = 0;

  constructor(clock: Clock, memory: BatchMemory) {
    this.#clock = clock;
    this.#memory = memory;
  }

  /** The next batches are written into `memory`; this one must be empty. */
  useMemory(memory: BatchMemory): void {
    this.#memory = memory;
    this.#buffer = undefined;
  }

  /** Requests in it. */
  get requests(): number {
    return this.#replies.length;
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
