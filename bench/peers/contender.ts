/**
 * What is measured: a server that takes POST /increment, whoever wrote it.
 */

/** How to start a contender. */
export interface Contender {
  /** As it stands in tables and records. */
  readonly name: string;
  /** One sentence where its 202 means less than the file journal's. */
  readonly note?: string;
  /** Its requests carry an Idempotency-Key each. */
  readonly idempotent?: boolean;
  /** Of an earlier contender of the run whose cost it is also a multiple of. */
  readonly counterpart?: string;
  start(): Promise<RunningContender>;
}

/** A contender that takes increments. */
export interface RunningContender {
  readonly name: string;
  /** Of POST /increment. */
  readonly url: string;
  /** Of the server process that is watched for memory. */
  readonly pid: number;
  /** What it runs on, such as its uWebSockets.js build; from its log. */
  readonly build: string | undefined;
  /** CPU time since its start. */
  cost(): ContenderCost;
  /** Waits until everything acknowledged is committed, and reads it back; undefined where nothing is kept. */
  settle(): Promise<Committed | undefined>;
  /** Idempotency keys that are committed; where the contender takes them. */
  committedIdempotencyKeys?(): Promise<bigint>;
  stop(): Promise<void>;
}

/** CPU time, user and system, in ms. */
export interface ContenderCost {
  /** All threads of the server process. */
  readonly serverMs: number;
  /** Of these, its main thread. */
  readonly mainThreadMs: number;
  /** All processes of its database: PostgreSQL's or Redis'. */
  readonly databaseMs: number;
}

/** What is committed. */
export interface Committed {
  readonly sum: bigint;
  readonly keys: number;
}
