/**
 * What a load generator is asked and what it answers, whichever it is.
 */
import type { Workload } from './workload.js';

/** A stretch of load against one server. */
export interface LoadRequest {
  /** Of POST /increment. */
  readonly url: string;
  readonly workload: Workload;
  readonly connections: number;
  readonly seconds: number;
  /** Instead of `seconds`: this many requests, all of them answered at the end. Generators that can only. */
  readonly amount?: number;
}

/** What came of it. */
export interface LoadFigures {
  /** Answered 202; requests in flight at the end, at most one a connection, are not among them. */
  readonly acknowledged: number;
  /** Answered anything else. */
  readonly refused: number;
  /** Connections that failed, answers that did not come. */
  readonly socketErrors: number;
  readonly seconds: number;
  readonly latency: Latency;
  /** Share of the time, 0 to 1, that a generator in one thread was busy; near 1 the figures are its own. */
  readonly generatorBusy?: number;
}

/** Ms. */
export interface Latency {
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
}

/** A load generator; its name goes into the record. */
export interface LoadGenerator {
  readonly name: string;
  run(request: LoadRequest): Promise<LoadFigures>;
}
