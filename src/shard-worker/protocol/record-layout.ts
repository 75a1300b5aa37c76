/**
 * The layout of a journal record, which is also the layout of a batch: an HTTP thread packs the bytes once, the shard fills
 * in what only it knows (LSN, synced LSN, CRC), and the journal writes them as they are. Any thread.
 *
 * All integers are little-endian.
 * ```text
 * offset size field
 *      0    4 record bytes, header included
 *      4    4 CRC-32 (zlib's) of bytes 8 .. record bytes
 *      8    8 LSN
 *     16    8 synced LSN of the stream when the record was written
 *     24    8 time accepted, ms since 1970
 *     32    4 pairs
 *     36    4 flags, 0
 *     40      entries
 *
 * entry of a pair:    u16 key bytes (1..2048) | u32 key hash | f64 amount | key, UTF-8
 * entry of a request  u16 0x8000 | u8 token bytes (1..255) | u8 0 | u32 bytes of the pairs | digest (16) | token, ASCII
 * with a token:       | entries of its pairs
 * ```
 *
 * The digest says what the request's pairs come to, summed by key; the shard fills it in. Other values of 0x8000 and
 * above in an entry's first field are reserved for other kinds of entry.
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
  flags: 36,
} as const;

/** Bytes of a pair's entry before the key. */
export const INCREMENT_HEADER_BYTES = 14;

/** Offsets within a pair's entry. */
export const INCREMENT_OFFSET = { keyBytes: 0, hash: 2, amount: 6, key: 14 } as const;

/** In place of a pair's key bytes: the entry is a request with a token. */
export const IDEMPOTENT_MARK = 0x8000;

/** Bytes of a tokened request's entry before the token. */
export const IDEMPOTENT_HEADER_BYTES = 24;

/** Offsets within a tokened request's entry. */
export const IDEMPOTENT_OFFSET = {
  mark: 0,
  idempotencyKeyBytes: 2,
  incrementsBytes: 4,
  digest: 8,
  idempotencyKey: 24,
} as const;

/** Bytes of the digest of a tokened request: the first half of a SHA-256. */
export const DIGEST_BYTES = 16;

/** Largest record that a journal must be able to take, in bytes: a length beyond it is corruption. */
export const RECORD_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Most bytes that the pairs of a body of `bodyBytes` can need in a record: the shortest pair in JSON is `"k":1,`, six
 * bytes, whose entry has fifteen.
 */
export function recordBytesOfBody(bodyBytes: number): number {
  return (
    RECORD_HEADER_BYTES + IDEMPOTENT_HEADER_BYTES + 255 + Math.ceil((bodyBytes / 6) * (INCREMENT_HEADER_BYTES + 1))
  );
}

/**
 * What a pending key costs in a shard's memory besides its bytes, as MAX_PENDING_BYTES counts it: the summing map's
 * columns and slots with their slack. A front end reserves it for every pair that it sends.
 */
export const PENDING_KEY_OVERHEAD_BYTES = 104;

const TWO_TO_32 = 0x1_0000_0000;

/** Writes a safe non-negative integer as 64 bits, little-endian; several times faster than through a BigInt. */
export function writeUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % TWO_TO_32, true);
  view.setUint32(at + 4, Math.floor(value / TWO_TO_32), true);
}

/** Reads 64 bits, little-endian; beyond 2^53 the result is not exact, which a caller treats as corruption. */
export function readUint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_TO_32;
}
