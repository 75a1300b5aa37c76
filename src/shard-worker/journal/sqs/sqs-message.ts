/**
 * A message of the sqs journal: a group of consecutive records, and the last LSN acknowledged before it. Shard thread.
 *
 * All integers are little-endian. SQS gets the message in base64.
 * ```text
 * offset size field
 *      0    4 "SCSQ"
 *      4    2 version: 1
 *      6    2 kind: 1 = records, 2 = the last record of its stream
 *      8    4 CRC-32 (zlib's) of bytes 12 .. end
 *     12    4 bytes of the message, header included
 *     16    8 the last LSN that was acknowledged before it; 0: none
 *     24      the group, with the layout of `shared/message-format.ts`
 * ```
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { readUint64, writeUint64 } from '../../protocol/record-layout.js';
import type { RecordBytes } from '../journal.js';
import {
  bodyBytesMaxOfGroup,
  corruptMessage,
  decodeMessage,
  encodeMessage,
  groupBytesFor,
  MESSAGE_HEADER_BYTES,
  openMessage,
  sealMessage,
  type MessageOrigin,
  type RecordMessage,
} from '../shared/message-format.js';

const HEADER_BYTES = 24;
/** For the attribute that names the database: its name, type and value count. */
const ATTRIBUTE_BYTES = 64;
const VERSION = 1;
/** "SCSQ" in ASCII, read as a little-endian integer. */
const MAGIC = 0x51534353;
const OFFSET = { kind: 6, previousLsn: 16 } as const;
const KIND = { records: 1, close: 2 } as const;

/** The header fields of a message. */
export interface QueueMessageFacts extends MessageOrigin {
  readonly firstLsn: Lsn;
  /** The last LSN that was acknowledged before the message was sent; 0: none. */
  readonly previousLsn: Lsn;
  readonly time: DatabaseTime;
  /** No record follows. */
  readonly isClose: boolean;
}

/** The content of a message. */
export interface QueueRecords extends RecordMessage, Pick<QueueMessageFacts, 'previousLsn' | 'isClose'> {}

/** Most bytes of the records of a group in a queue whose messages have at most `messageBytes`. */
export function groupBytesMaxOf(messageBytes: number): number {
  return 3 * Math.floor((messageBytes - ATTRIBUTE_BYTES) / 4) - HEADER_BYTES - MESSAGE_HEADER_BYTES;
}

/** The largest body whose record fits a message of `messageBytes`. */
export function bodyBytesMaxOf(messageBytes: number): number {
  return bodyBytesMaxOfGroup(groupBytesMaxOf(messageBytes));
}

/** The least limit of a queue's messages for bodies of `bodyBytes`. */
export function messageBytesFor(bodyBytes: number): number {
  return 4 * Math.ceil((groupBytesFor(bodyBytes) + MESSAGE_HEADER_BYTES + HEADER_BYTES) / 3) + ATTRIBUTE_BYTES;
}

/** The message of a group. Copies the records. */
export function encodeQueueMessage(group: readonly RecordBytes[], facts: QueueMessageFacts): Uint8Array {
  const records = encodeMessage(group, facts.firstLsn, facts.time, facts);
  const message = new Uint8Array(HEADER_BYTES + records.length);
  const view = new DataView(message.buffer);
  view.setUint16(OFFSET.kind, facts.isClose ? KIND.close : KIND.records, true);
  writeUint64(view, OFFSET.previousLsn, facts.previousLsn);
  message.set(records, HEADER_BYTES);
  sealMessage(message, MAGIC, VERSION);
  return message;
}

/** As {@link decodeQueueMessage}, for the body of a message. */
export function decodeQueueBody(body: string): QueueRecords {
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(body)) throw corruptMessage('it was not written by this journal');
  return decodeQueueMessage(Buffer.from(body, 'base64'));
}

/**
 * The group of a message. The entries of its records are views of `data`. Throws JournalError `journal-corrupt`, and
 * `journal-format` for a version that this server does not know.
 */
export function decodeQueueMessage(data: Uint8Array): QueueRecords {
  const view = openMessage(data, { magic: MAGIC, headerBytes: HEADER_BYTES }, (version, header) => {
    const kind = header.getUint16(OFFSET.kind, true);
    const isKnown = version === VERSION && (kind === KIND.records || kind === KIND.close);
    return isKnown ? undefined : `A message has version ${version} and kind ${kind}, which this server does not know.`;
  });
  const previousLsn = readUint64(view, OFFSET.previousLsn);
  const group = decodeMessage(data.subarray(HEADER_BYTES));
  if (previousLsn >= group.firstLsn) throw corruptMessage('its previous LSN is not below its first');
  return { ...group, previousLsn, isClose: view.getUint16(OFFSET.kind, true) === KIND.close };
}
