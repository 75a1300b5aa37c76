import {
  DIGEST_BYTES,
  IDEMPOTENT_HEADER_BYTES,
  IDEMPOTENT_MARK,
  IDEMPOTENT_OFFSET,
  INCREMENT_HEADER_BYTES,
  INCREMENT_OFFSET,
} from '../../protocol/record-layout.js';

/** A pair, `[key, amount]`, or a request with a token and its pairs. */
export type ReadableEntry =
  | readonly [key: string, amount: number]
  | { readonly idempotencyKey: string; readonly digest: string; readonly increments: readonly ReadableEntry[] }
  /** Entries of a kind that this version does not know, in hexadecimal. */
  | { readonly unknown: string };

/** Decodes entries one after the other; what follows one of an unknown kind is left as it is. */
export function readableEntries(entries: Uint8Array): ReadableEntry[] {
  const bytes = Buffer.from(entries.buffer, entries.byteOffset, entries.byteLength);
  const readable: ReadableEntry[] = [];
  for (let at = 0; at < bytes.length;) {
    const entry = readEntry(bytes.subarray(at));
    readable.push(entry?.readable ?? { unknown: bytes.toString('hex', at) });
    if (entry === undefined) break;
    at += entry.bytes;
  }
  return readable;
}

function readEntry(bytes: Buffer): { readonly readable: ReadableEntry; readonly bytes: number } | undefined {
  if (bytes.length < INCREMENT_HEADER_BYTES) return undefined;
  const mark = bytes.readUInt16LE(INCREMENT_OFFSET.keyBytes);
  if (mark === IDEMPOTENT_MARK) return readIdempotent(bytes);
  const end = INCREMENT_HEADER_BYTES + mark;
  if (mark > IDEMPOTENT_MARK || end > bytes.length) return undefined;
  const key = bytes.toString('utf8', INCREMENT_OFFSET.key, end);
  return { readable: [key, bytes.readDoubleLE(INCREMENT_OFFSET.amount)], bytes: end };
}

function readIdempotent(bytes: Buffer): { readonly readable: ReadableEntry; readonly bytes: number } | undefined {
  if (bytes.length < IDEMPOTENT_HEADER_BYTES) return undefined;
  const incrementsStart = IDEMPOTENT_OFFSET.idempotencyKey + bytes.readUInt8(IDEMPOTENT_OFFSET.idempotencyKeyBytes);
  const end = incrementsStart + bytes.readUInt32LE(IDEMPOTENT_OFFSET.incrementsBytes);
  if (end > bytes.length) return undefined;
  const idempotencyKey = bytes.toString('latin1', IDEMPOTENT_OFFSET.idempotencyKey, incrementsStart);
  const digest = bytes.toString('hex', IDEMPOTENT_OFFSET.digest, IDEMPOTENT_OFFSET.digest + DIGEST_BYTES);
  return {
    readable: { idempotencyKey, digest, increments: readableEntries(bytes.subarray(incrementsStart, end)) },
    bytes: end,
  };
}
