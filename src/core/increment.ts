/**
 * Increments and sums, their limits, and the interface between an HTTP server and its router. Any thread.
 */
import type { Refusal } from './bounds.js';
import type { ErrorCode } from './errors.js';

/** Largest magnitude of an amount: a double holds it exactly. */
export const AMOUNT_MAX = Number.MAX_SAFE_INTEGER;

/** Upper limit of MAX_KEY_BYTES: a key must fit a B-tree entry of PostgreSQL (a third of an 8 KiB page). */
export const KEY_BYTES_LIMIT = 2048;

/** A sum in memory: a number while it is a safe integer, else a bigint. */
export type Sum = number | bigint;

/** The exact sum. */
export function addSums(a: Sum, b: Sum): Sum {
  if (typeof a === 'number' && typeof b === 'number') {
    const sum = a + b;
    // Rounding changes the sum of two safe integers only beyond 2^53, which this limit excludes.
    if (sum <= AMOUNT_MAX && sum >= -AMOUNT_MAX) return sum;
  }
  const exact = BigInt(a) + BigInt(b);
  return exact <= AMOUNT_MAX && exact >= -AMOUNT_MAX ? Number(exact) : exact;
}

/** Whether a shard or a server takes increments: `open`, or the code of the refusal. */
export type Admission = 'open' | ErrorCode;

/**
 * The increments of one request as columns, filled by the body scanner and valid until its next scan. The key of row
 * `i` has `keyBytes[i]` bytes, from `keyStart[i]` of `body`. If `keyStart[i]` is negative, the body spells the key with
 * escapes, and its bytes start at `~keyStart[i]` of `decoded`.
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

/** A request that waits for its outcome. It is settled exactly once. */
export interface PendingReply {
  /**
   * `refusal` undefined: the journal holds the whole request. `replayed`: it already held the request, under the same
   * idempotency key.
   */
  settle(refusal: Refusal | undefined, replayed?: boolean): void;
}

/** Takes the increments of requests. */
export interface IncrementReceiver {
  /**
   * Takes all increments of a request or none. Copies what it needs of `increments` before it returns. Returns undefined if it
   * took them; `reply` is settled later. Otherwise returns the refusal; `reply` is then never settled.
   */
  submit(increments: ParsedIncrements, reply: PendingReply): Refusal | undefined;

  /** As `submit`, for an idempotent request, which counts once as a whole. The key has 1 to 255 visible ASCII characters. */
  submitIdempotent(idempotencyKey: string, increments: ParsedIncrements, reply: PendingReply): Refusal | undefined;

  /**
   * Takes a request back and releases its room. It is not counted, and `reply` is never settled. Has no effect if another
   * request was taken since, or if a part of it was posted to its shard.
   */
  withdraw(reply: PendingReply): void;
}

/** The router of an HTTP server: splits requests over the shards. */
export interface IncrementRouter extends IncrementReceiver {
  /** False while a shard has not answered all parts of a request. */
  readonly isIdle: boolean;

  /** Answers requests that have waited longer than ACK_TIMEOUT_MS. Call it several times in that time. */
  expire(): void;
}
