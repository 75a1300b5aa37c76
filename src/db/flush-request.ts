/**
 * One flush as a statement and its parameters. Shard thread.
 */
import { IdempotentArrayEncoder, type IdempotentFlushArrays } from './binary-array.js';
import type { Statement } from './connection.js';
import * as sql from './statements.js';

/** One flush: the pairs of the records above `fromLsn` up to `toLsn`. */
export interface FlushRequest {
  readonly stream: string;
  readonly epoch: number;
  readonly fromLsn: number;
  readonly toLsn: number;
  /** Everything that this stream accepted before is committed with this flush. */
  readonly acceptedThrough: Date;
  /** Distinct; text[] in binary format, see PairArrayEncoder. Must not change until the call has settled. */
  readonly keys: Buffer;
  /** numeric[] in binary format, as many elements. */
  readonly amounts: Buffer;
  /** Requests with idempotency tokens in this range. */
  readonly idempotencyKeys?: IdempotentFlushArrays;
  /** Rows of this range that PostgreSQL has refused, and that are not among `keys`. */
  readonly rejected?: readonly RejectedIncrement[];
}

/** A pair that PostgreSQL refused, and why. */
export interface RejectedIncrement {
  readonly key: Buffer;
  /** Decimal integer. */
  readonly amount: string;
  readonly reason: string;
  readonly sqlState: string;
  /** The token of its request, if it had one: the row is kept only if this flush claims it. */
  readonly idempotencyKey?: string;
}

/** The session's usual statement_timeout, in seconds. */
export const USUAL_FLUSH_SECONDS = 30;
/** The slowest database that a backlog is flushed to: about 4,000 keys of 24 bytes a second. */
const FLUSH_BYTES_A_SECOND_MIN = 100_000;
const FLUSH_SECONDS_MAX = 3_600;

/**
 * Seconds that a flush may take: a backlog of a million keys is one statement, which must not time out for ever. On a
 * database that is slower than that, `allowance` times as long, up to an hour.
 */
export function flushSeconds({ keys, idempotencyKeys }: FlushRequest, allowance = 1): number {
  const bytes =
    keys.length +
    (idempotencyKeys === undefined ? 0 : idempotencyKeys.sumIdempotencyKeys.length + idempotencyKeys.sumKeys.length);
  const seconds = Math.max(USUAL_FLUSH_SECONDS, Math.ceil(bytes / FLUSH_BYTES_A_SECOND_MIN));
  return Math.max(seconds, Math.min(seconds * allowance, FLUSH_SECONDS_MAX));
}

/** The statement of a flush: the plain one wherever it does. */
export function flushStatement(request: FlushRequest): Statement {
  const { stream, epoch, fromLsn, toLsn, acceptedThrough, keys, amounts, idempotencyKeys, rejected } = request;
  const common = [stream, epoch, fromLsn, toLsn, acceptedThrough, keys, amounts];
  if (rejected !== undefined && rejected.length > 0) {
    return {
      text: sql.FLUSH_WITH_REJECTED,
      values: [
        ...common,
        ...idempotentParameters(idempotencyKeys ?? new IdempotentArrayEncoder().finish()),
        rejected.map((row) => row.key),
        rejected.map((row) => row.amount),
        rejected.map((row) => row.reason),
        rejected.map((row) => row.sqlState),
        rejected.map((row) => row.idempotencyKey ?? null),
      ],
    };
  }
  if (idempotencyKeys !== undefined) {
    return {
      name: 'flush-with-tokens',
      text: sql.FLUSH_WITH_IDEMPOTENCY_KEYS,
      values: [...common, ...idempotentParameters(idempotencyKeys)],
    };
  }
  return { name: 'flush', text: sql.FLUSH, values: common };
}

function idempotentParameters(parameters: IdempotentFlushArrays): readonly Buffer[] {
  const { idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts } = parameters;
  return [idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts];
}
