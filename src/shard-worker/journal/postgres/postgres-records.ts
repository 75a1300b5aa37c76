/**
 * Records as rows of `increment_log`: encodes a group as parameters, and decodes a row. Shard thread.
 */
import { hashKey } from '../../../core/key-hash.js';
import { ArrayElements, LogArrayEncoder } from '../../../db/binary-array.js';
import {
  amountAt,
  DIGEST_BYTES,
  digestStart,
  idempotencyKeyEnd,
  idempotencyKeyStart,
  IDEMPOTENT_HEADER_BYTES,
  idempotentRequestEnd,
  INCREMENT_HEADER_BYTES,
  incrementEnd,
  isIncrement,
  keyBytesAt,
  keyStart,
  readUint64,
  RECORD_HEADER_BYTES,
  RECORD_OFFSET,
  writeIdempotentHeader,
  writeIncrement,
} from '../../protocol/record-layout.js';
import type { JournalRecord, RecordBytes } from '../journal.js';

/** An encoded group, for one or more attempts. Valid until the encoder encodes the next group. */
export interface EncodedGroup {
  readonly records: number;
  /** Parameters of the statement from $5 on. */
  readonly values: readonly unknown[];
  readonly isIdempotent: boolean;
}

/** Encodes the groups of one writer. */
export class GroupEncoder {
  readonly #arrays = new LogArrayEncoder();

  encode(group: readonly RecordBytes[]): EncodedGroup {
    const arrays = this.#arrays;
    arrays.reset();
    const acceptedAt: number[] = [];
    const firsts: number[] = [];
    const lasts: number[] = [];
    const firstRequests: number[] = [];
    const lastRequests: number[] = [];
    const requestIncrements: number[] = [];
    for (const record of group) {
      const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
      acceptedAt.push(readUint64(view, RECORD_OFFSET.acceptedAt) / 1000);
      firsts.push(arrays.increments + 1);
      firstRequests.push(arrays.requests + 1);
      this.#encodeEntries(record, view, requestIncrements);
      lasts.push(arrays.increments);
      lastRequests.push(arrays.requests);
    }
    const { keys, amounts, idempotencyKeys, digests } = arrays.finish();
    const common = [acceptedAt, firsts, lasts, keys, amounts];
    const isIdempotent = arrays.requests > 0;
    const values = isIdempotent
      ? [...common, idempotencyKeys, requestIncrements, digests, firstRequests, lastRequests]
      : common;
    return { records: group.length, values, isIdempotent };
  }

  #encodeEntries(record: RecordBytes, view: DataView, requestIncrements: number[]): void {
    const arrays = this.#arrays;
    for (let at = RECORD_HEADER_BYTES; at < record.length;) {
      if (isIncrement(view, at)) {
        arrays.appendIncrement(record, keyStart(at), keyBytesAt(view, at), amountAt(view, at));
        at = incrementEnd(view, at);
        continue;
      }
      const idempotencyKey = idempotencyKeyStart(at);
      const first = idempotencyKeyEnd(view, at);
      const end = idempotentRequestEnd(view, at);
      const before = arrays.increments;
      arrays.appendDigest(record, digestStart(at), DIGEST_BYTES);
      for (let entry = first; entry < end; entry = incrementEnd(view, entry)) {
        const key = keyStart(entry);
        const [keyBytes, amount] = [keyBytesAt(view, entry), amountAt(view, entry)];
        arrays.appendIncrement(record, key, keyBytes, amount, idempotencyKey, first - idempotencyKey);
      }
      requestIncrements.push(arrays.increments - before);
      at = end;
    }
  }
}

/** A row of READ_LOG. */
export interface LogRow {
  readonly stream: string;
  readonly lsn: string;
  /** In seconds since 1970. */
  readonly accepted_at: number;
  readonly accepted_after: number;
  readonly keys: Buffer;
  readonly amounts: Buffer;
  readonly idempotency_keys: Buffer | null;
  readonly request_increments: readonly number[] | null;
  readonly digests: Buffer | null;
}

/** The record of a row. */
export function decodeRow(row: LogRow): JournalRecord {
  return {
    lsn: Number(row.lsn),
    acceptedAt: Math.round(row.accepted_at * 1000),
    databaseTime: row.accepted_after,
    entries: decodeEntries(row),
  };
}

function decodeEntries({ keys, amounts, idempotency_keys, request_increments, digests }: LogRow): Uint8Array {
  const key = new ArrayElements(keys);
  const amount = new ArrayElements(amounts);
  const idempotencyKey = idempotency_keys === null ? undefined : new ArrayElements(idempotency_keys);
  const digest = digests === null ? undefined : new ArrayElements(digests);
  // Each array has at least the bytes of its elements, so this is enough for any record.
  const overhead = INCREMENT_HEADER_BYTES + IDEMPOTENT_HEADER_BYTES;
  const entries = new Uint8Array(keys.length + (idempotency_keys?.length ?? 0) + overhead * key.count);
  const view = new DataView(entries.buffer);
  let at = 0;
  const appendIncrement = (): void => {
    const bytes = key.next();
    const start = writeIncrement(view, at, bytes.length, hashKey(bytes, 0, bytes.length), amount.next().readDoubleBE());
    entries.set(bytes, start);
    at = start + bytes.length;
  };
  let request = 0;
  for (let left = key.count; left > 0;) {
    const requestKey = idempotencyKey?.next();
    if (requestKey === undefined || requestKey.length === 0 || digest === undefined) {
      appendIncrement();
      left -= 1;
      continue;
    }
    const increments = request_increments?.[request] ?? 1;
    request += 1;
    const header = at;
    at = idempotencyKeyStart(header) + requestKey.length;
    const first = at;
    for (let index = 0; index < increments; index += 1) {
      // Each increment of the request repeats its key.
      if (index > 0) idempotencyKey?.next();
      appendIncrement();
    }
    left -= increments;
    writeIdempotentHeader(view, header, requestKey.length, at - first);
    entries.set(digest.next(), digestStart(header));
    entries.set(requestKey, idempotencyKeyStart(header));
  }
  return entries.subarray(0, at);
}
