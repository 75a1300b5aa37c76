/**
 * The layout of a journal record, which is also the layout of a batch. Any thread.
 *
 * An HTTP thread writes the bytes once. The shard fills in LSN, synced LSN, time of the database, CRC and digests. The journal
 * writes the bytes unchanged.
 *
 * All integers are little-endian.
 * ```text
 * offset size field
 *      0    4 record bytes, header included
 *      4    4 CRC-32 (zlib's) of bytes 8 .. record bytes
 *      8    8 LSN
 *     16    8 synced LSN of the stream when the record was written
 *     24    8 time accepted, ms since 1970
 *     32    4 number of increments
 *     36    4 the largest time of the database that the shard knew, in seconds since 1970; 0: none
 *     40      entries
 *
 * increment:          u16 key bytes (1..2048) | u32 key hash | f64 amount | key, UTF-8
 * idempotent request: u16 0x8000 | u8 idempotency key bytes (1..255) | u8 0 | u32 bytes of the increments | digest (16)
 *                     | idempotency key, ASCII | its increments, as above
 * ```
 *
 * The digest identifies the content of the request: its increments summed by key. Other values of 0x8000 and above in
 * the first field of an entry are reserved for other kinds of entry.
 */

/** Bytes of the record header. */
export const RECORD_HEADER_BYTES = 40;

/** Offsets within the record header. */
export const RECORD_OFFSET = {
  bytes: 0,
  crc: 4,
  lsn: 8,
  syncedLsn: 16,
  acceptedAt: 24,
  increments: 32,
  databaseTime: 36,
} as const;

/** Bytes of an increment's entry before the key. */
export const INCREMENT_HEADER_BYTES = 14;

/** Bytes of an idempotent request's entry before the idempotency key. */
export const IDEMPOTENT_HEADER_BYTES = 24;

/** Bytes of the digest of an idempotent request: the first half of a SHA-256. */
export const DIGEST_BYTES = 16;

/** First field of an idempotent request's entry, where an increment's entry has its key bytes. */
export const IDEMPOTENT_MARK = 0x8000;

/** Offsets within an increment's entry, for the loop that applies records. Other code uses the functions below. */
export const INCREMENT_OFFSET = { keyBytes: 0, keyHash: 2, amount: 6 } as const;

/** Offsets within an idempotent request's entry. */
const IDEMPOTENT_OFFSET = { mark: 0, idempotencyKeyBytes: 2, incrementsBytes: 4, digest: 8 } as const;

/** Most bytes of a record. A larger length in a file is corruption. */
export const RECORD_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Bytes of a shard's memory for a pending key, besides the key, as MAX_PENDING_BYTES counts them: columns, slots and slack of
 * the summing map. An HTTP server reserves them for every increment that it sends.
 */
export const PENDING_KEY_OVERHEAD_BYTES = 104;

const TWO_TO_32 = 0x1_0000_0000;

/** Writes a safe non-negative integer as 64 bits, little-endian. Several times faster than through a BigInt. */
export function writeUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % TWO_TO_32, true);
  view.setUint32(at + 4, Math.floor(value / TWO_TO_32), true);
}

/** Reads 64 bits, little-endian. Above 2^53 the result is not exact; callers treat it as corruption. */
export function readUint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_TO_32;
}

/** Whether the entry at `at` is an increment. */
export function isIncrement(view: DataView, at: number): boolean {
  return view.getUint16(at, true) < IDEMPOTENT_MARK;
}

/** Whether the entry at `at` is an idempotent request. */
export function isIdempotent(view: DataView, at: number): boolean {
  return view.getUint16(at, true) === IDEMPOTENT_MARK;
}

/** Bytes of the key of the increment at `at`. */
export function keyBytesAt(view: DataView, at: number): number {
  return view.getUint16(at + INCREMENT_OFFSET.keyBytes, true);
}

/** Hash of the key of the increment at `at`. */
export function keyHashAt(view: DataView, at: number): number {
  return view.getUint32(at + INCREMENT_OFFSET.keyHash, true);
}

/** Amount of the increment at `at`. */
export function amountAt(view: DataView, at: number): number {
  return view.getFloat64(at + INCREMENT_OFFSET.amount, true);
}

/** Where the key of the increment at `at` starts. */
export function keyStart(at: number): number {
  return at + INCREMENT_HEADER_BYTES;
}

/** Where the increment at `at`, and its key, ends. */
export function incrementEnd(view: DataView, at: number): number {
  return at + INCREMENT_HEADER_BYTES + keyBytesAt(view, at);
}

/** Writes an increment at `at`, except its key. Returns where its key starts. */
export function writeIncrement(view: DataView, at: number, keyBytes: number, keyHash: number, amount: number): number {
  view.setUint16(at + INCREMENT_OFFSET.keyBytes, keyBytes, true);
  view.setUint32(at + INCREMENT_OFFSET.keyHash, keyHash, true);
  view.setFloat64(at + INCREMENT_OFFSET.amount, amount, true);
  return at + INCREMENT_HEADER_BYTES;
}

/** Increments of a record, those of idempotent requests included. */
export function countIncrements(record: Uint8Array): number {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  let increments = 0;
  for (let at = RECORD_HEADER_BYTES; at < record.length;) {
    if (isIncrement(view, at)) {
      increments += 1;
      at = incrementEnd(view, at);
    } else {
      // The increments of the request follow as entries of their own.
      at = idempotencyKeyEnd(view, at);
    }
  }
  return increments;
}

/** Where the digest of the idempotent request at `at` starts. */
export function digestStart(at: number): number {
  return at + IDEMPOTENT_OFFSET.digest;
}

/** Where the idempotency key of the idempotent request at `at` starts. */
export function idempotencyKeyStart(at: number): number {
  return at + IDEMPOTENT_HEADER_BYTES;
}

/** Where the idempotency key of the idempotent request at `at` ends and its increments start. */
export function idempotencyKeyEnd(view: DataView, at: number): number {
  return at + IDEMPOTENT_HEADER_BYTES + view.getUint8(at + IDEMPOTENT_OFFSET.idempotencyKeyBytes);
}

/** Where the idempotent request at `at`, and its increments, end. */
export function idempotentRequestEnd(view: DataView, at: number): number {
  return idempotencyKeyEnd(view, at) + view.getUint32(at + IDEMPOTENT_OFFSET.incrementsBytes, true);
}

/**
 * Writes an idempotent request at `at`, except its digest, idempotency key and increments. Returns where the
 * idempotency key starts.
 */
export function writeIdempotentHeader(
  view: DataView,
  at: number,
  idempotencyKeyBytes: number,
  incrementsBytes: number,
): number {
  view.setUint16(at + IDEMPOTENT_OFFSET.mark, IDEMPOTENT_MARK, true);
  // Two bytes: the second one is the zero of the layout.
  view.setUint16(at + IDEMPOTENT_OFFSET.idempotencyKeyBytes, idempotencyKeyBytes, true);
  view.setUint32(at + IDEMPOTENT_OFFSET.incrementsBytes, incrementsBytes, true);
  return at + IDEMPOTENT_HEADER_BYTES;
}
