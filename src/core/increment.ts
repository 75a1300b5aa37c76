/**
 * Increments and sums, their limits, and how the HTTP side hands the increments of a request on. Any thread.
 */
import type { ErrorCode } from './errors.js';

/** Largest magnitude of an amount: what a double holds exactly. */
export const AMOUNT_MAX = Number.MAX_SAFE_INTEGER;

/** Hard limit of MAX_KEY_BYTES: a key must fit a B-tree entry of PostgreSQL (a third of an 8 KiB page). */
export const KEY_BYTES_LIMIT = 2048;

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

/** Whether a shard or a server takes increments, or the code with which it refuses them. */
export type Admission = 'open' | ErrorCode;

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

/** What an HTTP server needs of its router, which spreads increments over the shards. */
export interface IncrementRouter extends IncrementReceiver {
  /** False while requests or parts of them are with the shards. */
  readonly isIdle: boolean;

  /** Answers what has waited longer than the acknowledgement timeout; to be called a few times a timeout. */
  expire(): void;
}
