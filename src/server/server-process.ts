/**
 * The life of the process, from the lock on the data directory to the exit code. Main thread.
 *
 * ```text
 * starting ──all steps done──► serving ──stop()──► stopping ──► ended (exit 0, or the code of a failure)
 *     │──────────────────────stop()─────────────────────▲
 *     └──step fails, fatal error──────┴──fatal error────┴──fatal error──► ended (exit 1 or 78)
 *
 * start: data directory → listen (probes only) → shard threads → [broker] → database, migrations → [store of the journal] →
 *        shards recover → HTTP threads → admission open
 * stop:  readiness 503 → [drain delay] → stop listening → answer requests in flight → drain shards → close database
 *        → close HTTP servers → release data directory
 * ```
 */
import type { Config, ReloadedConfig } from '../config/config.js';
import { journalKinds } from '../config/journal-kind.js';
import { configWarnings } from '../config/setting-warnings.js';
import { descriptorLimit, ownDescriptors } from '../config/descriptor-limit.js';
import { pause, systemClock } from '../core/clock.js';
import type { CounterOperations } from '../core/counter-operations.js';
import { composeOperations } from './compose-operations.js';
import { ConnectionLimit } from './connection-limit.js';
import { acquireDataDirectory, finishInterruptedRebind, type DataDirectory } from './data-directory.js';
import { DatabaseAvailability } from './database-availability.js';
import { ServerDatabase, type OpenedServerDatabase } from './server-database.js';
import { HttpServers } from './http-servers.js';
import { journalElsewhere, type OpenedJournal } from './journal-elsewhere.js';
import { JournalWatch } from './journal-watch.js';
import { RegularLog } from './regular-log.js';
import { Reload } from './reload.js';
import { StartSteps, type StartStep } from './start-steps.js';
import { fateOf, reportStop } from './stop-report.js';
import { isLoopback } from '../http/access.js';
import { makeRequestStats } from '../http/request-stats.js';
import type { LoadedUws } from '../http/uws.js';
import { versionsWith } from '../http/version.js';
import type { Logger } from '../core/logger.js';
import { makeBatchStats } from '../shard-worker/client/batch-stats.js';
import { conservation, makeStats } from '../shard-worker/protocol/stats.js';
import { ShardSupervisor } from '../shard-worker/supervisor/shard-supervisor.js';

/** Counts or writes from before the port is open until the database is closed. */
interface Observer {
  start(): void;
  close(): void;
}

/** The server as one process. */
export class ServerProcess {
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #exit: (code: number) => void;
  readonly #stats: SharedArrayBuffer;
  readonly #availability: DatabaseAvailability;
  readonly #database: ServerDatabase;
  readonly #httpServers: HttpServers;
  readonly #regularLog: RegularLog;
  readonly #steps: StartSteps;
  readonly #reload: Reload;
  #state: 'starting' | 'serving' | 'stopping' | 'ended' = 'starting';
  // Made by steps of the start.
  #directory: DataDirectory | undefined;
  #supervisor: ShardSupervisor | undefined;
  #journal: OpenedJournal | undefined;
  #opened: OpenedServerDatabase | undefined;

