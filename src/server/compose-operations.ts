/** Composes the operations of the server and their sources. Main thread. */
import { boundSentences } from '../config/bound-sentences.js';
import type { Config } from '../config/config.js';
import { systemClock } from '../core/clock.js';
import type { CounterOperations, Readiness } from '../core/counter-operations.js';
import type { Logger } from '../core/logger.js';
import type { VersionDocument } from '../http/documents.js';
import { STAT, statTotal } from '../shard-worker/protocol/stats.js';
import type { ShardSupervisor } from '../shard-worker/supervisor/shard-supervisor.js';
import type { ConnectionLimit } from './connection-limit.js';
import { ServerDashboard } from './dashboard/server-dashboard.js';
import type { DatabaseAvailability } from './database-availability.js';
import type { HttpServers } from './http-servers.js';
import type { JournalWatch } from './journal-watch.js';
import { ServerMetrics } from './metrics/server-metrics.js';
import type { ServerDatabase } from './server-database.js';
import { ServerOperations } from './server-operations.js';
import { readinessOf } from './server-readiness.js';

/** The parts of the server that the operations use. */
export interface OperationSources {
  readonly config: Config;
  readonly logger: Logger;
  readonly versions: VersionDocument;
  /** Written by the shards. */
  readonly stats: SharedArrayBuffer;
  /** Written by the HTTP servers. */
  readonly requestStats: SharedArrayBuffer;
  readonly batchStats: SharedArrayBuffer;
  readonly availability: DatabaseAvailability;
  readonly database: ServerDatabase;
  readonly httpServers: HttpServers;
  readonly connectionLimit: ConnectionLimit;
  readonly journalWatch: JournalWatch;
  /** Undefined until a step of the start makes it. */
  readonly supervisor: () => ShardSupervisor | undefined;
}

/** The operations, and their dashboard, which must be started and closed. */
export function composeOperations(sources: OperationSources): {
  readonly operations: CounterOperations;
  readonly dashboard: ServerDashboard;
} {
  const { config, logger, versions, stats, requestStats, batchStats, ...parts } = sources;
  const { availability, database, httpServers, connectionLimit, journalWatch, supervisor } = parts;
  const { shards, role } = config;
  const sentences = boundSentences(config);
  const total = (cell: number): number => statTotal(stats, shards, cell);
  const readiness = (): Readiness =>
    readinessOf({
      store: () => database.counters,
      supervisor,
      refusal: () => httpServers.refusal,
      boundSentences: sentences,
      flushing: () => availability.isAvailable,
      rejected: () => total(STAT.rejected),
      journalProblem: () => journalWatch.problem,
      refusesIdempotent: () => total(STAT.idempotentRefused) > 0,
      role,
    });
  const metrics = new ServerMetrics(
    {
      config,
      versions,
      stats,
      requestStats,
      batchStats,
      inFlightBytes: (shard) => httpServers.inFlightBytes(shard),
      isDatabaseAvailable: () => availability.isAvailable && database.counters?.available() === true,
      isJournalAvailable: () => httpServers.isJournalAvailable,
      isReady: () => readiness().state !== 'refusing',
      idempotencyRows: () => database.idempotencyRows,
      pruningHeldSeconds: () => database.pruningHeldSeconds,
    },
    {
      isCounted: () => httpServers.countsConnections,
      port: () => httpServers.port,
      byDescriptors: () => connectionLimit.connections,
    },
  );
  const dashboard = new ServerDashboard({
    clock: systemClock,
    logger,
    snapshot: (countsConnections) => metrics.snapshot(countsConnections),
    readiness,
    databaseReason: () => availability.lastReason || database.startReason,
    hotKeys: async (most) => (await supervisor()?.hotKeys(most)) ?? [],
  });
  const operations = new ServerOperations({
    store: () => database.counters,
    deletes: () => database.deletes,
    supervisor,
    role,
    readiness,
    metrics: () => metrics.page(),
    dashboard: (since) => dashboard.update(since),
  });
  return { operations, dashboard };
}
