/**
 * The hash of a counter key. It chooses the key's shard and the slot in the shard's map. Any thread.
 */

const FNV_OFFSET_BASIS = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** Start value of a key hash that {@link hashKeyByte} computes byte by byte. */
export const KEY_HASH_START = FNV_OFFSET_BASIS | 0;

/** One step of FNV-1a (Fowler, Noll, Vo), 32 bits. The body scanner hashes while it reads. */
export function hashKeyByte(hash: number, byte: number): number {
  return Math.imul(hash ^ byte, FNV_PRIME);
}

/** Finalizer of MurmurHash3 (fmix32), which spreads FNV's weak high bits. Returns an unsigned 32-bit integer. */
export function finishKeyHash(hash: number): number {
  let h = hash;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  h ^= h >>> 16;
  return h >>> 0;
}

/** Hash of a key's UTF-8 bytes `[start, end)`. Part of the journal format. */
export function hashKey(bytes: Uint8Array, start: number, end: number): number {
  let hash = KEY_HASH_START;
  // In range by the caller's contract. `?? 0` would cost a branch for each byte.
  for (let at = start; at < end; at += 1) hash = hashKeyByte(hash, bytes[at] as number);
  return finishKeyHash(hash);
}

/** The shard of a key hash among `shards`. The high bits choose it; the shard's map uses the low bits. */
export function shardOfHash(hash: number, shards: number): number {
  return Math.floor((hash / 0x1_0000_0000) * shards);
}
