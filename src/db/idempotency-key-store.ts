/**
 * The table of idempotency tokens as a whole: how many there are, and which may be forgotten; and what else is to be
 * forgotten in time. Main thread.
 *
 * A token may be forgotten when no retry of its request can still count: when the window has passed since it was claimed,
 * and since the latest time before which every stream that is not retired has committed everything it accepted. A node
 * that is down with requests in its journal therefore holds pruning up until it is back or its stream is retired. One
 * node prunes at a time, in batches, by position in the table, where rows lie in the order of their claims.
 */
import type { Logger } from '../core/logger.js';
import type { DatabaseConnection } from './connection.js';
import type { OnDemandConnection } from './on-demand-connection.js';
import {
  COUNT_IDEMPOTENCY_KEYS,
  ESTIMATE_IDEMPOTENCY_KEYS,
  PRUNE_DELETES,
  PRUNE_IDEMPOTENCY_KEYS,
  PRUNE_TOMBSTONES,
  TRY_PRUNER_LOCK,
  PRUNER_UNLOCK,
  RETIRE_MEMORY_STREAMS,
} from './upkeep-statements.js';

/** How the store works. */
export interface IdempotencyKeyStoreOptions {
  /** This node's id. */
  readonly node: string;
  /** Shards of this process with memory journals: none, or all. */
  readonly memoryShards: number;
  readonly windowHours: number;
  /** IDEMPOTENCY_MAX_ROWS. */
  readonly rowsMax: number;
  /** Tokens that this process has claimed since it started. */
  readonly claimed: () => number;
  /** Requests with tokens that this process holds pending. */
  readonly pending: () => number;
  readonly logger: Logger;
}

const COUNT_INTERVAL_MS = 2_000;
const PRUNE_INTERVAL_MS = 60_000;
const PRUNE_BATCH = 10_000;
/** Batches of one round, so that a round ends. */
const PRUNE_BATCHES_MAX = 100;
/** Up to here rows are counted one by one. */
const EXACT_MAX = 1_000_000;
/** Beyond, what was claimed within the last so many rounds may not be in the estimate yet. */
const ESTIMATE_ROUNDS = 6;

/** Counts and prunes from {@link start} on. */
export class IdempotencyKeyStore {
  readonly #connection: OnDemandConnection;
  readonly #options: IdempotencyKeyStoreOptions;
  #rows = 0;
  #claimedAtCount = 0;
  /** What was claimed at the last rounds, oldest first. */
  #claimedAtRounds: readonly number[] = [];
  /** The streams of earlier processes' memory journals are retired. */
  #hasRetired = false;
  #prunedAtMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(connection: OnDemandConnection, options: IdempotencyKeyStoreOptions) {
    this.#connection = connection;
    this.#options = options;
  }

  /** Requests with tokens that may still be taken. Rows of other nodes are known as of the last count. */
  get room(): number {
    const { claimed, pending } = this.#options;
    return this.ceiling - claimed() - pending();
  }

  /** What this process may come to have claimed and pending together. Changes with each count. */
  get ceiling(): number {
    return this.#options.rowsMax - this.#rows + this.#claimedAtCount;
  }

  /** Begins to count and prune, before this node's streams are made; settles after the first round. */
  async start(): Promise<void> {
    this.#round = this.#work();
    await this.#round;
    this.#schedule();
  }

  /** Ends the rounds. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    await this.#round;
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#work();
      void this.#round.then(() => {
        this.#schedule();
      });
    }, COUNT_INTERVAL_MS);
    this.#timer.unref();
  }

  /** Never rejects: what cannot be done now is done in a later round. */
  async #work(): Promise<void> {
    try {
      await this.#connection.run(async (connection) => {
        if (!this.#hasRetired) await this.#retire(connection);
        await this.#count(connection);
        if (performance.now() - this.#prunedAtMs >= PRUNE_INTERVAL_MS) await this.#prune(connection);
      });
    } catch (error) {
      this.#options.logger.debug({ err: error }, 'Idempotency tokens could not be counted');
    }
  }

  async #retire(connection: DatabaseConnection): Promise<void> {
    const { node, memoryShards } = this.#options;
    await connection.query({ text: RETIRE_MEMORY_STREAMS, values: [node, memoryShards] });
    this.#hasRetired = true;
  }

  async #count(connection: DatabaseConnection): Promise<void> {
    const { rowsMax, claimed } = this.#options;
    // Read before the count: what is claimed in between counts twice rather than not at all.
    const claimedBefore = claimed();
    const isExact = rowsMax <= EXACT_MAX;
    this.#claimedAtRounds = [...this.#claimedAtRounds.slice(1 - ESTIMATE_ROUNDS), claimedBefore];
    const statement = isExact
      ? { name: 'count-tokens', text: COUNT_IDEMPOTENCY_KEYS, values: [rowsMax] }
      : { name: 'estimate-tokens', text: ESTIMATE_IDEMPOTENCY_KEYS };
    const [row] = await connection.query<{ rows: number }>(statement);
    this.#rows = row?.rows ?? 0;
    this.#claimedAtCount = isExact ? claimedBefore : (this.#claimedAtRounds[0] ?? 0);
  }

  async #prune(connection: DatabaseConnection): Promise<void> {
    const [lock] = await connection.query<{ locked: boolean }>({ text: TRY_PRUNER_LOCK });
    if (lock?.locked !== true) return;
    try {
      for (const text of [PRUNE_IDEMPOTENCY_KEYS, PRUNE_TOMBSTONES, PRUNE_DELETES])
        await this.#pruneTable(connection, text);
      this.#prunedAtMs = performance.now();
    } finally {
      if (!connection.lost) await connection.query({ text: PRUNER_UNLOCK });
    }
  }

  async #pruneTable(connection: DatabaseConnection, text: string): Promise<void> {
    const values = [this.#options.windowHours, PRUNE_BATCH];
    for (let batch = 0; batch < PRUNE_BATCHES_MAX && !this.#closed; batch += 1) {
      const [row] = await connection.query<{ pruned: number }>({ text, values });
      if ((row?.pruned ?? 0) < PRUNE_BATCH) break;
    }
  }
}
