/** The given or embedded database of the server: its opening, and the connections of the main thread. Main thread. */
import type { Config } from '../config/config.js';
import { journalKinds } from '../config/journal-kind.js';
import { pause } from '../core/clock.js';
import { describeTarget, parseDatabaseUrl, type DatabaseTarget } from '../db/connection.js';
import { CounterStore } from '../db/counter-store.js';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../db/embedded/embedded-postgres.js';
import type { DatabaseProblem } from '../db/database-problem.js';
import { OnDemandConnection } from '../db/on-demand-connection.js';
import { openDatabase, type OpenedDatabase } from '../db/schema/open-database.js';
import { AbsentStreams, type FinishedStream } from '../db/absent-streams.js';
import { CounterDeleteStore } from '../db/counter-delete-store.js';
import { IdempotencyKeyStore } from '../db/idempotency-key-store.js';
import { CounterError, StartError, reasonOf } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { streamsOnDisk } from './data-directory.js';
import { UNKNOWN_STREAMS } from '../db/identity-statements.js';
import { STAT, statTotal } from '../shard-worker/protocol/stats.js';

/** How long a start with the memory journal waits for the database. */
const MEMORY_START_TIMEOUT_MS = 30_000;
/**
 * With another journal, the start waits for the database until this long after the start of the process, then continues without
 * it. Attempts to connect end by then. So the first increment is taken within 3 s, even if the database accepts connections and
 * never answers.
 */
const START_UNTIL_MS = 2_000;
/** Least wait, however long the process took to get here. */
const START_TIMEOUT_MIN_MS = 1_000;
/** Least time for an attempt to connect. */
const CONNECT_TIMEOUT_MIN_MS = 250;
const RETRY_MS = 500;
/**
 * Wait between attempts to alter a table that other sessions use, because each attempt blocks them. Up to half of it is added
 * at random, so that nodes do not try together.
 */
const BUSY_RETRY_MS = 1_000;
/** How often the log reports that a migration still waits. */
const BUSY_LOG_MS = 30_000;
const CONNECT_TIMEOUT_MS = 2_000;

/** A database whose address is known. */
export interface OpenedServerDatabase {
  readonly target: DatabaseTarget;
  /** Undefined if the database was unavailable. */
  readonly databaseId: string | undefined;
}

/** What the database tells the process about a start without it. */
export interface ServerDatabaseEvents {
  /** The start continues without the database, or the cause has changed. */
  unavailable(problem: DatabaseProblem): void;
  /** The database answers and has its tables. */
  available(): void;
  /** The database became available after the start and refuses the server. */
  refused(reason: string): void;
}

/** The streams of this process. */
export interface ProcessStreams {
  /** Streams that a shard owns. */
  readonly streams: readonly string[];
  readonly finished: ReadonlyMap<string, FinishedStream>;
}

/** The database of the server. */
export class ServerDatabase {
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #stats: SharedArrayBuffer;
  readonly #events: ServerDatabaseEvents;
  #embedded: EmbeddedPostgres | undefined;
  #counters: CounterStore | undefined;
  #deletes: CounterDeleteStore | undefined;
  #idempotencyKeys: IdempotencyKeyStore | undefined;
  #shared: OnDemandConnection | undefined;
  #closed = false;
  #problem: DatabaseProblem | undefined;
  #id: string | undefined;
  /** Why the last attempt of the start failed. */
  #startReason = '';
  #busyLoggedAtMs = Number.NEGATIVE_INFINITY;

  constructor(config: Config, logger: Logger, stats: SharedArrayBuffer, events: ServerDatabaseEvents) {
    this.#config = config;
    this.#logger = logger;
    this.#stats = stats;
    this.#events = events;
  }

  /** Why the start waits for the database; '' if it does not. */
  get startReason(): string {
    return this.#startReason;
  }

  /** From its first migration; undefined until it has answered. */
  get id(): string | undefined {
    return this.#id;
  }

