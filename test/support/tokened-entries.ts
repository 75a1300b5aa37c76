import { hashKey } from '#product/core/key-hash.js';
import {
  DIGEST_BYTES,
  IDEMPOTENT_HEADER_BYTES,
  IDEMPOTENT_MARK,
  IDEMPOTENT_OFFSET,
  INCREMENT_HEADER_BYTES,
  INCREMENT_OFFSET,
} from '#product/shard-worker/protocol/record-layout.js';

/** The entries of pairs, one after the other. */
export function incrementEntries(increments: Iterable<readonly [key: string, amount: number]>): Buffer {
  const entries: Buffer[] = [];
  for (const [key, amount] of increments) {
    const bytes = Buffer.from(key);
    const entry = Buffer.alloc(INCREMENT_HEADER_BYTES + bytes.length);
    entry.writeUInt16LE(bytes.length, INCREMENT_OFFSET.keyBytes);
    entry.writeUInt32LE(hashKey(bytes, 0, bytes.length), INCREMENT_OFFSET.hash);
    entry.writeDoubleLE(amount, INCREMENT_OFFSET.amount);
    bytes.copy(entry, INCREMENT_OFFSET.key);
    entries.push(entry);
  }
  return Buffer.concat(entries);
}

/** The entry of a request; its digest is `digest` over and over. */
export function idempotentEntry(
  idempotencyKey: string,
  increments: Iterable<readonly [key: string, amount: number]>,
  digest = 0,
): Buffer {
  const entries = incrementEntries(increments);
  const head = Buffer.alloc(IDEMPOTENT_HEADER_BYTES);
  head.writeUInt16LE(IDEMPOTENT_MARK, IDEMPOTENT_OFFSET.mark);
  head.writeUInt8(idempotencyKey.length, IDEMPOTENT_OFFSET.idempotencyKeyBytes);
  head.writeUInt32LE(entries.length, IDEMPOTENT_OFFSET.incrementsBytes);
  head.fill(digest, IDEMPOTENT_OFFSET.digest, IDEMPOTENT_OFFSET.digest + DIGEST_BYTES);
  return Buffer.concat([head, Buffer.from(idempotencyKey, 'latin1'), entries]);
}
