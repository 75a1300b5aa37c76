/**
 * The life of the process, from the lock on the data directory to the exit code. Main thread.
 *
 * ```text
 * starting ──start()──► serving ──stop()──► stopping ──► ended (exit 0, or what went wrong)
 *     └──────────────────────┴──fatal──► ended (exit 1)
 * ```
 */
import type { Config } from './config.js';
import { CounterNode } from './counter-node.js';
import { acquireDataDirectory, type DataDirectory } from './data-directory.js';
import { CounterStore } from './db/counter-store.js';
import { describeTarget, parseDatabaseUrl, type DatabaseTarget } from './db/connection.js';
import { startEmbeddedPostgres, type EmbeddedPostgres } from './db/embedded.js';
import { openDatabase } from './db/open-database.js';
import { TokenStore } from './db/token-store.js';
import { StartError, type ErrorCode } from './errors.js';
import { FrontEnd } from './http/front-end.js';
import { loadUws } from './http/uws.js';
import type { Logger } from './logger.js';
import { conservation, gaugeTotal } from './shard-worker/conservation.js';
import { GAUGE, makeGauges, type PendingRange } from './shard-worker/messages.js';
import { ShardClient } from './shard-worker/shard-client.js';
import { ShardRouter } from './shard-worker/shard-router.js';
import { ShardSupervisor } from './shard-worker/shard-supervisor.js';

/** Bytes posted to one shard and not yet answered: the bound of what waits on its port. */
const WINDOW_BYTES_MAX = 16 * 1024 * 1024;
/** How long a start with a journal that does not outlive the process waits for the database. */
const MEMORY_DATABASE_PATIENCE_MS = 30_000;
/** How long any start waits for the database before it goes on without. */
const DATABASE_PATIENCE_MS = 3_000;
const DATABASE_RETRY_MS = 500;
const IN_FLIGHT_CHECK_MS = 5;
/** How long a stop waits for bodies of which nothing has come. */
const BODY_PATIENCE_MS = 1_000;

/** The server as one process. */
export class ServerProcess {
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #exit: (code: number) => void;
  readonly #gauges: SharedArrayBuffer;
  readonly #clients: readonly ShardClient[];
  readonly #router: ShardRouter;
  readonly #node: CounterNode;
  #state: 'starting' | 'serving' | 'stopping' | 'ended' = 'starting';
  #refusal: ErrorCode | undefined = 'starting';
  #directory: DataDirectory | undefined;
  #frontEnd: FrontEnd | undefined;
  #embedded: EmbeddedPostgres | undefined;
  #store: CounterStore | undefined;
  #tokens: TokenStore | undefined;
  #supervisor: ShardSupervisor | undefined;
  #expiry: NodeJS.Timeout | undefined;
  /** Shards whose last flush the database did not take. */
  readonly #shardsAway = new Set<number>();
  #lastReason = '';

