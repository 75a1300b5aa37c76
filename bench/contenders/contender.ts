/**
 * The interface of a contender: any server with POST /increment that the benchmark measures.
 */

/** How to start a contender. */
export interface Contender {
  /** Its name in tables and records. */
  readonly name: string;
  /** How its 202 means less than that of the file journal, in one sentence. */
  readonly note?: string;
  /** Whether each of its requests carries an Idempotency-Key. */
  readonly idempotent?: boolean;
  /** Name of an earlier contender of the run; the cost is also given as a multiple of that one's. */
  readonly counterpart?: string;
  start(): Promise<RunningContender>;
}

/** A started contender. */
export interface RunningContender {
  readonly name: string;
  /** URL of POST /increment. */
  readonly url: string;
  /** Process id of the server, for its memory. */
  readonly pid: number;
  /** What it runs on, such as the build of uWebSockets.js, from its log. */
  readonly build: string | undefined;
  /** CPU time since its start. */
  cost(): ContenderCost;
  /** Waits until all acknowledged increments are committed and reads them; undefined if the contender keeps nothing. */
  settle(): Promise<Committed | undefined>;
  /** Number of committed idempotency keys, if the contender supports them. */
  committedIdempotencyKeys?(): Promise<bigint>;
  stop(): Promise<void>;
}

/** CPU time, user and system, in ms. */
export interface ContenderCost {
  /** All threads of the server process. */
  readonly serverMs: number;
  /** The main thread, a part of `serverMs`. */
  readonly mainThreadMs: number;
  /** All processes of its database, PostgreSQL or Redis. */
  readonly databaseMs: number;
}

/** The committed increments. */
export interface Committed {
  readonly sum: bigint;
  readonly keys: number;
}
