/**
 * A message of a journal outside of the database: a group of consecutive records. Shard thread and main thread.
 *
 * A broker stores such messages; in a queue another header precedes each (`sqs/sqs-message.ts`). Both headers begin with magic,
 * version, CRC and length. All integers are little-endian.
 * ```text
 * offset size field
 *      0    4 "SCNJ"
 *      4    2 version: 1
 *      6    2 shard that wrote it
 *      8    4 CRC-32 (zlib's) of bytes 12 .. end
 *     12    4 bytes of the message, header included
 *     16    8 LSN of the first record
 *     24    4 number of records
 *     28    4 the largest time of the database that the writer knew, in seconds since 1970; 0: none
 *     32   16 id of the server that wrote it
 *     48      records, with the layout of `record-layout.ts`; their CRC and synced LSN are 0
 * ```
 */
import { crc32 } from 'node:zlib';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import { uuidBytes, uuidText } from '../../../core/uuid.js';
import {
  IDEMPOTENT_HEADER_BYTES,
  readUint64,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  writeUint64,
} from '../../protocol/record-layout.js';
import type { JournalRecord, RecordBytes } from '../journal.js';

/** Bytes of a message before its records. */
export const MESSAGE_HEADER_BYTES = 48;
const VERSION = 1;
/** "SCNJ" in ASCII, read as a little-endian integer. */
const MAGIC = 0x4a4e4353;
/** Offsets that both headers share. */
const ENVELOPE = { magic: 0, version: 4, crc: 8, bytes: 12 } as const;
const OFFSET = { shard: 6, firstLsn: 16, records: 24, time: 28, node: 32 } as const;

/** Longest idempotency key. */
const IDEMPOTENCY_KEY_BYTES_MAX = 255;
/** Most bytes of a record for each byte of a body: an increment of six bytes, `"a":1,`, becomes one of 15. */
const RECORD_BYTES_A_BODY_BYTE = 2.5;
const RECORD_OVERHEAD_BYTES = RECORD_HEADER_BYTES + IDEMPOTENT_HEADER_BYTES + IDEMPOTENCY_KEY_BYTES_MAX;

/** The largest body whose record fits a group of `groupBytes`. */
export function bodyBytesMaxOfGroup(groupBytes: number): number {
  return Math.floor((groupBytes - RECORD_OVERHEAD_BYTES) / RECORD_BYTES_A_BODY_BYTE);
}

/** Most bytes of a group that holds the record of a body of `bodyBytes`. */
export function groupBytesFor(bodyBytes: number): number {
  return Math.ceil(bodyBytes * RECORD_BYTES_A_BODY_BYTE) + RECORD_OVERHEAD_BYTES;
}

/** The writer of a stream. */
export interface MessageOrigin {
  /** The id of the server, a UUID. */
  readonly node: string;
  readonly shard: number;
}

/** The content of a message. */
export interface RecordMessage extends MessageOrigin {
  readonly firstLsn: Lsn;
  readonly lastLsn: Lsn;
  readonly records: readonly JournalRecord[];
}

/** A record without increments. */
export function emptyRecord(acceptedAtMs: number): RecordBytes {
  const record = new Uint8Array(RECORD_HEADER_BYTES);
  const view = new DataView(record.buffer);
  view.setUint32(RECORD_OFFSET.bytes, RECORD_HEADER_BYTES, true);
  writeUint64(view, RECORD_OFFSET.acceptedAt, acceptedAtMs);
  return record;
}

/** The message of a group whose first record gets `firstLsn`. Copies the records. */
export function encodeMessage(
  group: readonly RecordBytes[],
  firstLsn: Lsn,
  time: DatabaseTime,
  { node, shard }: MessageOrigin,
): Uint8Array {
  const bytes = group.reduce((total, record) => total + record.length, MESSAGE_HEADER_BYTES);
  const message = new Uint8Array(bytes);
  const view = new DataView(message.buffer);
  view.setUint16(OFFSET.shard, shard, true);
  writeUint64(view, OFFSET.firstLsn, firstLsn);
  view.setUint32(OFFSET.records, group.length, true);
  view.setUint32(OFFSET.time, time, true);
  message.set(uuidBytes(node), OFFSET.node);
  let at = MESSAGE_HEADER_BYTES;
  for (const [index, record] of group.entries()) {
    message.set(record, at);
    writeUint64(view, at + RECORD_OFFSET.lsn, firstLsn + index);
    writeUint64(view, at + RECORD_OFFSET.syncedLsn, 0);
    view.setUint32(at + RECORD_OFFSET.crc, 0, true);
    view.setUint32(at + RECORD_OFFSET.databaseTime, time, true);
    at += record.length;
  }
  sealMessage(message, MAGIC, VERSION);
  return message;
}

