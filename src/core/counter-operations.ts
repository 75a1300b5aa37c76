/**
 * What the server can do besides taking increments, as its HTTP side calls it. Any thread.
 */
import type { ErrorCode } from './errors.js';
import type { Sum } from './increment.js';

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
