/**
 * The bounds at which increments are refused as `overloaded`. Any thread.
 *
 * A refusal is a constant: a code of the catalogue, or the bound that makes it `overloaded`. `config/bound-sentences.ts` has
 * the sentence of each bound.
 */
import { errorCodes, type ErrorCode } from './errors.js';

/**
 * | bound | what is at its limit |
 * | --- | --- |
 * | `pending-keys`, `pending-bytes` | what is pending in the server |
 * | `journal-bytes` | the journal of a shard |
 * | `window-bytes` | requests in flight with a shard |
 * | `idempotency-rows` | remembered idempotency keys |
 * | `body-bytes` | memory for unfinished bodies of an HTTP thread |
 * | `ack-timeout` | the wait until a shard takes a request |
 */
export const BOUNDS = [
  'pending-keys',
  'pending-bytes',
  'journal-bytes',
  'window-bytes',
  'idempotency-rows',
  'body-bytes',
  'ack-timeout',
] as const;
export type Bound = (typeof BOUNDS)[number];

/** Most unanswered bytes from an HTTP thread to one shard. */
export const WINDOW_BYTES_MAX = 16 * 1024 * 1024;

/** Why increments are refused. A known bound replaces `overloaded`. */
export type Refusal = ErrorCode | Bound;

/** All refusals. Where bytes cross a port, a refusal is its index. */
export const REFUSALS: readonly Refusal[] = Object.freeze([...errorCodes, ...BOUNDS]);

/** Whether a refusal names a bound. */
export function isBound(refusal: Refusal): refusal is Bound {
  return (BOUNDS as readonly Refusal[]).includes(refusal);
}

/** The code of the problem document of a refusal. */
export function codeOfRefusal(refusal: Refusal): ErrorCode {
  return isBound(refusal) ? 'overloaded' : refusal;
}
