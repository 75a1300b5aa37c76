/**
 * The life of the process, from the lock on the data directory to the exit code. Main thread.
 *
 * ```text
 * starting ──all steps done──► serving ──stop()──► stopping ──► ended (exit 0, or the code of a failure)
 *     │──────────────────────stop()─────────────────────▲
 *     └──step fails, fatal error──────┴──fatal error────┴──fatal error──► ended (exit 1 or 78)
 *
 * start: data directory → listen (probes only) → shard threads → broker, database, migrations → shards recover → HTTP
 *        threads → admission open
 * stop:  readiness 503 → [drain delay] → stop listening → answer requests in flight → drain shards → close database
 *        → close HTTP servers → release data directory
 * ```
 */
import { boundSentences } from '../config/bound-sentences.js';
import { configWarnings, isSharedJournal, type Config, type ReloadedConfig } from '../config/config.js';
import { descriptorLimit, ownDescriptors } from '../config/descriptor-limit.js';
import { pause, systemClock } from '../core/clock.js';
import { ConnectionLimit } from './connection-limit.js';
import { rejectedSentence, ServerOperations } from './server-operations.js';
import { acquireDataDirectory, finishInterruptedRebind, type DataDirectory } from './data-directory.js';
import { DatabaseAvailability } from './database-availability.js';
import { ServerDatabase, type OpenedServerDatabase } from './server-database.js';
import { HttpServers } from './http-servers.js';
import { openJournalElsewhere, type JournalElsewhere } from './journal-elsewhere.js';
import { ServerMetrics } from './metrics/server-metrics.js';
import { RegularLog } from './regular-log.js';
import { Reload } from './reload.js';
import { ServerDashboard } from './dashboard/server-dashboard.js';
import { StartSteps, type StartStep } from './start-steps.js';
import { isLoopback } from '../http/access.js';
import { makeRequestStats } from '../http/request-stats.js';
import { loadUws } from '../http/uws.js';
import { versionsWith } from '../http/version.js';
import type { Logger } from '../core/logger.js';
import { makeBatchStats } from '../shard-worker/client/batch-stats.js';
import { conservation, makeStats, STAT, statTotal } from '../shard-worker/protocol/stats.js';
import type { PendingRange } from '../shard-worker/protocol/control-messages.js';
import { ShardSupervisor } from '../shard-worker/supervisor/shard-supervisor.js';

/** The server as one process. */
export class ServerProcess {
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #exit: (code: number) => void;
  readonly #stats: SharedArrayBuffer;
  readonly #requestStats: SharedArrayBuffer;
  readonly #batchStats: SharedArrayBuffer;
  readonly #database: ServerDatabase;
  readonly #operations: ServerOperations;
  readonly #httpServers: HttpServers;
  readonly #connectionLimit: ConnectionLimit;
  readonly #steps: StartSteps;
  readonly #reload: Reload;
  #state: 'starting' | 'serving' | 'stopping' | 'ended' = 'starting';
  #directory: DataDirectory | undefined;
  #opened: OpenedServerDatabase | undefined;
  #elsewhere: JournalElsewhere | undefined;
  #supervisor: ShardSupervisor | undefined;
  #metrics: ServerMetrics | undefined;
  readonly #regularLog: RegularLog;
  readonly #dashboard: ServerDashboard;
  readonly #availability: DatabaseAvailability;

