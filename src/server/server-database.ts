/**
 * A node's database as the main thread uses it: found or embedded, opened, read, and let go of. Main thread.
 */
import type { Config } from '../config/config.js';
import { pause } from '../core/clock.js';
import { describeTarget, parseDatabaseUrl, type DatabaseTarget } from '../db/connection.js';
import { CounterStore } from '../db/counter-store.js';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../db/embedded/embedded-postgres.js';
import { OnDemandConnection } from '../db/on-demand-connection.js';
import { openDatabase, type OpenedDatabase } from '../db/schema/open-database.js';
import { CounterDeleteStore } from '../db/counter-delete-store.js';
import { IdempotencyKeyStore } from '../db/idempotency-key-store.js';
import { StartError, reasonOf } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { STAT, statTotal } from '../shard-worker/protocol/stats.js';

/** How long a start with a journal that does not outlive the process waits for the database. */
const MEMORY_START_TIMEOUT_MS = 30_000;
/** How long any other start waits for the database before it goes on without. */
const START_TIMEOUT_MS = 3_000;
const RETRY_MS = 500;
/**
 * Between attempts to alter a table that others use, for whom each attempt is a pause: half as much again at random, so
 * that nodes that start together do not come together.
 */
const BUSY_RETRY_MS = 1_000;
/** How often the log says that a migration still waits. */
const BUSY_LOG_MS = 30_000;
const CONNECT_TIMEOUT_MS = 2_000;

/** A database that was opened, or will be. */
export interface OpenedServerDatabase {
  readonly target: DatabaseTarget;
  /** Undefined while it has not been reached. */
  readonly databaseId: string | undefined;
}

/** The database of a node. */
export class ServerDatabase {
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #stats: SharedArrayBuffer;
  readonly #refused: (reason: string) => void;
  #embedded: EmbeddedPostgres | undefined;
  #counters: CounterStore | undefined;
  #deletes: CounterDeleteStore | undefined;
  #idempotencyKeys: IdempotencyKeyStore | undefined;
  #shared: OnDemandConnection | undefined;
  #closed = false;
  #busyLoggedAtMs = Number.NEGATIVE_INFINITY;

  /** `refused` is called where the database answers after the start and refuses us. */
  constructor(config: Config, logger: Logger, stats: SharedArrayBuffer, refused: (reason: string) => void) {
    this.#config = config;
    this.#logger = logger;
    this.#stats = stats;
    this.#refused = refused;
  }

  /** Reads of counters; undefined before the database's address is known. */
  get counters(): CounterStore | undefined {
    return this.#counters;
  }

  /** Removals of counters; undefined before the database's address is known. */
  get deletes(): CounterDeleteStore | undefined {
    return this.#deletes;
  }

  /** Requests with tokens that may still be taken. */
  get idempotencyRoom(): number {
    return this.#idempotencyKeys?.room ?? 0;
  }

  /** What this process may come to have claimed and pending of tokens; 0 before the database's address is known. */
  get idempotencyCeiling(): number {
    return this.#idempotencyKeys?.ceiling ?? 0;
  }

  /**
   * Starts the embedded database or reaches the given one, and migrates. With a journal that outlives the process a
   * database that is away is waited for in the background. Throws StartError where it refuses us, and the reason of
   * `signal` once that is aborted.
   */
  async start(nodeId: string, signal: AbortSignal): Promise<OpenedServerDatabase> {
    const target = await this.#find();
    signal.throwIfAborted();
    const databaseId = await this.#open(target, signal);
    signal.throwIfAborted();
    this.#counters = new CounterStore(target, { applicationName: 'summing-counters reads' });
    const shared = new OnDemandConnection(target, {
      applicationName: 'summing-counters tokens and removals',
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
    });
    this.#shared = shared;
    this.#deletes = new CounterDeleteStore(shared);
    this.#idempotencyKeys = this.#makeIdempotencyKeyStore(shared, nodeId);
    await this.#idempotencyKeys.start();
    return { target, databaseId };
  }