  /** Makes everything except the supervisor, which a step makes later. */
  constructor(config: Config, uws: LoadedUws, logger: Logger, exit: (code: number) => void) {
    const { shards, httpThreads } = config;
    const stats = makeStats(shards);
    const requestStats = makeRequestStats(httpThreads);
    const common = { config, logger, stats, requestStats, batchStats: makeBatchStats(httpThreads) };
    const pending = (): number => conservation(stats, shards).pending;
    const availability = new DatabaseAvailability(systemClock, logger, withoutDatabase(config), pending);
    const database = new ServerDatabase(config, logger, stats, {
      refused: (reason) => {
        this.#fatal(reason, 78);
      },
      unavailable: (problem) => {
        availability.unavailable('start', problem);
      },
      available: () => {
        availability.available('start');
      },
    });
    const httpServers = new HttpServers({
      ...common,
      uws,
      idempotencyKeys: database,
      lost: (reason) => {
        this.#fatal(reason);
      },
    });
    const connectionLimit = new ConnectionLimit({
      connectionsMax: config.connectionsMax,
      ownDescriptors: ownDescriptors(config),
      descriptorLimit: descriptorLimit(),
      setAccepting: (accepting) => {
        httpServers.setAccepting(accepting);
      },
      logger,
    });
    const journalWatch = new JournalWatch(systemClock, logger, () => this.#journal?.check());
    const { operations, dashboard } = composeOperations({
      ...common,
      versions: versionsWith(uws.version),
      availability,
      database,
      httpServers,
      connectionLimit,
      journalWatch,
      supervisor: () => this.#supervisor,
    });
    const regularLog = new RegularLog(config, systemClock, logger, { stats, requestStats });

    this.#config = config;
    this.#logger = logger;
    this.#exit = exit;
    this.#stats = stats;
    this.#availability = availability;
    this.#database = database;
    this.#httpServers = httpServers;
    this.#regularLog = regularLog;
    const observers = [connectionLimit, journalWatch, regularLog, dashboard];
    this.#steps = new StartSteps(this.#startSteps(operations, uws, observers), logger);
    this.#reload = new Reload({ config, logger, apply: (reloaded) => httpServers.reload(reloaded) });
  }

  /** The steps of a start, in order. A stop drains the shards, then undoes the steps in reverse. */
  #startSteps(operations: CounterOperations, uws: LoadedUws, observers: readonly Observer[]): readonly StartStep[] {
    const httpServers = this.#httpServers;
    const openJournal = journalElsewhere(this.#config);
    const broker = openJournal && {
      name: 'broker',
      run: async (signal: AbortSignal) => {
        this.#journal = await openJournal(this.#logger, signal);
        httpServers.limitBodies(this.#journal.bodyBytesMax);
      },
      undo: undefined,
    };
    const store = {
      name: 'store of the journal',
      run: (signal: AbortSignal) => this.#journal?.pair(this.#database, signal),
      undo: undefined,
    };
    return [
      {
        name: 'data directory',
        run: () => {
          this.#directory = acquireDataDirectory(this.#config.dataDir);
          if (journalKinds[this.#config.journal].isInDirectory) finishInterruptedRebind(this.#config.dataDir);
        },
        undo: () => this.#directory?.release(),
      },
      {
        name: 'HTTP servers',
        run: () => {
          for (const observer of observers) observer.start();
          return this.#listen(operations, uws);
        },
        undo: () => {
          for (const observer of observers) observer.close();
          return httpServers.close();
        },
      },
      // Before the database, so that the threads load their code during the wait for it.
      { name: 'shard threads', run: () => this.#makeShards(operations), undo: undefined },
      ...(broker === undefined ? [] : [broker]),
      { name: 'database', run: (signal) => this.#openDatabase(signal), undo: () => this.#database.close() },
      ...(broker === undefined ? [] : [store]),
      { name: 'shards', run: () => this.#startShards(), undo: undefined },
      { name: 'HTTP threads', run: () => httpServers.listening(), undo: undefined },
      {
        name: 'admission',
        run: () => {
          this.#state = 'serving';
          return httpServers.open();
        },
        undo: undefined,
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

  async #listen(operations: CounterOperations, uws: LoadedUws): Promise<void> {
    const { host, authTokens, tls } = this.#config;
    const logger = this.#logger;
    const port = await this.#httpServers.listen(operations);
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
    const { bodyBytesMax } = this.#journal ?? this.#config;
    for (const warning of configWarnings({ ...this.#config, bodyBytesMax })) this.#logger.warn({}, warning);
    this.#opened = await this.#database.start(nodeId, started(this.#supervisor), signal);
  }

  #makeShards(operations: CounterOperations): void {
    const { shards } = this.#config;
    const { nodeId } = started(this.#directory);
    const httpServers = this.#httpServers;
    this.#supervisor = new ShardSupervisor({
      shards,
      stats: this.#stats,
      taskOf: () => {
        const { target, databaseId } = started(this.#opened);
        const databaseProblem = this.#database.problem;
        return {
          nodeId,
          databaseUrl: target.url,
          databaseId,
          databaseProblem,
          ...(this.#journal?.ofShards() ?? { nats: undefined, sqs: undefined }),
          settings: this.#config,
        };
      },
      httpServers: httpServers.launch(operations),
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
    if (journalKinds[journal].isVolatile) {
      this.#logger.warn(
        {},
        'The memory journal is not durable; increments not yet in PostgreSQL are lost when the process ends',
      );
    }
  }

  /** Drains, closes everything and exits, with 0 if nothing went wrong. May be called more than once. */
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

  /** Applies the bearer tokens and TLS certificate that `read` reads, for SIGHUP. Never ends the process. */
  reload(read: () => ReloadedConfig): void {
    if (this.#state === 'ended') return;
    this.#reload.request(read);
  }

  /** Exits at once with code 1. Unflushed increments stay in the journal. */
  abandon(why: string): void {
    const pending = conservation(this.#stats, this.#config.shards).pending + this.#unread;
    this.#logger.error({ pending }, `Exiting now because of ${why}; ${fateOf(pending, this.#config.journal)}`);
    this.end(1);
  }

  /**
   * Exits with a code without draining. Closes the applications of HTTP threads first, because otherwise the process would
   * abort.
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

  /** Answers requests in flight, then drains the shards. Resolves to the exit code. */
  async #drain(): Promise<number> {
    if (this.#config.drainDelayMs > 0) await pause(this.#config.drainDelayMs);
    await this.#httpServers.drain();
    const left = (await this.#supervisor?.drain()) ?? [];
    const { journal, role, shards } = this.#config;
    // What is not logged yet comes before the report, which is the last line.
    this.#availability.say();
    this.#regularLog.close();
    return reportStop({
      journal,
      role,
      logger: this.#logger,
      balance: conservation(this.#stats, shards),
      left,
      unread: this.#unread,
      databaseReason: this.#availability.lastReason,
    });
  }

  /** Acknowledged increments in the journals of shards that ended and have not recovered since. */
  get #unread(): number {
    return this.#supervisor?.unread ?? 0;
  }

  /** Handles a failure that this process cannot repair: refuses increments, closes everything, exits. */
  #fatal(reason: string, exitCode = 1): void {
    if (this.#state === 'ended') return;
    this.#httpServers.refuse('journal-unavailable');
    this.#availability.say();
    process.stderr.write(`summing-counters: ${reason}\n`);
    this.#logger.error({}, reason);
    const { pending } = conservation(this.#stats, this.#config.shards);
    if (pending > 0) this.#logger.error({ pending }, fateOf(pending, this.#config.journal));
    this.#state = 'ended';
    void this.#steps.undo().then(() => {
      this.#exit(exitCode);
    });
  }
}

/** What the server does without the database, for the log. */
function withoutDatabase({ journal, role }: Config): string {
  if (role === 'roll-up') return 'nothing is flushed';
  const { isInDatabase, isVolatile } = journalKinds[journal];
  if (isInDatabase) return 'refusing increments, because the journal is there';
  return isVolatile ? 'buffering increments in memory' : 'buffering increments in the journal';
}

/** The result of an earlier step. */
function started<T>(made: T | undefined): T {
  if (made === undefined) throw new TypeError('a step of the start runs before a step that it needs');
  return made;
}