  constructor(config: Config, logger: Logger, exit: (code: number) => void) {
    this.#config = config;
    this.#logger = logger;
    this.#exit = exit;
    this.#gauges = makeGauges(config.shards);
    this.#clients = Array.from({ length: config.shards }, () => new ShardClient());
    this.#router = new ShardRouter(this.#clients, this.#gauges, {
      pendingKeysMax: config.pendingKeysMax,
      pendingBytesMax: config.pendingBytesMax,
      journalBytesMax: config.journal === 'memory' ? Number.POSITIVE_INFINITY : config.journalBytesMax,
      windowBytesMax: WINDOW_BYTES_MAX,
      ackTimeoutMs: config.ackTimeoutMs,
      tokenRoom: () => this.#tokens?.room ?? 0,
    });
    this.#node = new CounterNode({
      store: () => this.#store,
      supervisor: () => this.#supervisor,
      refusal: () => this.#refusal ?? this.#router.closedDoor,
      flushing: () => this.#shardsAway.size === 0,
    });
  }

  /**
   * Starts everything; a stop meanwhile ends the start without a word. Rejects with StartError where an operator must
   * change something.
   */
  async start(): Promise<void> {
    try {
      await this.#startParts();
    } catch (error) {
      if (this.#isStarting()) throw error;
    }
  }

  async #startParts(): Promise<void> {
    const { dataDir, journal, shards, host } = this.#config;
    const logger = this.#logger;
    this.#directory = acquireDataDirectory(dataDir);
    const { nodeId } = this.#directory;
    const { uws, build } = loadUws();
    const frontEnd = this.#makeFrontEnd(uws);
    this.#frontEnd = frontEnd;
    const port = await frontEnd.listen();
    const scheme = this.#config.tls === undefined ? 'http' : 'https';
    logger.info({ host, port }, `Listening on ${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`);
    logger.info({}, `HTTP by ${build}`);
    logger.info({ dataDir, nodeId }, `Data directory ${dataDir}`);
    const target = await this.#findDatabase();
    if (!this.#isStarting()) return;
    const databaseId = await this.#openDatabase(target);
    if (!this.#isStarting()) return;
    this.#store = new CounterStore(target, { applicationName: 'summing-counters reads' });
    this.#tokens = this.#makeTokenStore(target, nodeId);
    await this.#tokens.start();
    if (!this.#isStarting()) return;
    this.#supervisor = new ShardSupervisor({
      shards,
      gauges: this.#gauges,
      taskOf: () => ({
        nodeId,
        databaseUrl: target.url,
        databaseId,
        settings: this.#config,
      }),
      clients: [this.#clients],
      logger,
      events: {
        door: (shard, door) => {
          this.#router.setDoor(shard, door);
        },
        fatal: (reason) => {
          this.#fatal(reason);
        },
        database: (shard, available, reason) => {
          this.#noticeDatabase(shard, available, reason);
        },
      },
    });
    await this.#supervisor.start();
    if (!this.#isStarting()) return;
    logger.info({ shards, journal }, `${shards} shard ${shards === 1 ? 'thread' : 'threads'}, journal: ${journal}`);
    if (journal === 'memory') {
      logger.warn({}, 'The memory journal keeps nothing: what is not yet in PostgreSQL is lost when the process ends');
    }
    const sweepMs = Math.max(10, Math.min(250, this.#config.ackTimeoutMs / 4));
    this.#expiry = setInterval(() => {
      this.#router.expire(Date.now());
    }, sweepMs);
    this.#state = 'serving';
    this.#refusal = undefined;
    frontEnd.accept();
    logger.info({}, 'Ready');
  }

  /** Drains and exits 0: answers what is in flight, flushes, lets go of everything. Idempotent. */
  async stop(): Promise<void> {
    if (this.#state === 'stopping' || this.#state === 'ended') return;
    const wasServing = this.#state === 'serving';
    this.#state = 'stopping';
    this.#refusal = 'draining';
    const deadline = setTimeout(() => {
      this.abandon(`the shutdown deadline of ${this.#config.shutdownTimeoutMs} ms`);
    }, this.#config.shutdownTimeoutMs);
    deadline.unref();
    try {
      const code = wasServing ? await this.#drain() : 0;
      await this.#letGo();
      this.#end(code);
    } catch (error) {
      this.#logger.error({ err: error }, 'The shutdown failed; the journal keeps what was not flushed');
      this.#end(1);
    }
  }

  /** Ends at once with exit code 1; what was not flushed stays in the journal. */
  abandon(why: string): void {
    const left = conservation(this.#gauges, this.#config.shards);
    this.#logger.error({ pending: left.pending }, `Ending now because of ${why}; ${this.#fateOf(left.pending)}`);
    this.#end(1);
  }

  /** False once a stop or a failure has begun. */
  #isStarting(): boolean {
    return this.#state === 'starting';
  }

  #makeFrontEnd(uws: ReturnType<typeof loadUws>['uws']): FrontEnd {
    const { host, port, bodyBytesMax, keyBytesMax, tls } = this.#config;
    return new FrontEnd({
      uws,
      host,
      port,
      tls,
      limits: { bodyBytesMax, keyBytesMax },
      receiver: this.#router,
      operations: this.#node,
      onBug: (error) => {
        this.#logger.error({ err: error }, 'A request met a bug of ours');
      },
    });
  }

  #makeTokenStore(target: DatabaseTarget, node: string): TokenStore {
    const { shards, idempotencyWindowHours, idempotencyRowsMax } = this.#config;
    return new TokenStore(target, {
      node,
      windowHours: idempotencyWindowHours,
      rowsMax: idempotencyRowsMax,
      claimed: () => gaugeTotal(this.#gauges, shards, GAUGE.claimedTokens),
      pending: () => gaugeTotal(this.#gauges, shards, GAUGE.pendingTokens),
      logger: this.#logger,
    });
  }

  async #findDatabase(): Promise<DatabaseTarget> {
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
    const target = parseDatabaseUrl(embedded.url);
    this.#logger.info(
      { pid: embedded.pid },
      `Database: embedded PostgreSQL ${embedded.version} in ${dataDir}/postgres`,
    );
    return target;
  }

  /** Migrates; returns the database's id, or undefined where it is away and the journal outlives the process. */
  async #openDatabase(target: DatabaseTarget): Promise<string | undefined> {
    const volatile = this.#config.journal === 'memory';
    const until = performance.now() + (volatile ? MEMORY_DATABASE_PATIENCE_MS : DATABASE_PATIENCE_MS);
    for (;;) {
      const opened = await openDatabase(target, this.#logger);
      if (opened.kind === 'open') return opened.databaseId;
      if (!this.#isStarting()) return undefined;
      if (performance.now() >= until) {
        if (volatile) {
          throw new StartError([`The database cannot be reached: ${opened.reason}.`], { exitCode: 1 });
        }
        this.#logger.warn(
          { reason: opened.reason },
          'The database is away: increments go to the journal until it answers',
        );
        void this.#openDatabaseLater(target);
        return undefined;
      }
      await pause(DATABASE_RETRY_MS);
    }
  }

  /** The shards recover once the migrations are there. */
  async #openDatabaseLater(target: DatabaseTarget): Promise<void> {
    try {
      while (this.#state !== 'ended') {
        await pause(DATABASE_RETRY_MS);
        if ((await openDatabase(target, this.#logger)).kind === 'open') return;
      }
    } catch (error) {
      this.#fatal(error instanceof StartError ? error.message : String(error), error instanceof StartError ? 78 : 1);
    }
  }

  #noticeDatabase(shard: number, available: boolean, reason: string): void {
    if (available) this.#shardsAway.delete(shard);
    else this.#shardsAway.add(shard);
    if (available) this.#logger.info({ shard }, 'The database is back');
    else this.#logger.warn({ shard, reason }, 'The database is away; increments stay pending');
    this.#lastReason = reason;
  }

  /** Answers what is in flight, then drains the shards. Returns the exit code. */
  async #drain(): Promise<number> {
    if (this.#config.drainDelayMs > 0) await pause(this.#config.drainDelayMs);
    this.#frontEnd?.drain();
    const bodiesUntil = performance.now() + BODY_PATIENCE_MS;
    while (this.#isAnswering() || (this.#awaitsBodies() && performance.now() < bodiesUntil)) {
      await pause(IN_FLIGHT_CHECK_MS);
    }
    if (this.#awaitsBodies()) {
      const requests = this.#frontEnd?.incrementsInFlight;
      this.#logger.warn({ requests }, 'Requests whose body does not come are not waited for');
    }
    const left = (await this.#supervisor?.drain()) ?? [];
    return this.#report(left);
  }

  /** True while requests that were taken in are without their answer. */
  #isAnswering(): boolean {
    return !this.#router.isIdle || (this.#frontEnd?.operationsInFlight ?? 0) > 0;
  }

  /** True while there are increments of which nothing but the head has come: none of them was taken in. */
  #awaitsBodies(): boolean {
    return (this.#frontEnd?.incrementsInFlight ?? 0) > 0;
  }

  #report(left: readonly PendingRange[]): number {
    const balance = conservation(this.#gauges, this.#config.shards);
    if (balance.difference !== 0) {
      this.#logger.error({ ...balance }, 'A bug: increments do not add up at shutdown');
    }
    if (left.length === 0) {
      this.#logger.info({ ...balance }, 'Everything that was acknowledged is committed');
      return balance.difference === 0 ? 0 : 70;
    }
    const pending = left.reduce((total, range) => total + range.increments, 0);
    const fields = { ranges: left, pending, reason: this.#lastReason };
    if (this.#config.journal === 'memory') this.#logger.error(fields, this.#fateOf(pending));
    else this.#logger.warn(fields, this.#fateOf(pending));
    return this.#config.journal === 'memory' ? 1 : 0;
  }

  #fateOf(pending: number): string {
    return this.#config.journal === 'memory'
      ? `${pending} acknowledged increments are lost`
      : `${pending} acknowledged increments stay in the journal for the next start`;
  }

  async #letGo(): Promise<void> {
    if (this.#expiry !== undefined) clearInterval(this.#expiry);
    await this.#tokens?.close();
    await this.#store?.close();
    await this.#embedded?.stop();
    this.#frontEnd?.close();
    this.#directory?.release();
  }

  /** Something that cannot be repaired while we run: stop accepting, end non-zero. */
  #fatal(reason: string, exitCode = 1): void {
    if (this.#state === 'ended') return;
    this.#refusal = 'journal-unavailable';
    this.#frontEnd?.setGate('journal-unavailable');
    process.stderr.write(`summing-counters: ${reason}\n`);
    this.#logger.error({}, reason);
    this.#state = 'ended';
    const finish = (): void => {
      this.#exit(exitCode);
    };
    this.#letGo().then(finish, finish);
  }

  #end(code: number): void {
    this.#state = 'ended';
    this.#exit(code);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