  /** Ends the connections, then the embedded database. */
  async close(): Promise<void> {
    this.#closed = true;
    // Together: what the tokens wait for may be what the connection cuts.
    await Promise.all([this.#idempotencyKeys?.close(), this.#shared?.close()]);
    await this.#counters?.close();
    await this.#embedded?.stop();
  }

  #makeIdempotencyKeyStore(connection: OnDemandConnection, node: string): IdempotencyKeyStore {
    const { shards, journal, idempotencyWindowHours, idempotencyRowsMax } = this.#config;
    return new IdempotencyKeyStore(connection, {
      node,
      memoryShards: journal === 'memory' ? shards : 0,
      windowHours: idempotencyWindowHours,
      rowsMax: idempotencyRowsMax,
      claimed: () => statTotal(this.#stats, shards, STAT.recordedIdempotencyKeys),
      pending: () => statTotal(this.#stats, shards, STAT.pendingIdempotent),
      logger: this.#logger,
    });
  }

  async #find(): Promise<DatabaseTarget> {
    const { databaseUrl, dataDir, shards } = this.#config;
    if (databaseUrl !== undefined) {
      const target = parseDatabaseUrl(databaseUrl);
      this.#logger.info({}, `Database ${describeTarget(target)}`);
      return target;
    }
    const embedded = await startEmbeddedPostgres({ dataDir, logger: this.#logger, maxConnections: 2 * shards + 2 });
    this.#embedded = embedded;
    embedded.onExit((reason) => {
      this.#logger.warn({ reason }, 'The embedded PostgreSQL ended; it is being started again');
    });
    const { pid, version, url } = embedded;
    this.#logger.info({ pid }, `Database: embedded PostgreSQL ${version} in ${dataDir}/postgres`);
    return parseDatabaseUrl(url);
  }

  /** Migrates; returns the database's id, or undefined where it is away and the journal outlives the process. */
  async #open(target: DatabaseTarget, signal: AbortSignal): Promise<string | undefined> {
    const isVolatile = this.#config.journal === 'memory';
    const until = performance.now() + (isVolatile ? MEMORY_START_TIMEOUT_MS : START_TIMEOUT_MS);
    for (;;) {
      const opened = await openDatabase(target, this.#logger);
      if (opened.kind === 'open') return opened.databaseId;
      signal.throwIfAborted();
      const { kind, reason } = opened;
      // With a volatile journal nothing can be taken before the tables are there, and they will be.
      if (performance.now() >= until && !(isVolatile && kind === 'busy')) {
        if (isVolatile) throw new StartError([`The database cannot be reached: ${reason}.`], { exitCode: 1 });
        this.#logger.warn({ reason }, 'The database is away: increments go to the journal until it answers');
        void this.#openLater(target);
        return undefined;
      }
      await this.#pauseAfter(opened);
    }
  }

  /** Waits before the database is tried again, and says why where a person should know. */
  async #pauseAfter({ kind, reason }: Exclude<OpenedDatabase, { kind: 'open' }>): Promise<void> {
    if (kind === 'unavailable') return pause(RETRY_MS);
    const now = performance.now();
    if (now - this.#busyLoggedAtMs >= BUSY_LOG_MS) {
      this.#busyLoggedAtMs = now;
      this.#logger.warn({ reason }, 'The database is in use by others, so that its tables cannot be altered yet');
    }
    return pause(BUSY_RETRY_MS * (1 + 0.5 * Math.random()));
  }

  /** The shards recover once the migrations are there. */
  async #openLater(target: DatabaseTarget): Promise<void> {
    try {
      await pause(RETRY_MS);
      while (!this.#closed) {
        const opened = await openDatabase(target, this.#logger);
        if (opened.kind === 'open') return;
        await this.#pauseAfter(opened);
      }
    } catch (error) {
      this.#refused(reasonOf(error));
    }
  }
}
