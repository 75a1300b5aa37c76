/**
 * The header and the name of a segment. The header has a block of its own, so that writing records never rewrites it.
 * `docs/journal-format.md` gives the reason for each field. All integers are little-endian.
 *
 * ```text
 * offset size field
 *      0    8 magic, "SUMSWAL" and a zero
 *      8    4 format version, 2; version 1 has no times of the database in its records
 *     12    4 header bytes, 4096
 *     16   16 stream, a UUID
 *     32   16 database id, a UUID; zero if unknown
 *     48   16 node id, a UUID
 *     64    4 shard
 *     68    4 flags, 0
 *     72    8 first LSN of this segment
 *     80    8 last LSN of the predecessor that counts
 *     88    8 synced LSN: records of this segment up to here were durable before the segment got its name
 *     96    8 time created, ms since 1970
 *    104    4 the largest time of the database in records before this segment, in seconds since 1970; 0: none
 *    108      zeros
 *   4092    4 CRC-32 of bytes 0 .. 4092
 * ```
 */
import { crc32 } from 'node:zlib';
import { JournalError } from '../../../core/errors.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { uuidBytes, uuidText } from '../../../core/uuid.js';
import { readUint64, writeUint64 } from '../../protocol/record-layout.js';

/** Bytes of a segment before its first record. */
export const SEGMENT_HEADER_BYTES = 4096;

/** Format version of the segments and records that this code writes. It also reads earlier versions. */
const SEGMENT_FORMAT_VERSION = 2;

const MAGIC = Buffer.from('SUMSWAL\0', 'latin1');
const CRC_OFFSET = SEGMENT_HEADER_BYTES - 4;
const ZERO_UUID = '00000000-0000-0000-0000-000000000000';
const NAME_PATTERN = /^(\d{20})\.wal$/;

/** The fields of a segment header. */
export interface SegmentHeader {
  readonly stream: string;
  /** Undefined if the database had never been reached when the segment was created. */
  readonly databaseId: string | undefined;
  readonly nodeId: string;
  readonly shard: number;
  readonly firstLsn: Lsn;
  /**
   * Records of the predecessor above this are void. Below `firstLsn - 1` if this journal never had the LSNs in between.
   */
  readonly predecessorLsn: Lsn;
  /** Records of this segment up to this LSN were durable before the segment got its name. */
  readonly syncedLsn: Lsn;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  /** The largest time of the database in records before this segment. Needed after their removal. */
  readonly databaseTime: DatabaseTime;
}

/** The file name of the segment whose first record is `firstLsn`. Names sort like LSNs. */
export function segmentName(firstLsn: Lsn): string {
  return `${String(firstLsn).padStart(20, '0')}.wal`;
}

/** The first LSN of a segment by its name; undefined if the name is not one of a segment. */
export function lsnOfSegmentName(name: string): Lsn | undefined {
  const digits = NAME_PATTERN.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/** The header as bytes, with its checksum. */
export function encodeSegmentHeader(header: SegmentHeader): Uint8Array {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  MAGIC.copy(bytes);
  view.setUint32(8, SEGMENT_FORMAT_VERSION, true);
  view.setUint32(12, SEGMENT_HEADER_BYTES, true);
  bytes.set(uuidBytes(header.stream), 16);
  bytes.set(uuidBytes(header.databaseId ?? ZERO_UUID), 32);
  bytes.set(uuidBytes(header.nodeId), 48);
  view.setUint32(64, header.shard, true);
  writeUint64(view, 72, header.firstLsn);
  writeUint64(view, 80, header.predecessorLsn);
  writeUint64(view, 88, header.syncedLsn);
  writeUint64(view, 96, header.createdAt);
  view.setUint32(104, header.databaseTime, true);
  view.setUint32(CRC_OFFSET, crc32(bytes.subarray(0, CRC_OFFSET)), true);
  return bytes;
}

/**
 * Reads a header; `path` is for messages. Throws JournalError `journal-format` for an unknown version, and
 * `journal-corrupt` if the bytes are not a whole header. A segment gets its name after its header was synced, so no
 * crash leaves a torn header.
 */
export function decodeSegmentHeader(bytes: Uint8Array, path: string): SegmentHeader {
  const block = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (block.length < SEGMENT_HEADER_BYTES || !block.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw new JournalError('journal-corrupt', `${path} at offset 0: this is not a segment of a journal.`);
  }
  const view = new DataView(block.buffer, block.byteOffset, SEGMENT_HEADER_BYTES);
  const version = view.getUint32(8, true);
  if (version < 1 || version > SEGMENT_FORMAT_VERSION) {
    throw new JournalError(
      'journal-format',
      `${path} has format version ${version}; this server reads versions 1 to ${SEGMENT_FORMAT_VERSION} only.`,
    );
  }
  if (view.getUint32(CRC_OFFSET, true) !== crc32(block.subarray(0, CRC_OFFSET))) {
    throw new JournalError('journal-corrupt', `${path} at offset 0: the checksum of the segment header is wrong.`);
  }
  const databaseId = uuidText(block.subarray(32));
  return {
    stream: uuidText(block.subarray(16)),
    databaseId: databaseId === ZERO_UUID ? undefined : databaseId,
    nodeId: uuidText(block.subarray(48)),
    shard: view.getUint32(64, true),
    firstLsn: readUint64(view, 72),
    predecessorLsn: readUint64(view, 80),
    syncedLsn: readUint64(view, 88),
    createdAt: readUint64(view, 96),
    databaseTime: view.getUint32(104, true),
  };
}
