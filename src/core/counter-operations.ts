/**
 * The operations of a server besides taking increments, as its HTTP servers call them. Any thread.
 */
import type { ErrorCode } from './errors.js';
import type { Sum } from './increment.js';

/** One counter at the moment of a read. */
export interface CounterReading {
  readonly sum: Sum;
  readonly committed: Sum;
  /** Null on a server that only journals (ROLE=ingest). */
  readonly pending: Sum | null;
  /** Time of the last commit in UTC, as ISO 8601 writes it, with milliseconds; null before the first. */
  readonly updatedAt: string | null;
}

/** A counter whose row holds no integer, because another writer of the table stored something else. */
export interface UnreadableCounter {
  /** The problem, for the operator. */
  readonly unreadable: string;
}

/** Which committed counters a page holds. */
export interface CounterListQuery {
  /** Only keys that begin with this; '' for all. Without U+0000. */
  readonly prefix: string;
  /** Only keys above this one in bytewise order. Without U+0000. */
  readonly after: string | undefined;
  /** From 1 to 1000. */
  readonly limit: number;
}

/** A page of committed counters, in the bytewise order of their keys. */
export interface CounterListPage {
  readonly counters: readonly { readonly key: string; readonly sum: Sum; readonly updatedAt: Date }[];
  /** The last key of the page if more follow (the `after` of the next page), else null. */
  readonly next: string | null;
}

/** The readiness of the server, as `/readyz` shows it. */
export type Readiness =
  /** `reason`: a hint for the operator although everything works. */
  | { readonly state: 'ok'; readonly reason?: string }
  | { readonly state: 'degraded'; readonly reason: string }
  | { readonly state: 'refusing'; readonly code: ErrorCode; readonly reason: string };

/** The result of a read for one key. */
export type ReadResult = CounterReading | UnreadableCounter | undefined;

/** Most keys of a read. */
export const READ_KEYS_MAX = 500;

/** An event of the dashboard. */
export interface DashboardUpdate {
  /** A `DashboardDocument` as JSON. */
  readonly text: string;
  /** The number of its last point. The next update begins after it. */
  readonly through: number;
}

/** The operations of a server besides taking increments. Every method rejects only with a {@link CounterError}. */
export interface CounterOperations {
  /**
   * The exact sums of counters on this server, in the order of `keys` (UTF-8, from 1 to {@link READ_KEYS_MAX}) and of one
   * snapshot of the database; undefined for a key that was never counted.
   */
  read(keys: readonly Uint8Array[]): Promise<readonly ReadResult[]>;
  /**
   * Deletes a counter. Resolves to its last sum, which includes everything acknowledged before the call, or to undefined if it
   * was never counted. A call with the same `id` gets the same answer. Without an `id`, a lost reply of the database is
   * `outcome-unknown`.
   */
  delete(key: Uint8Array, id: string | undefined): Promise<Sum | undefined>;
  list(query: CounterListQuery): Promise<CounterListPage>;
  /** Commits everything acknowledged before the call. Resolves to the number of keys written. */
  flush(): Promise<number>;
  readiness(): Readiness | Promise<Readiness>;
  /** The page of metrics for Prometheus. */
  metrics(): Promise<string>;
  /** The current state for the dashboard, with the points after number `since`; 0: all of the last minutes. */
  dashboard(since: number): Promise<DashboardUpdate>;
}
