/**
 * The JSON documents of the HTTP server as types. Any thread.
 *
 * Routes write these types, and the OpenAPI document contains their schemas. The comments on the types are descriptions
 * in that document. No member is readonly: the schema would say `readOnly`, which means something else in OpenAPI.
 */
import type { tags } from 'typia';
import type { Counted, ErrorCode } from '../core/errors.js';

/** An exact integer of any size, possibly too large for a double. */
type ExactInteger = number & tags.Type<'int64'>;

type Count = number & tags.Type<'int64'> & tags.Minimum<0>;

type DateTime = string & tags.Format<'date-time'>;

/** Keys and the amounts to add to their sums. A key that occurs twice counts twice. */
export type IncrementsDocument = Record<
  string,
  number & tags.Type<'int64'> & tags.Minimum<-9007199254740991> & tags.Maximum<9007199254740991>
>;

/** A counter as this server knows it. */
export interface CounterDocument {
  key: string;
  /** The total of committed and pending: an exact integer of any size. */
  sum: ExactInteger;
  committed: ExactInteger;
  /** Acknowledged by this server and not yet committed. Null where the server only journals (ROLE=ingest). */
  pending: ExactInteger | null;
  /** When the sum was last committed; null before the first time. */
  updated_at: DateTime | null;
}

/** One of several counters that were asked for. */
export interface RequestedCounterDocument {
  key: string;
  /** The total of committed and pending: an exact integer of any size. Null if the counter does not exist. */
  sum: ExactInteger | null;
  committed: ExactInteger;
  /** Acknowledged by this server and not yet committed. Null where the server only journals (ROLE=ingest). */
  pending: ExactInteger | null;
  /** When the sum was last committed; null before the first time. */
  updated_at: DateTime | null;
}

/** The counters that were asked for, in the order of the request. */
export interface RequestedCountersDocument {
  counters: RequestedCounterDocument[];
}

/** A counter as committed. */
interface CommittedCounterDocument {
  key: string;
  /** An exact integer of any size. */
  sum: ExactInteger;
  updated_at: DateTime;
}

/** A page of committed counters in the bytewise order of their keys. */
export interface CounterListDocument {
  counters: CommittedCounterDocument[];
  /** The last key of the page if more follow, to be given as `after`; else null. */
  next: string | null;
}

/** A deleted counter. */
export interface DeletedCounterDocument {
  key: string;
  /** Its last sum: an exact integer of any size. */
  sum: ExactInteger;
}

/** The result of a flush. */
export interface FlushDocument {
  /** Number of table rows written. */
  flushed_keys: Count;
}

/** The versions of a server. */
export interface VersionDocument {
  version: string;
  /** Of uWebSockets.js. */
  uws: string;
  node: string;
}

/** A server that accepts increments. */
export interface ReadinessDocument {
  /** `degraded`: the server accepts increments and keeps them in the journal, because the database takes none. */
  status: 'ok' | 'degraded';
  /** Why the server is degraded, or what else an operator should know. */
  reason?: string;
}

/** A problem document (RFC 9457). */
export interface ProblemDocument {
  /** `urn:problem-type:summing-counters:` and the code. */
  type: string;
  title: string;
  status: number & tags.Type<'int32'>;
  /** What was wrong with this request, and what to do. For `overloaded`: the bound, its value and its setting. */
  detail: string;
  /** Stable; programs may depend on it. */
  code: ErrorCode;
  /** Whether the same request can succeed later. */
  retryable: boolean;
  /** Whether this attempt was counted. */
  counted: Counted;
}

/** What the event `dashboard` of GET /dashboard/events holds. */
export interface DashboardDocument {
  /** One for each second since the last event of the stream; in its first event up to five minutes of them. */
  points: DashboardPoint[];
  server: {
    version: string;
    node: string;
    uws: string;
    journal: string;
    role: string;
    shards: number;
    httpThreads: number;
    flushIntervalMs: number;
    /** Since the process began. */
    upSeconds: number;
    residentBytes: number;
  };
  health: DashboardHealth;
  /** Increments of all shards, as the metrics of the same names count them. */
  balance: {
    accepted: number;
    recovered: number;
    adopted: number;
    flushed: number;
    pending: number;
    deduplicated: number;
    handedOver: number;
    rejected: number;
    lost: number;
  };
  /** Requests with increments that were not answered with 202 since the start, by error code. */
  refusals: { code: string; requests: number }[];
  bounds: DashboardBound[];
  shards: DashboardShard[];
  /** The keys with the most increments now, most first, about. */
  hotKeys: { key: string; perSecond: number }[];
}

/** A second of the server. Rates are those of that second. */
export interface DashboardPoint {
  /** Its end, ms since 1970. */
  at: number;
  increments: number;
  requests: number;
  refused: number;
  /** Times from a request to its acknowledgement, interpolated within buckets; null where there was none. */
  p50Ms: number | null;
  p99Ms: number | null;
  /** At its end. */
  pending: number;
  journalBytes: number;
}

/** How the server is. */
export interface DashboardHealth {
  /** As `/readyz` says it. */
  state: 'ok' | 'degraded' | 'refusing';
  /** The error code of refused increments. */
  code: string | null;
  reason: string | null;
  isJournalAvailable: boolean;
  /** How long PostgreSQL has been unavailable; null while it is available. */
  databaseUnavailableSeconds: number | null;
  /** Why it was last; null before the first time. */
  databaseReason: string | null;
}

/** What the server holds, and the most that it holds. */
interface DashboardBound {
  name: 'pendingKeys' | 'pendingBytes' | 'journalBytes' | 'connections' | 'watchers' | 'idempotencyRows';
  now: number;
  /** Null where there is none. */
  most: number | null;
  /** The setting that raises it. */
  setting: string;
}

/** One shard. */
export interface DashboardShard {
  /** In the last second. */
  increments: number;
  pending: number;
  pendingKeys: number;
  pendingBytes: number;
  journalBytes: number;
  journalSegments: number;
  oldestPendingSeconds: number;
  /** Mean times of the last second; null where there was none. */
  syncMs: number | null;
  flushMs: number | null;
  flushRetries: number;
  restarts: number;
}
