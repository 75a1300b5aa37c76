/** The messages of a walk: groups of records, each of one request, and fences. */
import type { BrokerMessage } from '#product/shard-worker/journal/nats/broker.js';
import type { WalkRecord } from '../walk-flush.js';

/** What a message says. Its records have consecutive LSNs. */
export interface WalkMessage {
  readonly isFence: boolean;
  readonly firstLsn: number;
  /** A fence has none. */
  readonly records: readonly WalkRecord[];
}

/** A message and where it is. */
export interface PlacedMessage extends WalkMessage {
  readonly sequence: number;
  readonly lastLsn: number;
}

/** The message that ends a stream. It has no LSN. */
export const FENCE: WalkMessage = { isFence: true, firstLsn: 0, records: [] };

/** A message as bytes: the same bytes for the same message. */
export function encodeMessage(message: WalkMessage): Uint8Array {
  return Buffer.from(JSON.stringify(message));
}

/** Walks read the same messages many times. */
const decoded = new WeakMap<Uint8Array, WalkMessage>();

/** A message that {@link encodeMessage} has written. */
export function decodeMessage({ sequence, data }: BrokerMessage): PlacedMessage {
  let message = decoded.get(data);
  if (message === undefined) {
    // Only this file writes messages.
    message = JSON.parse(Buffer.from(data).toString()) as WalkMessage;
    decoded.set(data, message);
  }
  return { ...message, sequence, lastLsn: message.firstLsn + message.records.length - 1 };
}

/** The last LSN that follows `lsn` without a gap. */
export function reachedLsn(messages: readonly PlacedMessage[], lsn: number): number {
  let reached = lsn;
  for (const { firstLsn, lastLsn, records } of messages) {
    if (records.length > 0 && firstLsn <= reached + 1) reached = Math.max(reached, lastLsn);
  }
  return reached;
}

/**
 * The sequence before which a stream may be purged once everything to `lsn` is committed: that of the last committed record
 * before the first fence; 0: nothing. Of a retired stream the fences are enough.
 */
export function purgeSequence(messages: readonly PlacedMessage[], lsn: number, isRetired: boolean): number {
  let lastRecord = 0;
  for (const { isFence, sequence, lastLsn } of messages) {
    if (isFence) return isRetired ? sequence : lastRecord;
    if (lastLsn > lsn) break;
    lastRecord = sequence;
  }
  return lastRecord;
}
