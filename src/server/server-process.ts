/**
 * The life of the process, from the lock on the data directory to the exit code. Main thread.
 *
 * ```text
 * starting ──start()──► serving ──stop()──► stopping ──► ended (exit 0, or what went wrong)
 *     └──────────────────────┴──fatal──► ended (exit 1)
 * ```
 */
import { configWarnings, type Config } from '../config/config.js';
import { pause } from '../core/clock.js';
import { ServerOperations } from './server-operations.js';
import { acquireDataDirectory, type DataDirectory } from './data-directory.js';
import { ServerDatabase } from './server-database.js';
import type { ErrorCode } from '../core/errors.js';
import { HttpServers } from './http-servers.js';
import { isLoopback } from '../http/access.js';
import { loadUws } from '../http/uws.js';
import type { Logger } from '../core/logger.js';
import { conservation, makeStats } from '../shard-worker/protocol/stats.js';
import type { PendingRange } from '../shard-worker/protocol/control-messages.js';
import { ShardSupervisor } from '../shard-worker/supervisor/shard-supervisor.js';

/** The server as one process. */
export class ServerProcess {
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #exit: (code: number) => void;
  readonly #stats: SharedArrayBuffer;
  readonly #operations: ServerOperations;
  readonly #database: ServerDatabase;
  #state: 'starting' | 'serving' | 'stopping' | 'ended' = 'starting';
  #refusal: ErrorCode | undefined = 'starting';
  #directory: DataDirectory | undefined;
  #httpServers: HttpServers | undefined;
  #supervisor: ShardSupervisor | undefined;
  /** Shards whose last flush the database did not take. */
  readonly #shardsWithoutDatabase = new Set<number>();
  #lastReason = '';