  /** Those of the streams that have no row. Rejects with CounterError `database-unavailable`. */
  async unknownStreams(streams: readonly string[]): Promise<readonly string[]> {
    if (this.#shared === undefined) throw new TypeError('the address of the database is not known yet');
    const statement = { text: UNKNOWN_STREAMS, values: [streams] };
    try {
      const rows = await this.#shared.run((connection) => connection.query<{ stream: string }>(statement));
      return rows.map(({ stream }) => stream);
    } catch (error) {
      if (error instanceof CounterError) throw error;
      throw new CounterError('database-unavailable', `The database is unavailable: ${reasonOf(error)}`, {
        cause: error,
      });
    }
  }

  /** Why the start continued without the database; undefined once that has its tables. */
  get problem(): DatabaseProblem | undefined {
    return this.#problem;
  }

  /** Reads counters. Undefined until the address of the database is known. */
  get counters(): CounterStore | undefined {
    return this.#counters;
  }

  /** Deletes counters. Undefined until the address of the database is known. */
  get deletes(): CounterDeleteStore | undefined {
    return this.#deletes;
  }

  /** How many more idempotent requests may be taken. */
  get idempotencyRoom(): number {
    return this.#idempotencyKeys?.room ?? 0;
  }

  /** How many idempotency keys this process may have recorded and pending; 0 until the database's address is known. */
  get idempotencyCeiling(): number {
    return this.#idempotencyKeys?.ceiling ?? 0;
  }

  /** About the rows of the table of idempotency keys, as of the last count; 0 until the database's address is known. */
  get idempotencyRows(): number {
    return this.#idempotencyKeys?.rows ?? 0;
  }

  /** How far the oldest open stream held back the pruning of idempotency keys, in the last round of this node's pruner. */
  get pruningHeldSeconds(): number {
    return this.#idempotencyKeys?.heldSeconds ?? 0;
  }

  /**
   * Starts the embedded database or connects to the given one, and migrates it. If the given one is unavailable and the
   * journal outlives the process, the start continues and the migration is retried in the background. Rejects with
   * StartError if the database refuses the server, and with the reason of `signal` once that is aborted.
   */
  async start(nodeId: string, streams: ProcessStreams, signal: AbortSignal): Promise<OpenedServerDatabase> {
    const target = await this.#find();
    signal.throwIfAborted();
    const databaseId = await this.#open(target, signal);
    signal.throwIfAborted();
    this.#counters = new CounterStore(target, { applicationName: 'summing-counters reads', logger: this.#logger });
    const shared = new OnDemandConnection(target, {
      applicationName: 'summing-counters deletes and idempotency keys',
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
    });
    this.#shared = shared;
    this.#deletes = new CounterDeleteStore(shared);
    this.#idempotencyKeys = this.#makeIdempotencyKeyStore(shared, nodeId, streams);
    const counted = this.#idempotencyKeys.start();
    // Without the database, the count would end in another timeout.
    if (databaseId !== undefined) await counted;
    return { target, databaseId };
  }

  /** Closes the connections, then stops the embedded database. */
  async close(): Promise<void> {
    this.#closed = true;
    // Together, because the store of idempotency keys may be waiting on the connection.
    await Promise.all([this.#idempotencyKeys?.close(), this.#shared?.close()]);
    await this.#counters?.close();
    await this.#embedded?.stop();
  }

  #makeIdempotencyKeyStore(connection: OnDemandConnection, node: string, streams: ProcessStreams): IdempotencyKeyStore {
    const { shards, journal, idempotencyWindowHours, idempotencyRowsMax, streamExpiryDays, journalKeepSeconds } =
      this.#config;
    return new IdempotencyKeyStore(connection, {
      windowHours: idempotencyWindowHours,
      expiryDays: streamExpiryDays,
      ...(journalKinds[journal].isInDatabase && { logKeepSeconds: journalKeepSeconds }),
      rowsMax: idempotencyRowsMax,
      recorded: () => statTotal(this.#stats, shards, STAT.recordedIdempotencyKeys),
      pending: () => statTotal(this.#stats, shards, STAT.pendingIdempotent),
      ...(journalKinds[journal].isInDirectory && { absentStreams: this.#makeAbsentStreams(node, streams) }),
      logger: this.#logger,
    });
  }

  #makeAbsentStreams(node: string, streams: ProcessStreams): AbsentStreams {
    const { dataDir } = this.#config;
    const here = (): readonly string[] | undefined => {
      const onDisk = streamsOnDisk(dataDir);
      return onDisk && [...onDisk, ...streams.streams];
    };
    return new AbsentStreams({ node, here, finished: () => streams.finished, logger: this.#logger });
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
      this.#logger.warn({ reason }, 'The embedded PostgreSQL ended; restarting it');
    });
    const { pid, version, url } = embedded;
    this.#logger.info({ pid }, `Database: embedded PostgreSQL ${version} in ${dataDir}/postgres`);
    return parseDatabaseUrl(url);
  }

  /**
   * Migrates. Resolves to the database's id, or to undefined if it is unavailable and the journal outlives the process.
   */
  async #open(target: DatabaseTarget, signal: AbortSignal): Promise<string | undefined> {
    const { isVolatile } = journalKinds[this.#config.journal];
    // On the main thread, performance.now() counts from the start of the process.
    const now = performance.now();
    const until = isVolatile ? now + MEMORY_START_TIMEOUT_MS : Math.max(START_UNTIL_MS, now + START_TIMEOUT_MIN_MS);
    for (;;) {
      const leftMs = Math.round(until - performance.now());
      const connectTimeoutMs = Math.min(CONNECT_TIMEOUT_MS, Math.max(leftMs, CONNECT_TIMEOUT_MIN_MS));
      const opened = await openDatabase(target, this.#logger, this.#config, connectTimeoutMs);
      this.#startReason = opened.kind === 'open' ? '' : opened.reason;
      if (opened.kind === 'open') return (this.#id = opened.databaseId);
      signal.throwIfAborted();
      const { kind, reason, problem } = opened;
      // Without the tables, a volatile journal cannot take increments. A busy database will have them in time.
      if (performance.now() + RETRY_MS >= until && !(isVolatile && kind === 'busy')) {
        if (isVolatile)
          throw new StartError([`The database is unavailable: ${reason}. Check DATABASE_URL and PostgreSQL.`], {
            exitCode: 1,
          });
        this.#problem = problem;
        this.#events.unavailable(problem);
        void this.#openLater(target);
        return undefined;
      }
      await this.#pauseAfter(opened);
    }
  }

  /** Waits before the next attempt. Sometimes logs why a migration waits. */
  async #pauseAfter({ kind, reason }: Exclude<OpenedDatabase, { kind: 'open' }>): Promise<void> {
    if (kind === 'unavailable') return pause(RETRY_MS);
    const now = performance.now();
    if (now - this.#busyLoggedAtMs >= BUSY_LOG_MS) {
      this.#busyLoggedAtMs = now;
      this.#logger.warn({ reason }, 'Other sessions use the tables; the migration waits and will retry');
    }
    return pause(BUSY_RETRY_MS * (1 + 0.5 * Math.random()));
  }

  /** Migrates in the background. The shards recover once the tables exist. */
  async #openLater(target: DatabaseTarget): Promise<void> {
    try {
      await pause(RETRY_MS);
      while (!this.#closed) {
        const opened = await openDatabase(target, this.#logger, this.#config);
        if (opened.kind === 'open') {
          this.#problem = undefined;
          this.#id = opened.databaseId;
          this.#events.available();
          return;
        }
        if (opened.problem.cause !== this.#problem?.cause) this.#events.unavailable(opened.problem);
        this.#problem = opened.problem;
        await this.#pauseAfter(opened);
      }
    } catch (error) {
      this.#events.refused(reasonOf(error));
    }
  }
}
