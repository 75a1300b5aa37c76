/** The messages of a walk: each is one record, of one request or of none. */
import type { ReceivedMessage } from '../../simulated-queue.js';
import { emptyRecord, type WalkRecord } from '../walk-flush.js';

/** A record as it is sent. */
export interface SqsRecord extends WalkRecord {
  readonly lsn: number;
  /** The last LSN that was acknowledged before it: nobody may count it without having that one. */
  readonly follows: number;
  /** Nothing comes behind it. */
  readonly isClose: boolean;
}

/** A record and the receipt of its message. */
export interface ReceivedRecord {
  readonly record: SqsRecord;
  readonly receipt: string;
}

/** A record as a body: the same body for the same record. */
export function encodeRecord(record: SqsRecord): string {
  return Buffer.from(JSON.stringify(record)).toString('base64');
}

/** A record that {@link encodeRecord} has written. */
export function decodeRecord(body: string): SqsRecord {
  // Only this file writes bodies.
  return JSON.parse(Buffer.from(body, 'base64').toString()) as SqsRecord;
}

/** Messages by stream, in the order of their delivery. */
export function byStream(messages: readonly ReceivedMessage[]): ReadonlyMap<string, readonly ReceivedRecord[]> {
  const streams = new Map<string, ReceivedRecord[]>();
  for (const { group, body, receipt } of messages) {
    const received = { record: decodeRecord(body), receipt };
    const others = streams.get(group);
    if (others === undefined) streams.set(group, [received]);
    else others.push(received);
  }
  return streams;
}

/** The records above `lsn`, with empty ones in place of numbers that are missing: those were given up. */
export function withoutGaps(records: readonly SqsRecord[], lsn: number): readonly WalkRecord[] {
  let last = lsn;
  return records.flatMap((record) => {
    const missing = Array.from({ length: record.lsn - last - 1 }, () => emptyRecord(0));
    last = record.lsn;
    return [...missing, record];
  });
}
