/**
 * A batch while it is being filled: record header and entries in one buffer that is then posted. Front-end thread.
 */
import type { Clock } from '../clock.js';
import type { PairColumns, PendingReply } from '../increment.js';
import {
  PAIR_HEADER_BYTES,
  PAIR_OFFSET,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  TOKENED_HEADER_BYTES,
  TOKENED_MARK,
  TOKENED_OFFSET,
  writeUint64,
} from './messages.js';

/** A batch is posted when it would outgrow this, even within a turn; one larger request makes a larger batch. */
const BATCH_BYTES_MAX = 64 * 1024;

/** Smallest buffer; a new one is made for what the last batch held. */
const BATCH_BYTES_MIN = 4 * 1024;

/** What was taken out of an {@link OutgoingBatch}. */
export interface FilledBatch {
  readonly buffer: ArrayBuffer;
  readonly replies: PendingReply[];
  readonly pairs: number;
  /** Bytes of the entries. */
  readonly bytes: number;
}

/** The open batch of one shard. */
export class OutgoingBatch {
  readonly #clock: Clock;
  #bytes = new Uint8Array(BATCH_BYTES_MIN);
  #view = new DataView(this.#bytes.buffer);
  #end = RECORD_HEADER_BYTES;
  #pairs = 0;
  #replies: PendingReply[] = [];
  #openedAtMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
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
    if (needed <= this.#bytes.length) return true;
    if (needed > BATCH_BYTES_MAX && !this.isEmpty) return false;
    this.#grow(needed);
    return true;
  }

  /** Begins a request with a token, whose pairs of `pairsBytes` bytes follow. */
  writeToken(token: string, pairsBytes: number): void {
    const at = this.#end;
    const view = this.#view;
    view.setUint16(at + TOKENED_OFFSET.mark, TOKENED_MARK, true);
    view.setUint8(at + TOKENED_OFFSET.tokenBytes, token.length);
    view.setUint32(at + TOKENED_OFFSET.pairsBytes, pairsBytes, true);
    const start = at + TOKENED_HEADER_BYTES;
    for (let index = 0; index < token.length; index += 1) this.#bytes[start + index] = token.charCodeAt(index);
    this.#end = start + token.length;
  }

  /** Adds row `row`. */
  write(pairs: PairColumns, row: number): void {
    // Rows below `count` exist in every column.
    const keyBytes = pairs.keyBytes[row] as number;
    const start = pairs.keyStart[row] as number;
    const source = start >= 0 ? pairs.body : pairs.decoded;
    const from = start >= 0 ? start : ~start;
    const at = this.#end;
    const view = this.#view;
    view.setUint16(at + PAIR_OFFSET.keyBytes, keyBytes, true);
    view.setUint32(at + PAIR_OFFSET.hash, pairs.hash[row] as number, true);
    view.setFloat64(at + PAIR_OFFSET.amount, pairs.amount[row] as number, true);
    const bytes = this.#bytes;
    const key = at + PAIR_HEADER_BYTES;
    for (let index = 0; index < keyBytes; index += 1) bytes[key + index] = source[from + index] as number;
    this.#end = key + keyBytes;
    this.#pairs += 1;
  }

  /** Ends a request: `reply` is settled with the batch. */
  finish(reply: PendingReply): void {
    if (this.#replies.length === 0) this.#openedAtMs = this.#clock.monotonic();
    this.#replies.push(reply);
  }

  /** Takes everything out, stamped with the time, and begins anew. */
  take(nowMs: number): FilledBatch {
    this.#view.setUint32(RECORD_OFFSET.bytes, this.#end, true);
    this.#view.setUint32(RECORD_OFFSET.pairs, this.#pairs, true);
    writeUint64(this.#view, RECORD_OFFSET.acceptedAt, nowMs);
    const filled = {
      buffer: this.#bytes.buffer,
      replies: this.#replies,
      pairs: this.#pairs,
      bytes: this.#end - RECORD_HEADER_BYTES,
    };
    this.#bytes = new Uint8Array(capacityFor(Math.min(this.#end, BATCH_BYTES_MAX)));
    this.#view = new DataView(this.#bytes.buffer);
    this.#end = RECORD_HEADER_BYTES;
    this.#pairs = 0;
    this.#replies = [];
    return filled;
  }

  #grow(needed: number): void {
    const larger = new Uint8Array(capacityFor(needed));
    larger.set(this.#bytes.subarray(0, this.#end));
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}

/** The power of two from {@link BATCH_BYTES_MIN} on that holds `bytes`; beyond a batch's usual size just that. */
function capacityFor(bytes: number): number {
  if (bytes > BATCH_BYTES_MAX) return bytes;
  return Math.max(BATCH_BYTES_MIN, 2 ** Math.ceil(Math.log2(bytes)));
}

/** Bytes of a tokened request's entry. */
export function tokenedBytes(token: string, pairsBytes: number): number {
  return TOKENED_HEADER_BYTES + token.length + pairsBytes;
}
