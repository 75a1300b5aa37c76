/** Entries of records, as an HTTP thread packs them. */
import { hashKey } from '#product/core/key-hash.js';
import {
  DIGEST_BYTES,
  digestStart,
  IDEMPOTENT_HEADER_BYTES,
  INCREMENT_HEADER_BYTES,
  writeIdempotentHeader,
  writeIncrement,
} from '#product/shard-worker/protocol/record-layout.js';

/** The entries of increments, one after the other. */
export function incrementEntries(increments: Iterable<readonly [key: string | Buffer, amount: number]>): Buffer {
  const entries: Buffer[] = [];
  for (const [key, amount] of increments) {
    const bytes = typeof key === 'string' ? Buffer.from(key) : key;
    const entry = Buffer.alloc(INCREMENT_HEADER_BYTES + bytes.length);
    const hash = hashKey(bytes, 0, bytes.length);
    bytes.copy(entry, writeIncrement(viewOf(entry), 0, bytes.length, hash, amount));
    entries.push(entry);
  }
  return Buffer.concat(entries);
}

/** The entry of an idempotent request; its digest repeats the byte `digest`. */
export function idempotentEntry(
  idempotencyKey: string,
  increments: Iterable<readonly [key: string, amount: number]>,
  digest = 0,
): Buffer {
  const entries = incrementEntries(increments);
  const head = Buffer.alloc(IDEMPOTENT_HEADER_BYTES);
  writeIdempotentHeader(viewOf(head), 0, idempotencyKey.length, entries.length);
  head.fill(digest, digestStart(0), digestStart(0) + DIGEST_BYTES);
  return Buffer.concat([head, Buffer.from(idempotencyKey, 'latin1'), entries]);
}

function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}
