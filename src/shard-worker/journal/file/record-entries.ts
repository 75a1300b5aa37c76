/**
 * A record's entries as an operator reads them. Command.
 */
import {
  DIGEST_BYTES,
  PAIR_HEADER_BYTES,
  PAIR_OFFSET,
  TOKENED_HEADER_BYTES,
  TOKENED_MARK,
  TOKENED_OFFSET,
} from '../../protocol/messages.js';

/** A pair, `[key, amount]`, or a request with a token and its pairs. */
export type ReadableEntry =
  | readonly [key: string, amount: number]
  | { readonly token: string; readonly digest: string; readonly pairs: readonly ReadableEntry[] }
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
  if (bytes.length < PAIR_HEADER_BYTES) return undefined;
  const mark = bytes.readUInt16LE(PAIR_OFFSET.keyBytes);
  if (mark === TOKENED_MARK) return readTokened(bytes);
  const end = PAIR_HEADER_BYTES + mark;
  if (mark > TOKENED_MARK || end > bytes.length) return undefined;
  const key = bytes.toString('utf8', PAIR_OFFSET.key, end);
  return { readable: [key, bytes.readDoubleLE(PAIR_OFFSET.amount)], bytes: end };
}

function readTokened(bytes: Buffer): { readonly readable: ReadableEntry; readonly bytes: number } | undefined {
  if (bytes.length < TOKENED_HEADER_BYTES) return undefined;
  const pairsStart = TOKENED_OFFSET.token + bytes.readUInt8(TOKENED_OFFSET.tokenBytes);
  const end = pairsStart + bytes.readUInt32LE(TOKENED_OFFSET.pairsBytes);
  if (end > bytes.length) return undefined;
  const token = bytes.toString('latin1', TOKENED_OFFSET.token, pairsStart);
  const digest = bytes.toString('hex', TOKENED_OFFSET.digest, TOKENED_OFFSET.digest + DIGEST_BYTES);
  return { readable: { token, digest, pairs: readableEntries(bytes.subarray(pairsStart, end)) }, bytes: end };
}