  constructor(config: Config, logger: Logger, exit: (code: number) => void) {
    this.#config = config;
    this.#logger = logger;
    this.#exit = exit;
    this.#stats = makeStats(config.shards);
    this.#database = new ServerDatabase(config, logger, this.#stats, {
      refused: (reason) => {
        this.#fatal(reason, 78);
      },
      isStarting: () => this.#isStarting(),
    });
    this.#operations = new ServerOperations({
      store: () => this.#database.counters,
      deletes: () => this.#database.deletes,
      supervisor: () => this.#supervisor,
      refusal: () => this.#refusal ?? this.#httpServers?.refusal,
      flushing: () => this.#shardsWithoutDatabase.size === 0,
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
      if (!this.#isStarting()) return;
      this.#state = 'ended';
      await this.#close().catch((reason: unknown) => {
        this.#logger.error({ err: reason }, 'What the start had made could not all be let go of');
      });
      throw error;
    }
  }

  async #startParts(): Promise<void> {
    const { dataDir, journal, shards, host, authTokens } = this.#config;
    const logger = this.#logger;
    this.#directory = acquireDataDirectory(dataDir);
    const { nodeId } = this.#directory;
    const { uws, build } = loadUws();
    const httpServers = this.#makeHttpServers(uws);
    this.#httpServers = httpServers;
    const port = await httpServers.listen();
    if (!this.#isStarting()) return;
    const scheme = this.#config.tls === undefined ? 'http' : 'https';
    logger.info({ host, port }, `Listening on ${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`);
    logger.info({}, `HTTP by ${build}`);
    if (authTokens.length === 0 && !isLoopback(host)) {
      logger.warn({ host }, 'Anyone who can reach this address may count, read and remove: no AUTH_TOKENS are set');
    }
    logger.info({ dataDir, nodeId }, `Data directory ${dataDir}`);
    for (const warning of configWarnings(this.#config)) logger.warn({}, warning);
    const database = await this.#database.start(nodeId);
    if (database === undefined || !this.#isStarting()) return;
    this.#supervisor = new ShardSupervisor({
      shards,
      stats: this.#stats,
      taskOf: () => ({
        nodeId,
        databaseUrl: database.target.url,
        databaseId: database.databaseId,
        settings: this.#config,
      }),
      httpServers: httpServers.launch(),
      logger,
      events: {
        admission: (shard, admission) => {
          httpServers.setShardAdmission(shard, admission);
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
    await httpServers.listening();
    if (!this.#isStarting()) return;
    this.#state = 'serving';
    this.#refusal = undefined;
    await httpServers.accept();
    if (!this.#isServing()) return;
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
      await this.#close();
      this.end(code);
    } catch (error) {
      this.#logger.error({ err: error }, 'The shutdown failed; the journal keeps what was not flushed');
      this.end(1);
    }
  }

  /** Ends at once with exit code 1; what was not flushed stays in the journal. */
  abandon(why: string): void {
    const pending = conservation(this.#stats, this.#config.shards).pending + this.#unread;
    this.#logger.error({ pending }, `Ending now because of ${why}; ${this.#fateOf(pending)}`);
    this.end(1);
  }

  /** Ends the process with a code, and with nothing more than that: front ends of other threads have to be closed before. */
  end(code: number): void {
    this.#state = 'ended';
    const exit = (): void => {
      this.#exit(code);
    };
    if (this.#httpServers?.hasThreads === true) this.#httpServers.close().then(exit, exit);
    else exit();
  }

  /** False once a stop or a failure has begun. */
  #isStarting(): boolean {
    return this.#state === 'starting';
  }

  #isServing(): boolean {
    return this.#state === 'serving';
  }

  #makeHttpServers(uws: ReturnType<typeof loadUws>['uws']): HttpServers {
    return new HttpServers({
      config: this.#config,
      uws,
      stats: this.#stats,
      operations: this.#operations,
      idempotencyKeys: this.#database,
      logger: this.#logger,
      lost: (reason) => {
        this.#fatal(reason);
      },
    });
  }

  #noticeDatabase(shard: number, available: boolean, reason: string): void {
    if (available) this.#shardsWithoutDatabase.delete(shard);
    else this.#shardsWithoutDatabase.add(shard);
    if (available) this.#logger.info({ shard }, 'The database is back');
    else this.#logger.warn({ shard, reason }, 'The database is away; increments stay pending');
    this.#lastReason = reason;
  }

  /** Answers what is in flight, then drains the shards. Returns the exit code. */
  async #drain(): Promise<number> {
    if (this.#config.drainDelayMs > 0) await pause(this.#config.drainDelayMs);
    await this.#httpServers?.drain();
    const left = (await this.#supervisor?.drain()) ?? [];
    return this.#report(left);
  }

  #report(left: readonly PendingRange[]): number {
    const balance = conservation(this.#stats, this.#config.shards);
    const isMemory = this.#config.journal === 'memory';
    // With the memory journal also what was lost when a shard ended earlier.
    const pending = left.reduce((total, range) => total + range.increments, this.#unread + balance.lost);
    if (left.length === 0 && pending === 0) {
      this.#logger.info({ ...balance }, 'Everything that was acknowledged is committed');
    } else {
      const unread = left.filter(({ throughLsn }) => throughLsn === undefined).length;
      const earlier = unread === 0 ? '' : `, with what the journal holds of earlier runs (${unread} streams, not read)`;
      const fields = { ranges: left, pending, reason: this.#lastReason };
      if (isMemory) this.#logger.error(fields, this.#fateOf(pending));
      else this.#logger.warn(fields, this.#fateOf(pending) + earlier);
    }
    if (balance.difference !== 0) {
      this.#logger.error({ ...balance }, 'A bug: increments do not add up at shutdown');
      return 70;
    }
    return isMemory && (left.length > 0 || pending > 0) ? 1 : 0;
  }

  /** Acknowledged increments in the journals of shards that ended and were not recovered yet. */
  get #unread(): number {
    return this.#supervisor?.unread ?? 0;
  }

  #fateOf(pending: number): string {
    return this.#config.journal === 'memory'
      ? `${pending} acknowledged increments are lost`
      : `${pending} acknowledged increments stay in the journal for the next start`;
  }

  async #close(): Promise<void> {
    try {
      await this.#database.close();
    } finally {
      await this.#httpServers?.close();
      this.#directory?.release();
    }
  }

  /** Something that cannot be repaired while we run: stop accepting, end non-zero. */
  #fatal(reason: string, exitCode = 1): void {
    if (this.#state === 'ended') return;
    this.#refusal = 'journal-unavailable';
    this.#httpServers?.setAdmission('journal-unavailable');
    process.stderr.write(`summing-counters: ${reason}\n`);
    this.#logger.error({}, reason);
    const { pending } = conservation(this.#stats, this.#config.shards);
    if (pending > 0) this.#logger.error({ pending }, this.#fateOf(pending));
    this.#state = 'ended';
    const finish = (): void => {
      this.#exit(exitCode);
    };
    this.#close().then(finish, finish);
  }
}