  constructor(config: Config, logger: Logger, exit: (code: number) => void) {
    this.#config = config;
    this.#logger = logger;
    this.#exit = exit;
    this.#stats = makeStats(config.shards);
    this.#requestStats = makeRequestStats(config.httpThreads);
    this.#batchStats = makeBatchStats(config.httpThreads);
    const pending = (): number => conservation(this.#stats, config.shards).pending;
    this.#availability = new DatabaseAvailability(systemClock, logger, withoutDatabase(config), pending);
    this.#database = this.#makeDatabase();
    this.#operations = this.#makeOperations();
    this.#dashboard = this.#makeDashboard();
    this.#httpServers = this.#makeHttpServers();
    this.#regularLog = new RegularLog(config, systemClock, logger, {
      stats: this.#stats,
      requestStats: this.#requestStats,
    });
    this.#connectionLimit = new ConnectionLimit({
      connectionsMax: config.connectionsMax,
      ownDescriptors: ownDescriptors(config),
      descriptorLimit: descriptorLimit(),
      setAccepting: (accepting) => {
        this.#httpServers.setAccepting(accepting);
      },
      logger,
    });
    this.#steps = new StartSteps(this.#startSteps(), logger);
    this.#reload = new Reload({ config, logger, apply: (reloaded) => this.#httpServers.reload(reloaded) });
  }

  #makeDatabase(): ServerDatabase {
    const streams = {
      owned: () => this.#supervisor?.streams ?? [],
      finished: () => this.#supervisor?.finished ?? new Map<string, never>(),
    };
    return new ServerDatabase(this.#config, this.#logger, this.#stats, streams, {
      refused: (reason) => {
        this.#fatal(reason, 78);
      },
      unavailable: (problem) => {
        this.#availability.unavailable('start', problem);
      },
      available: () => {
        this.#availability.available('start');
      },
    });
  }

  #makeHttpServers(): HttpServers {
    const config = this.#config;
    return new HttpServers({
      config,
      stats: this.#stats,
      requestStats: this.#requestStats,
      batchStats: this.#batchStats,
      operations: this.#operations,
      idempotencyKeys: this.#database,
      logger: this.#logger,
      lost: (reason) => {
        this.#fatal(reason);
      },
    });
  }

  #makeOperations(): ServerOperations {
    const config = this.#config;
    return new ServerOperations({
      store: () => this.#database.counters,
      deletes: () => this.#database.deletes,
      supervisor: () => this.#supervisor,
      refusal: () => this.#httpServers.refusal,
      boundSentences: boundSentences(config),
      flushing: () => this.#availability.isAvailable,
      rejected: () => statTotal(this.#stats, config.shards, STAT.rejected),
      refusesIdempotent: () => statTotal(this.#stats, config.shards, STAT.idempotentRefused) > 0,
      role: config.role,
      metrics: () => started(this.#metrics).page(),
      dashboard: (since) => this.#dashboard.update(since),
    });
  }

  #makeDashboard(): ServerDashboard {
    return new ServerDashboard({
      clock: systemClock,
      logger: this.#logger,
      snapshot: (countsConnections) => started(this.#metrics).snapshot(countsConnections),
      readiness: () => this.#operations.readiness(),
      databaseReason: () => this.#availability.lastReason || this.#database.startReason,
      hotKeys: async (most) => (await this.#supervisor?.hotKeys(most)) ?? [],
    });
  }

  #makeMetrics(uws: string): ServerMetrics {
    const [database, httpServers] = [this.#database, this.#httpServers];
    const sources = {
      config: this.#config,
      versions: versionsWith(uws),
      stats: this.#stats,
      requestStats: this.#requestStats,
      batchStats: this.#batchStats,
      inFlightBytes: (shard: number) => httpServers.inFlightBytes(shard),
      isDatabaseAvailable: () => this.#availability.isAvailable && database.counters?.available() === true,
      isJournalAvailable: () => httpServers.isJournalAvailable,
      isReady: () => this.#operations.readiness().state !== 'refusing',
      idempotencyRows: () => database.idempotencyRows,
      pruningHeldSeconds: () => database.pruningHeldSeconds,
    };
    return new ServerMetrics(sources, {
      isCounted: () => httpServers.countsConnections,
      port: () => httpServers.port,
      byDescriptors: () => this.#connectionLimit.connections,
    });
  }

  /** The steps of a start, in order. A stop drains the shards and then undoes these steps in reverse. */
  #startSteps(): readonly StartStep[] {
    const httpServers = this.#httpServers;
    return [
      {
        name: 'data directory',
        run: () => {
          this.#directory = acquireDataDirectory(this.#config.dataDir);
          if (this.#config.journal === 'file') finishInterruptedRebind(this.#config.dataDir);
        },
        undo: () => this.#directory?.release(),
      },
      {
        name: 'HTTP servers',
        run: () => this.#listen(),
        undo: () => {
          this.#connectionLimit.close();
          this.#regularLog.close();
          this.#dashboard.close();
          return httpServers.close();
        },
      },
      // Before the database, so that the threads load their code while the start waits for it.
      { name: 'shard threads', run: () => this.#makeShards() },
      {
        name: 'broker',
        run: async (signal) => {
          this.#elsewhere = await openJournalElsewhere(this.#config, this.#logger, signal);
          httpServers.limitBodies(this.#elsewhere.bodyBytesMax);
        },
      },
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
   * Starts everything. Resolves early, without a log line, if a stop or a fatal error comes first. Rejects with
   * StartError if an operator must change something.
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
    const uws = loadUws();
    this.#metrics = this.#makeMetrics(uws.version);
    this.#connectionLimit.start();
    this.#regularLog.start();
    this.#dashboard.start();
    const port = await this.#httpServers.listen(uws);
    const scheme = tls === undefined ? 'http' : 'https';
    logger.info({ host, port }, `Listening on ${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`);
    logger.info({}, `HTTP by ${uws.build}`);
    if (authTokens.length === 0 && !isLoopback(host)) {
      logger.warn({ host }, 'No AUTH_TOKENS are set; anyone who can reach this address can count, read and delete');
    }
  }

  async #openDatabase(signal: AbortSignal): Promise<void> {
    const { dataDir } = this.#config;
    const { nodeId } = started(this.#directory);
    this.#logger.info({ dataDir, nodeId }, `Data directory ${dataDir}`);
    const { bodyBytesMax } = started(this.#elsewhere);
    for (const warning of configWarnings({ ...this.#config, bodyBytesMax })) this.#logger.warn({}, warning);
    this.#opened = await this.#database.start(nodeId, signal);
  }

  #makeShards(): void {
    const { shards } = this.#config;
    const { nodeId } = started(this.#directory);
    const httpServers = this.#httpServers;
    this.#supervisor = new ShardSupervisor({
      shards,
      stats: this.#stats,
      taskOf: () => {
        const { target, databaseId } = started(this.#opened);
        const databaseProblem = this.#database.problem;
        const [elsewhere, settings] = [this.#elsewhere, this.#config];
        return {
          nodeId,
          databaseUrl: target.url,
          databaseId,
          databaseProblem,
          ...started(elsewhere).ofShards,
          settings,
        };
      },
      httpServers: httpServers.launch(),
      logger: this.#logger,
      events: {
        admission: (shard, admission) => {
          httpServers.setShardAdmission(shard, admission);
        },
        fatal: (reason) => {
          this.#fatal(reason);
        },
        database: (shard, state) => {
          if (state.available) this.#availability.available(shard, state.pending);
          else this.#availability.unavailable(shard, state.problem);
        },
      },
    });
  }

  async #startShards(): Promise<void> {
    const { journal, role, shards } = this.#config;
    await started(this.#supervisor).start();
    this.#logger.info(
      { shards, journal, role },
      `${shards} shard ${shards === 1 ? 'thread' : 'threads'}, journal: ${journal}, role: ${role}`,
    );
    if (journal === 'memory') {
      this.#logger.warn(
        {},
        'The memory journal is not durable; increments not yet in PostgreSQL are lost when the process ends',
      );
    }
  }

  /** Drains, closes everything and exits, with 0 if nothing went wrong. It may be called more than once. */
  async stop(): Promise<void> {
    if (this.#state === 'stopping' || this.#state === 'ended') return;
    const wasServing = this.#state === 'serving';
    this.#state = 'stopping';
    this.#availability.say();
    this.#httpServers.announceDrain();
    this.#steps.abort();
    const deadline = setTimeout(() => {
      this.abandon(`the shutdown deadline of ${this.#config.shutdownTimeoutMs} ms`);
    }, this.#config.shutdownTimeoutMs);
    deadline.unref();
    try {
      if (!wasServing) this.#logger.info({}, 'Stopping during the start; this process has taken no increments');
      const code = wasServing ? await this.#drain() : 0;
      const isClosed = await this.#steps.undo();
      this.end(isClosed ? code : 1);
    } catch (error) {
      this.#logger.error({ err: error }, 'Shutdown failed; unflushed increments stay in the journal');
      this.end(1);
    }
  }

  /** Applies bearer tokens and the TLS certificate that `read` reads, as SIGHUP asks for. Never ends the process. */
  reload(read: () => ReloadedConfig): void {
    if (this.#state === 'ended') return;
    this.#reload.request(read);
  }

  /** Exits at once with code 1. Unflushed increments stay in the journal. */
  abandon(why: string): void {
    const pending = conservation(this.#stats, this.#config.shards).pending + this.#unread;
    this.#logger.error({ pending }, `Exiting now because of ${why}; ${this.#fateOf(pending)}`);
    this.end(1);
  }

  /**
   * Exits with a code without draining. Closes the applications of HTTP threads first, or the exit would be an abort.
   */
  end(code: number): void {
    this.#state = 'ended';
    this.#steps.abort();
    const exit = (): void => {
      this.#exit(code);
    };
    if (this.#httpServers.hasThreads) this.#httpServers.close().then(exit, exit);
    else exit();
  }

  /** Answers the requests in flight, then drains the shards. Resolves to the exit code. */
  async #drain(): Promise<number> {
    if (this.#config.drainDelayMs > 0) await pause(this.#config.drainDelayMs);
    await this.#httpServers.drain();
    const left = (await this.#supervisor?.drain()) ?? [];
    return this.#report(left);
  }

  #report(left: readonly PendingRange[]): number {
    const balance = conservation(this.#stats, this.#config.shards);
    const isMemory = this.#config.journal === 'memory';
    // With the memory journal, increments that were lost with a shard count too.
    const known = this.#unread + (isMemory ? balance.lost : 0);
    const pending = left.reduce((total, { increments = 0 }) => total + increments, known);
    const isLost = balance.lost > 0 && !isMemory;
    if (isLost) {
      const isShared = isSharedJournal(this.#config.journal);
      const why = isShared ? 'the database has gone back to an earlier state' : 'a sync of the journal failed';
      const what = `${balance.lost} acknowledged increments are lost, because ${why}; exiting with code 1`;
      this.#logger.error({ ...balance }, what);
    }
    if (balance.rejected > 0) {
      const advice = 'list them with `npm run journal -- rejected`; exiting with code 1';
      this.#logger.error({ ...balance }, `${rejectedSentence(balance.rejected)} and not counted; ${advice}`);
    }
    if (left.length === 0 && pending === 0) {
      const what = balance.rejected > 0 || isLost ? 'Everything else' : 'Everything';
      const where = this.#config.role === 'ingest' ? 'in the journal, for a roll-up' : 'committed';
      this.#logger.info({ ...balance }, `${what} that was acknowledged is ${where}`);
    } else {
      const unread = left.filter(({ throughLsn }) => throughLsn === undefined).length;
      const earlier = unread === 0 ? '' : `, besides ${unread} unread ${unread === 1 ? 'stream' : 'streams'}`;
      const fields = { ranges: left, pending, flushed: balance.flushed, reason: this.#availability.lastReason };
      if (isMemory) this.#logger.error(fields, this.#fateOf(pending));
      else this.#logger.warn(fields, this.#fateOf(pending) + earlier);
    }
    if (balance.difference !== 0) {
      this.#logger.error({ ...balance }, 'Increments do not add up at shutdown because of a bug; exiting with code 70');
      return 70;
    }
    return balance.rejected > 0 || isLost || (isMemory && (left.length > 0 || pending > 0)) ? 1 : 0;
  }

  /** Acknowledged increments in the journals of shards that ended and have not recovered since. */
  get #unread(): number {
    return this.#supervisor?.unread ?? 0;
  }

  #fateOf(pending: number): string {
    const { journal } = this.#config;
    if (journal === 'memory') return `${pending} acknowledged increments are lost`;
    const whom = isSharedJournal(journal) ? 'any server that flushes it' : 'the next start';
    return `${pending} acknowledged increments stay in the journal for ${whom}`;
  }

  /** A failure that this process cannot repair: refuses increments, closes everything, exits. */
  #fatal(reason: string, exitCode = 1): void {
    if (this.#state === 'ended') return;
    this.#httpServers.refuse('journal-unavailable');
    this.#availability.say();
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

/** What the server does while the database is unavailable, for the log. */
function withoutDatabase({ journal, role }: Config): string {
  if (role === 'roll-up') return 'nothing is flushed';
  if (journal === 'postgres') return 'refusing increments, because the journal is there';
  return journal === 'memory' ? 'buffering increments in memory' : 'buffering increments in the journal';
}

/** The result of an earlier step. */
function started<T>(made: T | undefined): T {
  if (made === undefined) throw new TypeError('a step of the start runs before a step that it needs');
  return made;
}
