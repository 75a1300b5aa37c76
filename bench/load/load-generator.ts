/**
 * The interface of all load generators: what each is asked and what it answers.
 */
import type { Workload } from './workload.js';

/** A stretch of load against one server. */
export interface LoadRequest {
  /** URL of POST /increment. */
  readonly url: string;
  readonly workload: Workload;
  readonly connections: number;
  readonly seconds: number;
  /** Instead of `seconds`: this many requests, all of them answered at the end. Not every generator supports it. */
  readonly amount?: number;
}

/** The figures of a stretch of load. */
export interface LoadFigures {
  /** Requests answered 202, without those in flight at the end, at most one a connection. */
  readonly acknowledged: number;
  /** Requests with any other answer. */
  readonly refused: number;
  /** Failed connections and missing answers. */
  readonly socketErrors: number;
  readonly seconds: number;
  readonly latency: Latency;
  /** Share of the time, 0 to 1, for which a generator with one thread was busy. Near 1 it limits the figures. */
  readonly generatorBusy?: number;
}

/** Latency in ms. */
export interface Latency {
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
}

/** A load generator. The record of a run holds its name. */
export interface LoadGenerator {
  readonly name: string;
  run(request: LoadRequest): Promise<LoadFigures>;
}
