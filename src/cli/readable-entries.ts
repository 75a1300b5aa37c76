/**
 * The entries of a record as JSON, for `npm run journal -- dump`. Main thread of the command.
 */
import {
  amountAt,
  DIGEST_BYTES,
  digestStart,
  IDEMPOTENT_HEADER_BYTES,
  idempotencyKeyEnd,
  idempotencyKeyStart,
  idempotentRequestEnd,
  INCREMENT_HEADER_BYTES,
  incrementEnd,
  isIdempotent,
  isIncrement,
  keyStart,
} from '../shard-worker/protocol/record-layout.js';

/** An increment, `[key, amount]`, or an idempotent request with its increments. */
export type ReadableEntry =
  | readonly [key: string, amount: number]
  | { readonly idempotencyKey: string; readonly digest: string; readonly increments: readonly ReadableEntry[] }
  /** Entries of a kind that this version does not know, in hexadecimal. */
  | { readonly unknown: string };

/** Decodes entries. An entry of an unknown kind has an unknown length, so it and the rest are one `unknown`. */
export function readableEntries(entries: Uint8Array): ReadableEntry[] {
  const bytes = Buffer.from(entries.buffer, entries.byteOffset, entries.byteLength);
  const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
  return readEntries(bytes, view, 0, bytes.length);
}

function readEntries(bytes: Buffer, view: DataView, start: number, end: number): ReadableEntry[] {
  const readable: ReadableEntry[] = [];
  for (let at = start; at < end;) {
    const entryEnd = endOfEntry(view, at, end);
    if (entryEnd === undefined) {
      readable.push({ unknown: bytes.toString('hex', at, end) });
      break;
    }
    readable.push(isIncrement(view, at) ? readIncrement(bytes, view, at) : readIdempotent(bytes, view, at));
    at = entryEnd;
  }
  return readable;
}

/** Undefined if the kind is unknown, or if the entry would end after `limit`. */
function endOfEntry(view: DataView, at: number, limit: number): number | undefined {
  if (at + INCREMENT_HEADER_BYTES > limit) return undefined;
  if (isIncrement(view, at)) return within(incrementEnd(view, at), limit);
  if (!isIdempotent(view, at) || at + IDEMPOTENT_HEADER_BYTES > limit) return undefined;
  return within(idempotentRequestEnd(view, at), limit);
}

function within(end: number, limit: number): number | undefined {
  return end <= limit ? end : undefined;
}

function readIncrement(bytes: Buffer, view: DataView, at: number): ReadableEntry {
  return [bytes.toString('utf8', keyStart(at), incrementEnd(view, at)), amountAt(view, at)];
}

function readIdempotent(bytes: Buffer, view: DataView, at: number): ReadableEntry {
  const increments = idempotencyKeyEnd(view, at);
  return {
    idempotencyKey: bytes.toString('latin1', idempotencyKeyStart(at), increments),
    digest: bytes.toString('hex', digestStart(at), digestStart(at) + DIGEST_BYTES),
    increments: readEntries(bytes, view, increments, idempotentRequestEnd(view, at)),
  };
}
