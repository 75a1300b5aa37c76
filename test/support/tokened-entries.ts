/** Entries of requests with tokens, as a front end packs them. */
import { hashKey } from '#product/core/increment.js';
import {
  DIGEST_BYTES,
  PAIR_HEADER_BYTES,
  PAIR_OFFSET,
  TOKENED_HEADER_BYTES,
  TOKENED_MARK,
  TOKENED_OFFSET,
} from '#product/shard-worker/protocol/messages.js';

/** The entries of pairs, one after the other. */
export function pairEntries(pairs: Iterable<readonly [key: string, amount: number]>): Buffer {
  const entries: Buffer[] = [];
  for (const [key, amount] of pairs) {
    const bytes = Buffer.from(key);
    const entry = Buffer.alloc(PAIR_HEADER_BYTES + bytes.length);
    entry.writeUInt16LE(bytes.length, PAIR_OFFSET.keyBytes);
    entry.writeUInt32LE(hashKey(bytes, 0, bytes.length), PAIR_OFFSET.hash);
    entry.writeDoubleLE(amount, PAIR_OFFSET.amount);
    bytes.copy(entry, PAIR_OFFSET.key);
    entries.push(entry);
  }
  return Buffer.concat(entries);
}

/** The entry of a request; its digest is `digest` over and over. */
export function tokenedEntry(
  token: string,
  pairs: Iterable<readonly [key: string, amount: number]>,
  digest = 0,
): Buffer {
  const entries = pairEntries(pairs);
  const head = Buffer.alloc(TOKENED_HEADER_BYTES);
  head.writeUInt16LE(TOKENED_MARK, TOKENED_OFFSET.mark);
  head.writeUInt8(token.length, TOKENED_OFFSET.tokenBytes);
  head.writeUInt32LE(entries.length, TOKENED_OFFSET.pairsBytes);
  head.fill(digest, TOKENED_OFFSET.digest, TOKENED_OFFSET.digest + DIGEST_BYTES);
  return Buffer.concat([head, Buffer.from(token, 'latin1'), entries]);
}
