/**
 * What fits a message of a broker, and which message is a fence. Shard thread and main thread.
 *
 * A message of a broker is a group as `shared/message-format.ts` has it. One without data is a fence.
 */
import { bodyBytesMaxOfGroup, groupBytesFor, MESSAGE_HEADER_BYTES } from '../shared/message-format.js';

/** Bytes that a broker's limit must leave for the headers of a publish. */
const PUBLISH_HEADERS_BYTES = 512;

/** The message that ends a stream for its writer. */
export const FENCE = new Uint8Array(0);

/** Whether a message is a fence. */
export function isFence(data: Uint8Array): boolean {
  return data.length === 0;
}

/** Most bytes of the records of a group, whose message a broker takes that allows `messageBytes` for a message. */
export function groupBytesMaxOf(messageBytes: number): number {
  return messageBytes - PUBLISH_HEADERS_BYTES - MESSAGE_HEADER_BYTES;
}

/** The largest body whose record fits one message of a broker that allows `messageBytes`. */
export function bodyBytesMaxOf(messageBytes: number): number {
  return bodyBytesMaxOfGroup(groupBytesMaxOf(messageBytes));
}

/** The least limit of a broker's messages for bodies of `bodyBytes`. */
export function messageBytesFor(bodyBytes: number): number {
  return groupBytesFor(bodyBytes) + MESSAGE_HEADER_BYTES + PUBLISH_HEADERS_BYTES;
}
