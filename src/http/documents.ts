/**
 * The JSON documents of the HTTP side as types: what the routes write and, through their schemas, what the OpenAPI
 * document says. The comments on the types are the descriptions that its readers see. No member is readonly, because the
 * schema would have it as `readOnly`, which means something else. Any thread.
 */
import type { tags } from 'typia';
import type { Counted, ErrorCode } from '../core/errors.js';

/** An exact integer of any size, which a double may not hold. */
type ExactInteger = number & tags.Type<'int64'>;

type Count = number & tags.Type<'int64'> & tags.Minimum<0>;

type DateTime = string & tags.Format<'date-time'>;

/** Keys and the amounts to add to their sums. A name that occurs twice counts twice. */
export type IncrementsDocument = Record<
  string,
  number & tags.Type<'int64'> & tags.Minimum<-9007199254740991> & tags.Maximum<9007199254740991>
>;

/** A counter as this node knows it. */
export interface CounterDocument {
  key: string;
  /** What is committed and what this node holds pending: an exact integer of any size. */
  sum: ExactInteger;
  committed: ExactInteger;
  /** Acknowledged by this node and not yet committed. */
  pending: ExactInteger;
  /** When the sum was last committed; null before the first time. */
  updated_at: DateTime | null;
}

/** A counter as it is committed. */
export interface CommittedCounterDocument {
  key: string;
  /** An exact integer of any size. */
  sum: ExactInteger;
  updated_at: DateTime;
}

/** A page of committed counters in the bytewise order of their keys. */
export interface CounterListDocument {
  counters: CommittedCounterDocument[];
  /** The last key of the page where more follow, to be given as `after`; null where none do. */
  next: string | null;
}

/** A counter that was removed. */
export interface DeletedCounterDocument {
  key: string;
  /** What it was: an exact integer of any size. */
  sum: ExactInteger;
}

/** What a flush did. */
export interface FlushDocument {
  /** Rows of the table that were written. */
  flushed_keys: Count;
}

/** A node that accepts increments. */
export interface ReadinessDocument {
  /** `degraded`: increments are accepted and kept in the journal while the database does not take them. */
  status: 'ok' | 'degraded';
  /** Why it is degraded. */
  reason?: string;
}

/** A problem document (RFC 9457). */
export interface ProblemDocument {
  /** `urn:problem-type:summing-counters:` and the code. */
  type: string;
  title: string;
  status: number & tags.Type<'int32'>;
  /** What exactly, for this request. */
  detail: string;
  /** Stable: programs may depend on it. */
  code: ErrorCode;
  /** Whether the same request can succeed later. */
  retryable: boolean;
  /** Whether this attempt was counted. */
  counted: Counted;
}
