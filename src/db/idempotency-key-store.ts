/**
 * The table of idempotency keys as a whole: counts its rows, and prunes old ones together with old rows of other tables. Main
 * thread.
 *
 * An idempotency key may be pruned when no retry of its request can still count. That is when the window has passed since it
 * was recorded, and since the latest time before which every stream that is not retired has committed everything it
 * accepted. A node that is down with requests in its journal therefore blocks pruning until it is back or its stream is
 * retired. One node prunes at a time, in batches, by position in the table, where rows lie in the order of recording.
 */
import type { Logger } from '../core/logger.js';
import type { AbsentStreams } from './absent-streams.js';
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

/** Identity, limits and sources of the store. */
export interface IdempotencyKeyStoreOptions {
  /** This node's id. */
  readonly node: string;
  /** Number of shards of this process with a memory journal: none, or all. */
  readonly memoryShards: number;
  readonly windowHours: number;
  /** IDEMPOTENCY_MAX_ROWS. */
  readonly rowsMax: number;
  /** Idempotency keys that this process has recorded since it started. */
  readonly recorded: () => number;
  /** Idempotent requests that are pending in this process. */
  readonly pending: () => number;
  /** Looks after open rows that hold up the pruning. */
  readonly absentStreams?: Pick<AbsentStreams, 'look'>;
  readonly logger: Logger;
}

const COUNT_INTERVAL_MS = 2_000;
const PRUNE_INTERVAL_MS = 60_000;
/** As often as an idle stream looks at its row. */
const LOOK_INTERVAL_MS = 15_000;
const PRUNE_BATCH = 10_000;
/** Most batches of one round, so that a round ends. */
const PRUNE_BATCHES_MAX = 100;
/** Up to this limit rows are counted one by one. */
const EXACT_MAX = 1_000_000;
/** Above it, the estimate may miss what was recorded within this many last rounds. */
const ESTIMATE_ROUNDS = 6;

/** Counts and prunes from {@link start} on. */
export class IdempotencyKeyStore {
  readonly #connection: OnDemandConnection;
  readonly #options: IdempotencyKeyStoreOptions;
  #rows = 0;
  #recordedAtCount = 0;
  /** Recorded keys at the last rounds, oldest first. */
  #recordedAtRounds: readonly number[] = [];
  /** The memory-journal streams of earlier processes are retired. */
  #hasRetired = false;
  #prunedAtMs = Number.NEGATIVE_INFINITY;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(connection: OnDemandConnection, options: IdempotencyKeyStoreOptions) {
    this.#connection = connection;
    this.#options = options;
  }

  /** Idempotent requests that may still be taken. Rows of other nodes are known as of the last count. */
  get room(): number {
    const { recorded, pending } = this.#options;
    return this.ceiling - recorded() - pending();
  }

  /** Most idempotency keys that this process may have recorded and pending together. Changes with each count. */
  get ceiling(): number {
    return this.#options.rowsMax - this.#rows + this.#recordedAtCount;
  }

  /** Begins to count and prune, before this node's streams exist. Settles after the first round. */
  async start(): Promise<void> {
    this.#round = this.#work();
    await this.#round;
    this.#schedule();
  }

  /** Ends the rounds. Settles when none is under way. */
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

  /** Never rejects: a later round does what cannot be done now. */
  async #work(): Promise<void> {
    try {
      await this.#connection.run(async (connection) => {
        if (!this.#hasRetired) await this.#retire(connection);
        await this.#count(connection);
        if (performance.now() - this.#lookedAtMs >= LOOK_INTERVAL_MS) await this.#look(connection);
        if (performance.now() - this.#prunedAtMs >= PRUNE_INTERVAL_MS) await this.#prune(connection);
      });
    } catch (error) {
      this.#options.logger.debug({ err: error }, 'Cannot count or prune idempotency keys; retrying in the next round');
    }
  }

  async #retire(connection: DatabaseConnection): Promise<void> {
    const { node, memoryShards } = this.#options;
    await connection.query({ text: RETIRE_MEMORY_STREAMS, values: [node, memoryShards] });
    this.#hasRetired = true;
  }

  async #look(connection: DatabaseConnection): Promise<void> {
    await this.#options.absentStreams?.look(connection);
    this.#lookedAtMs = performance.now();
  }

  async #count(connection: DatabaseConnection): Promise<void> {
    const { rowsMax, recorded } = this.#options;
    // Read before the count, so that a key recorded in between counts twice rather than not at all.
    const recordedBefore = recorded();
    const isExact = rowsMax <= EXACT_MAX;
    this.#recordedAtRounds = [...this.#recordedAtRounds.slice(1 - ESTIMATE_ROUNDS), recordedBefore];
    const statement = isExact
      ? { name: 'count-tokens', text: COUNT_IDEMPOTENCY_KEYS, values: [rowsMax] }
      : { name: 'estimate-tokens', text: ESTIMATE_IDEMPOTENCY_KEYS };
    const [row] = await connection.query<{ rows: number }>(statement);
    this.#rows = row?.rows ?? 0;
    this.#recordedAtCount = isExact ? recordedBefore : (this.#recordedAtRounds[0] ?? 0);
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
