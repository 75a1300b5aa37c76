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
import { ServerDatabase, type OpenedServerDatabase } from './server-database.js';
import { HttpServers } from './http-servers.js';
import { StartSteps, type StartStep } from './start-steps.js';
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
  readonly #database: ServerDatabase;
  readonly #httpServers: HttpServers;
  readonly #steps: StartSteps;
  #state: 'starting' | 'serving' | 'stopping' | 'ended' = 'starting';
  #directory: DataDirectory | undefined;
  #opened: OpenedServerDatabase | undefined;
  #supervisor: ShardSupervisor | undefined;
  /** Shards whose last flush the database did not take. */
  readonly #shardsWithoutDatabase = new Set<number>();
  #lastReason = '';

  constructor(config: Config, logger: Logger, exit: (code: number) => void) {
    this.#config = config;
    this.#logger = logger;
    this.#exit = exit;
    this.#stats = makeStats(config.shards);
    this.#database = new ServerDatabase(config, logger, this.#stats, (reason) => {
      this.#fatal(reason, 78);
    });
    const operations = new ServerOperations({
      store: () => this.#database.counters,
      deletes: () => this.#database.deletes,
      supervisor: () => this.#supervisor,
      refusal: () => this.#httpServers.refusal,
      flushing: () => this.#shardsWithoutDatabase.size === 0,
    });
    this.#httpServers = new HttpServers({
      config,
      stats: this.#stats,
      operations,
      idempotencyKeys: this.#database,
      logger,
      lost: (reason) => {
        this.#fatal(reason);
      },
    });
    this.#steps = new StartSteps(this.#startSteps(), logger);
  }

  /** In the order of a start. What is undone in reverse is what a stop does once the shards are drained. */
  #startSteps(): readonly StartStep[] {
    const httpServers = this.#httpServers;
    return [
      {
        name: 'data directory',
        run: () => {
          this.#directory = acquireDataDirectory(this.#config.dataDir);
        },
        undo: () => this.#directory?.release(),
      },
      { name: 'HTTP servers', run: () => this.#listen(), undo: () => httpServers.close() },
      { name: 'database', run: (signal) => this.#openDatabase(signal), undo: () => this.#database.close() },
      { name: 'shards', run: () => this.#startShards() },
      { name: 'HTTP threads', run: () => httpServers.listening() },
      {
        name: 'admission',
        run: () => {
          this.#state = 'serving';
          return httpServers.open();
        },
      },
    ];
  }

  /**
   * Starts everything; a stop meanwhile ends the start without a word. Rejects with StartError where an operator must
   * change something.
   */
  async start(): Promise<void> {
    try {
      if (await this.#steps.run()) this.#logger.info({}, 'Ready');
    } catch (error) {
      this.#state = 'ended';
      await this.#steps.undo();
      throw error;
    }
  }

  async #listen(): Promise<void> {
    const { host, authTokens, tls } = this.#config;
    const logger = this.#logger;
    const { uws, build } = loadUws();
    const port = await this.#httpServers.listen(uws);
    const scheme = tls === undefined ? 'http' : 'https';
    logger.info({ host, port }, `Listening on ${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`);
    logger.info({}, `HTTP by ${build}`);
    if (authTokens.length === 0 && !isLoopback(host)) {
      logger.warn({ host }, 'Anyone who can reach this address may count, read and remove: no AUTH_TOKENS are set');
    }
  }

  async #openDatabase(signal: AbortSignal): Promise<void> {
    const { dataDir } = this.#config;
    const { nodeId } = started(this.#directory);
    this.#logger.info({ dataDir, nodeId }, `Data directory ${dataDir}`);
    for (const warning of configWarnings(this.#config)) this.#logger.warn({}, warning);
    this.#opened = await this.#database.start(nodeId, signal);
  }

  async #startShards(): Promise<void> {
    const { journal, shards } = this.#config;
    const { nodeId } = started(this.#directory);
    const { target, databaseId } = started(this.#opened);
    const httpServers = this.#httpServers;
    this.#supervisor = new ShardSupervisor({
      shards,
      stats: this.#stats,
      taskOf: () => ({ nodeId, databaseUrl: target.url, databaseId, settings: this.#config }),
      httpServers: httpServers.launch(),
      logger: this.#logger,
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
    this.#logger.info(
      { shards, journal },
      `${shards} shard ${shards === 1 ? 'thread' : 'threads'}, journal: ${journal}`,
    );
    if (journal === 'memory') {
      this.#logger.warn(
        {},
        'The memory journal keeps nothing: what is not yet in PostgreSQL is lost when the process ends',
      );
    }
  }

  /** Drains and exits 0: answers what is in flight, flushes, lets go of everything. Idempotent. */
  async stop(): Promise<void> {
    if (this.#state === 'stopping' || this.#state === 'ended') return;
    const wasServing = this.#state === 'serving';
    this.#state = 'stopping';
    this.#httpServers.announceDrain();
    this.#steps.abort();
    const deadline = setTimeout(() => {
      this.abandon(`the shutdown deadline of ${this.#config.shutdownTimeoutMs} ms`);
    }, this.#config.shutdownTimeoutMs);
    deadline.unref();
    try {
      const code = wasServing ? await this.#drain() : 0;
      const isClosed = await this.#steps.undo();
      this.end(isClosed ? code : 1);
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
    this.#steps.abort();
    const exit = (): void => {
      this.#exit(code);
    };
    if (this.#httpServers.hasThreads) this.#httpServers.close().then(exit, exit);
    else exit();
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
    await this.#httpServers.drain();
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

  /** Something that cannot be repaired while we run: stop accepting, end non-zero. */
  #fatal(reason: string, exitCode = 1): void {
    if (this.#state === 'ended') return;
    this.#httpServers.refuse('journal-unavailable');
    process.stderr.write(`summing-counters: ${reason}\n`);
    this.#logger.error({}, reason);
    const { pending } = conservation(this.#stats, this.#config.shards);
    if (pending > 0) this.#logger.error({ pending }, this.#fateOf(pending));
    this.#state = 'ended';
    void this.#steps.undo().then(() => {
      this.#exit(exitCode);
    });
  }
}

/** What an earlier step has made. */
function started<T>(made: T | undefined): T {
  if (made === undefined) throw new TypeError('a step of the start runs before the one that it needs');
  return made;
}
