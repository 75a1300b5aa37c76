/**
 * What a flush came to, for the gauges. Shard thread.
 */
import type { FlushAttempt } from './stream-database.js';
import type { FrozenRange } from '../pending-sums.js';

/** What a committed flush came to, in increments where nothing else is said. */
export interface CommittedFlush {
  readonly increments: number;
  readonly rejected: number;
  /** Of requests whose token had been counted before. */
  readonly deduplicated: number;
  /** Tokens claimed. */
  readonly claimed: number;
  /** Tokens that had been claimed with other content. */
  readonly mismatches: number;
}

type CommittedAttempt = Extract<FlushAttempt, { readonly kind: 'committed' }>;

/** What a range came to with an attempt that was committed. */
export function committedFlush({ sums, idempotent }: FrozenRange, attempt: CommittedAttempt): CommittedFlush {
  const { rejected = 0, unclaimed = [], mismatches = 0 } = attempt;
  let deduplicated = idempotent.duplicates;
  for (const idempotencyKey of unclaimed) deduplicated += idempotent.get(idempotencyKey)?.increments ?? 0;
  const increments = sums.increments + idempotent.increments;
  return { increments, rejected, deduplicated, claimed: idempotent.size - unclaimed.length, mismatches };
}
