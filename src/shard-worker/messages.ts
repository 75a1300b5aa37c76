/**
 * The contract across a port: the layout of a batch, which is the layout of a journal record, and the messages between
 * the threads. Both sides import this and nothing of each other.
 *
 * A batch is one transferable ArrayBuffer: a record header and the pairs of all requests that one event-loop turn of a
 * front end had for one shard. The shard fills in what only it knows (LSN, synced LSN, CRC) and the journal writes the
 * bytes as they are. All integers are little-endian.
 *
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
 * entry of a pair:  u16 key bytes (1..2048) | u32 key hash | f64 amount | key, UTF-8
 * ```
 *
 * Values of 0x8000 and above in an entry's first field are reserved for other kinds of entry.
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
  pairs: 32,
  flags: 36,
} as const;

/** Bytes of a pair's entry before the key. */
export const PAIR_HEADER_BYTES = 14;

/** Offsets within a pair's entry. */
export const PAIR_OFFSET = { keyBytes: 0, hash: 2, amount: 6, key: 14 } as const;

/** Largest record that a journal must be able to take, in bytes: a length beyond it is corruption. */
export const RECORD_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Most bytes that the pairs of a body of `bodyBytes` can need in a record: the shortest pair in JSON is `"k":1,`, six
 * bytes, whose entry has fifteen.
 */
export function recordBytesOfBody(bodyBytes: number): number {
  return RECORD_HEADER_BYTES + Math.ceil((bodyBytes / 6) * (PAIR_HEADER_BYTES + 1));
}

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