/** Fills in the shared part of a header, last. */
export function sealMessage(message: Uint8Array, magic: number, version: number): void {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  view.setUint32(ENVELOPE.magic, magic, true);
  view.setUint16(ENVELOPE.version, version, true);
  view.setUint32(ENVELOPE.bytes, message.length, true);
  view.setUint32(ENVELOPE.crc, crc32(message.subarray(ENVELOPE.bytes)), true);
}

/**
 * Checks the shared part of a header. `unknownFormat`: why this server cannot read a version. Throws JournalError
 * `journal-corrupt` and `journal-format`.
 */
export function openMessage(
  data: Uint8Array,
  { magic, headerBytes }: { readonly magic: number; readonly headerBytes: number },
  unknownFormat: (version: number, view: DataView) => string | undefined,
): DataView {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length < headerBytes || view.getUint32(ENVELOPE.magic, true) !== magic)
    throw corruptMessage('it was not written by this journal');
  const unknown = unknownFormat(view.getUint16(ENVELOPE.version, true), view);
  if (unknown !== undefined) throw new JournalError('journal-format', unknown);
  if (view.getUint32(ENVELOPE.bytes, true) !== data.length) throw corruptMessage('its length is wrong');
  if (view.getUint32(ENVELOPE.crc, true) !== crc32(data.subarray(ENVELOPE.bytes)))
    throw corruptMessage('its CRC is wrong');
  return view;
}

/**
 * The group of a message. The entries of its records are views of `data`. Throws JournalError `journal-corrupt`, and
 * `journal-format` for a version that this server does not know.
 */
export function decodeMessage(data: Uint8Array): RecordMessage {
  const view = openMessage(data, { magic: MAGIC, headerBytes: MESSAGE_HEADER_BYTES }, (version) =>
    version === VERSION
      ? undefined
      : `A message has format version ${version}; this server reads version ${VERSION}. Upgrade the server.`,
  );
  const firstLsn = readUint64(view, OFFSET.firstLsn);
  const databaseTime = view.getUint32(OFFSET.time, true);
  const count = view.getUint32(OFFSET.records, true);
  const records: JournalRecord[] = [];
  let at = MESSAGE_HEADER_BYTES;
  while (at + RECORD_HEADER_BYTES <= data.length) {
    const end = at + view.getUint32(at + RECORD_OFFSET.bytes, true);
    if (end < at + RECORD_HEADER_BYTES || end > data.length) throw corruptMessage('the length of a record is wrong');
    const acceptedAt = readUint64(view, at + RECORD_OFFSET.acceptedAt);
    const entries = data.subarray(at + RECORD_HEADER_BYTES, end);
    records.push({ lsn: firstLsn + records.length, acceptedAt, databaseTime, entries });
    at = end;
  }
  if (at !== data.length || count === 0 || records.length !== count)
    throw corruptMessage('its records do not match its header');
  return { ...originOf(view), firstLsn, lastLsn: firstLsn + count - 1, records };
}

function originOf(view: DataView): MessageOrigin {
  const node = uuidText(new Uint8Array(view.buffer, view.byteOffset + OFFSET.node));
  return { node, shard: view.getUint16(OFFSET.shard, true) };
}

/** The error of an unreadable message. */
export function corruptMessage(why: string): JournalError {
  return new JournalError('journal-corrupt', `A message cannot be read: ${why}.`);
}

/** The content of a message; undefined, after a call of `unreadable`, where it cannot be read. */
export function decodedOr(data: Uint8Array, unreadable: (error: JournalError) => void): RecordMessage | undefined {
  try {
    return decodeMessage(data);
  } catch (error) {
    if (!(error instanceof JournalError)) throw error;
    unreadable(error);
    return undefined;
  }
}
