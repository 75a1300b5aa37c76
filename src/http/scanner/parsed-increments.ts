/**
 * The columns that the body scanner fills. HTTP thread.
 *
 * They are reused for every body and doubled for a larger one. A body of N bytes has at most N/6 increments (`"k":1,`), so the
 * columns have at most twice as many rows.
 */
import type { ParsedIncrements } from '../../core/increment.js';

const ROWS_MIN = 64;
const DECODED_BYTES_MIN = 4096;

/** Most rows, of 18 bytes each, kept for the next body. Larger columns are released when it begins. */
export const ROWS_KEPT_MAX = 65_536;

/** Most bytes for decoded keys kept for the next body. */
export const DECODED_BYTES_KEPT_MAX = 262_144;

const NO_BODY = new Uint8Array(0);

/**
 * Increments in rows, see {@link ParsedIncrements}. A row is written at index `count` and exists once `count` rises.
 */
export class IncrementColumns implements ParsedIncrements {
  count = 0;
  body: Uint8Array = NO_BODY;
  /** Rows that fit before {@link grow}. */
  capacity = ROWS_MIN;
  keyStart = new Int32Array(ROWS_MIN);
  keyBytes = new Uint16Array(ROWS_MIN);
  hash = new Uint32Array(ROWS_MIN);
  amount = new Float64Array(ROWS_MIN);
  decoded = new Uint8Array(DECODED_BYTES_MIN);
  /** Bytes of `decoded` in use. */
  decodedBytes = 0;

  /** Discards all rows, and releases the columns of an unusually large body. */
  begin(body: Uint8Array): void {
    this.body = body;
    this.count = 0;
    this.decodedBytes = 0;
    if (this.capacity > ROWS_KEPT_MAX) this.#allocate(ROWS_MIN);
    if (this.decoded.length > DECODED_BYTES_KEPT_MAX) this.decoded = new Uint8Array(DECODED_BYTES_MIN);
  }

  /** Doubles the columns. */
  grow(): void {
    const { keyStart, keyBytes, hash, amount } = this;
    this.#allocate(this.capacity * 2);
    this.keyStart.set(keyStart);
    this.keyBytes.set(keyBytes);
    this.hash.set(hash);
    this.amount.set(amount);
  }

  /** Makes room for `bytes` more decoded bytes. */
  reserveDecoded(bytes: number): void {
    const needed = this.decodedBytes + bytes;
    if (needed <= this.decoded.length) return;
    const larger = new Uint8Array(Math.max(needed, this.decoded.length * 2));
    larger.set(this.decoded.subarray(0, this.decodedBytes));
    this.decoded = larger;
  }

  #allocate(capacity: number): void {
    this.capacity = capacity;
    this.keyStart = new Int32Array(capacity);
    this.keyBytes = new Uint16Array(capacity);
    this.hash = new Uint32Array(capacity);
    this.amount = new Float64Array(capacity);
  }
}
