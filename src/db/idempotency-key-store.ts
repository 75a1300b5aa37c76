/**
 * Counts the rows of the table of idempotency keys, and prunes old ones (`idempotency-pruner.ts`). Main thread.
 */
import type { Logger } from '../core/logger.js';
import type { AbsentStreams } from './absent-streams.js';
import type { DatabaseConnection } from './connection.js';
import type { OnDemandConnection } from './on-demand-connection.js';
import { IdempotencyPruner } from './idempotency-pruner.js';
import { COUNT_IDEMPOTENCY_KEYS, ESTIMATE_IDEMPOTENCY_KEYS } from './upkeep-statements.js';

/** Limits and sources of the store. */
export interface IdempotencyKeyStoreOptions {
  /** IDEMPOTENCY_WINDOW_HOURS. */
  readonly windowHours: number;
  /** STREAM_EXPIRY_DAYS. */
  readonly expiryDays: number;
  /** JOURNAL_KEEP_SECONDS of a journal in this database; undefined: this server has another journal. */
  readonly logKeepSeconds?: number | undefined;
  /** IDEMPOTENCY_MAX_ROWS. */
  readonly rowsMax: number;
  /** Idempotency keys that this process has recorded since it started. */
  readonly recorded: () => number;
  /** Idempotent requests that are pending in this process. */
  readonly pending: () => number;
  /** Finds open rows that delay the pruning. */
  readonly absentStreams?: Pick<AbsentStreams, 'look'>;
  readonly logger: Logger;
}

const COUNT_INTERVAL_MS = 2_000;
const PRUNE_INTERVAL_MS = 60_000;
/** As often as an idle stream checks its row. */
const LOOK_INTERVAL_MS = 15_000;
/** Up to this limit the count is exact. */
const EXACT_MAX = 1_000_000;
/** Above it, the estimate may lack keys that were recorded within this many last rounds. */
const ESTIMATE_ROUNDS = 6;

/** Counts and prunes from {@link start} on. */
export class IdempotencyKeyStore {
  readonly #connection: OnDemandConnection;
  readonly #options: IdempotencyKeyStoreOptions;
  readonly #pruner: IdempotencyPruner;
  #rows = 0;
  #recordedAtCount = 0;
  /** Recorded keys at the last rounds, oldest first. */
  #recordedAtRounds: readonly number[] = [];
  #heldSeconds = 0;
  #prunedAtMs = Number.NEGATIVE_INFINITY;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(connection: OnDemandConnection, options: IdempotencyKeyStoreOptions) {
    this.#connection = connection;
    this.#options = options;
    this.#pruner = new IdempotencyPruner(options);
  }

  /** Idempotency keys in the table, as of the last count. */
  get rows(): number {
    return this.#rows;
  }

  /** How far the oldest open stream delayed the pruning in the last round of this node, in seconds. */
  get heldSeconds(): number {
    return this.#heldSeconds;
  }

  /** Idempotent requests that may still be accepted. Counts rows of other nodes as of the last count. */
  get room(): number {
    const { recorded, pending } = this.#options;
    return this.ceiling - recorded() - pending();
  }

  /** Most recorded and pending idempotency keys of this process together. Changes with each count. */
  get ceiling(): number {
    return this.#options.rowsMax - this.#rows + this.#recordedAtCount;
  }

  /** Begins to count and prune, before this node's streams exist. Resolves after the first round. */
  async start(): Promise<void> {
    this.#round = this.#work();
    await this.#round;
    this.#schedule();
  }

  /** Ends the rounds. Resolves when none is under way. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#pruner.close();
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

  /** Never rejects: after a failure a later round does the work. */
  async #work(): Promise<void> {
    try {
      await this.#connection.run(async (connection) => {
        await this.#count(connection);
        if (performance.now() - this.#lookedAtMs >= LOOK_INTERVAL_MS) await this.#look(connection);
        if (performance.now() - this.#prunedAtMs >= PRUNE_INTERVAL_MS) await this.#prune(connection);
      });
    } catch (error) {
      this.#options.logger.debug({ err: error }, 'Cannot count or prune idempotency keys; retrying in the next round');
    }
  }

  async #look(connection: DatabaseConnection): Promise<void> {
    await this.#options.absentStreams?.look(connection);
    this.#lookedAtMs = performance.now();
  }

  async #count(connection: DatabaseConnection): Promise<void> {
    const { rowsMax, recorded } = this.#options;
    // Read before the count, so that a key recorded between the two counts twice, and not zero times.
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
    const heldSeconds = await this.#pruner.round(connection);
    if (heldSeconds === undefined) return;
    this.#heldSeconds = heldSeconds;
    this.#prunedAtMs = performance.now();
  }
}
