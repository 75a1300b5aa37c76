/**
 * The domain's words and limits: counters, increments, LSNs, and the small interfaces through which the HTTP side meets
 * whatever counts behind it. Any thread. Lowest layer: imports only its equals.
 */
import type { ErrorCode } from './errors.js';

/** Largest magnitude of an amount: what a double holds exactly. */
export const AMOUNT_MAX = Number.MAX_SAFE_INTEGER;

/** Hard limit of MAX_KEY_BYTES: a key must fit a B-tree entry of PostgreSQL (a third of an 8 KiB page). */
export const KEY_BYTES_LIMIT = 2048;

/** A log sequence number: the position of a record in its stream, from 1, without gaps. 0 is before the first. */
export type Lsn = number;

/** A sum in memory: a number while it is a safe integer, a bigint beyond. */
export type Sum = number | bigint;

/** Adds exactly, leaving the safe integers for bigint where it must and coming back where it can. */
export function addSums(a: Sum, b: Sum): Sum {
  if (typeof a === 'number' && typeof b === 'number') {
    const sum = a + b;
    // Two safe integers differ from their exact sum by rounding only beyond 2^53, which this bound excludes.
    if (sum <= AMOUNT_MAX && sum >= -AMOUNT_MAX) return sum;
  }
  const exact = BigInt(a) + BigInt(b);
  return exact <= AMOUNT_MAX && exact >= -AMOUNT_MAX ? Number(exact) : exact;
}

const FNV_OFFSET_BASIS = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** Start value of the running key hash, see {@link hashKeyByte}. */
export const KEY_HASH_START = FNV_OFFSET_BASIS | 0;

/** One step of FNV-1a (Fowler, Noll, Vo), 32 bits, for scanners that hash while they read. */
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

/** Hash of a key's UTF-8 bytes `[start, end)`: chooses the shard and the slot in its map. Part of the journal format. */
export function hashKey(bytes: Uint8Array, start: number, end: number): number {
  let hash = KEY_HASH_START;
  // In range by the caller's contract; `?? 0` would cost a branch a byte.
  for (let at = start; at < end; at += 1) hash = hashKeyByte(hash, bytes[at] as number);
  return finishKeyHash(hash);
}

/** The shard of a key hash among `shards`: the high bits decide, the low ones are left to the shard's own map. */
export function shardOfHash(hash: number, shards: number): number {
  return Math.floor((hash / 0x1_0000_0000) * shards);
}

/**
 * The pairs of one request as columns, filled by the body scanner and valid until its next scan. Row `i` has its key's
 * bytes at `keyStart[i]` of `body`, or, where `keyStart[i]` is negative, at `~keyStart[i]` of `decoded` (a key that
 * was written with escapes); `keyBytes[i]` bytes in all; its hash; its amount.
 */
export interface ParsedIncrements {
  readonly count: number;
  readonly body: Uint8Array;
  readonly decoded: Uint8Array;
  readonly keyStart: Int32Array;
  readonly keyBytes: Uint16Array;
  readonly hash: Uint32Array;
  readonly amount: Float64Array;
}

/** A request that waits for its outcome; settled exactly once. */
export interface PendingReply {
  /** `undefined`: everything of the request is in the journal. `replayed`: it was there before, under its token. */
  settle(refusal: ErrorCode | undefined, replayed?: boolean): void;
}

/** Takes the pairs of requests. */
export interface IncrementReceiver {
  /**
   * Takes all pairs of a request or none: copies what it needs out of `pairs` before it returns. Returns the code of the
   * refusal where nothing was taken (`reply` is then never settled), `undefined` where `reply` will be settled.
   */
  submit(increments: ParsedIncrements, reply: PendingReply): ErrorCode | undefined;

  /** As `submit`, for a request with an idempotency token: counted once, as a whole. 1 to 255 visible ASCII characters. */
  submitIdempotent(idempotencyKey: string, increments: ParsedIncrements, reply: PendingReply): ErrorCode | undefined;
}

/** One counter as a read sees it. */
export interface CounterReading {
  readonly sum: Sum;
  readonly committed: Sum;
  readonly pending: Sum;
  /** Time of the last commit in milliseconds since 1970, or null before the first. */
  readonly updatedAt: Date | null;
}

/** Which committed counters a page holds. */
export interface CounterListQuery {
  /** What their keys begin with; '' for all. No U+0000. */
  readonly prefix: string;
  /** Keys up to this one, in bytewise order, are left out. No U+0000. */
  readonly after: string | undefined;
  /** From 1 to 1000. */
  readonly limit: number;
}

/** A page of committed counters in the bytewise order of their keys. */
export interface CounterListPage {
  readonly counters: readonly { readonly key: string; readonly sum: Sum; readonly updatedAt: Date }[];
  /** The last key where more follow: the `after` of the next page. */
  readonly next: string | null;
}

/** What this node can do now, as `/readyz` shows it. */
export type Readiness =
  | { readonly state: 'ok' }
  | { readonly state: 'degraded'; readonly reason: string }
  | { readonly state: 'refusing'; readonly code: ErrorCode; readonly reason: string };

/** The operations of a node besides taking increments. Every method rejects with a {@link CounterError} only. */
export interface CounterOperations {
  /** The counter's exact sum on this node, or undefined if the key was never counted. `key` is UTF-8. */
  read(key: Uint8Array): Promise<CounterReading | undefined>;
  /**
   * Removes a counter; resolves to what it was, with everything acknowledged before the call, or undefined if it was
   * never counted. The same `id` answers the same again; without one a lost reply is `outcome-unknown`.
   */
  delete(key: Uint8Array, id: string | undefined): Promise<Sum | undefined>;
  /** A page of committed counters. */
  list(query: CounterListQuery): Promise<CounterListPage>;
  /** Commits everything acknowledged before the call; resolves to the number of keys written. */
  flush(): Promise<number>;
  readiness(): Readiness | Promise<Readiness>;
}
