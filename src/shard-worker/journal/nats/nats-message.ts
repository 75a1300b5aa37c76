/**
 * The messages of a broker and their sizes. Shard thread and main thread.
 *
 * A message is a group in the format of `shared/message-format.ts`, or, without data, a fence.
 */
import { bodyBytesMaxOfGroup, groupBytesFor, MESSAGE_HEADER_BYTES } from '../shared/message-format.js';

/** Bytes of a message that the headers of a publish may need. */
const PUBLISH_HEADERS_BYTES = 512;

/** The message that ends a stream for its writer. */
export const FENCE = new Uint8Array(0);

export function isFence(data: Uint8Array): boolean {
  return data.length === 0;
}

/** Most bytes of the records of a group at a broker whose messages have at most `messageBytes`. */
export function groupBytesMaxOf(messageBytes: number): number {
  return messageBytes - PUBLISH_HEADERS_BYTES - MESSAGE_HEADER_BYTES;
}

/** The largest body whose record fits a message of `messageBytes`. */
export function bodyBytesMaxOf(messageBytes: number): number {
  return bodyBytesMaxOfGroup(groupBytesMaxOf(messageBytes));
}

/** The least limit of a broker's messages for bodies of `bodyBytes`. */
export function messageBytesFor(bodyBytes: number): number {
  return groupBytesFor(bodyBytes) + MESSAGE_HEADER_BYTES + PUBLISH_HEADERS_BYTES;
}
