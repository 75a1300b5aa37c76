/**
 * Composes an HTTP server, its router, and the router's clients of the shards. Main thread and HTTP threads.
 */
import { WINDOW_BYTES_MAX } from '../../core/bounds.js';
import { systemClock } from '../../core/clock.js';
import type { Config } from '../../config/config.js';
import { journalKinds } from '../../config/journal-kind.js';
import { HttpServer } from '../../http/http-server.js';
import { RequestStats, SharedWatchers } from '../../http/request-stats.js';
import type { LoadedUws } from '../../http/uws.js';
import { versionsWith } from '../../http/version.js';
import type { CounterOperations } from '../../core/counter-operations.js';
import type { Logger } from '../../core/logger.js';
import { BatchStats } from '../../shard-worker/client/batch-stats.js';
import { ShardClient } from '../../shard-worker/client/shard-client.js';
import { ShardRouter, type RouterLimits } from '../../shard-worker/client/shard-router.js';
import { SharedReservations } from '../../shard-worker/client/shared-reservations.js';
import { STAT, statOf, statsRow } from '../../shard-worker/protocol/stats.js';

/** The collaborators and values of an HTTP server and its router. */
export interface HttpServerOptions {
  readonly config: Config;
  readonly uws: LoadedUws;
  /** 0: any free port. */
  readonly port: number;
  readonly stats: SharedArrayBuffer;
  readonly requestStats: SharedArrayBuffer;
  readonly batchStats: SharedArrayBuffer;
  /** Its row of the stats, from 0, the main thread. */
  readonly httpThread: number;
  /** Memory in which all routers reserve room; undefined for the only router. With it, or with TLS, the port is also shared. */
  readonly reservations: SharedArrayBuffer | undefined;
  readonly idempotencyRoom: () => number;
  readonly operations: CounterOperations;
  readonly logger: Logger;
}

/** An HTTP server and its router. */
export interface RoutedHttpServer {
  readonly server: HttpServer;
  readonly router: ShardRouter;
}

/** Makes an HTTP server that does not listen yet. */
export function makeHttpServer(options: HttpServerOptions): RoutedHttpServer {
  const { config, port, stats, operations, logger } = options;
  const shared = options.reservations === undefined ? undefined : new SharedReservations(options.reservations);
  const batchStats = new BatchStats(options.batchStats, options.httpThread);
  const clients = Array.from({ length: config.shards }, (_, shard) =>
    clientOf(shard, shared, batchStats, statsRow(stats, shard)),
  );
  const router = new ShardRouter(clients, stats, limitsOf(options), setImmediate, shared);
  // A new certificate needs a second listening socket beside the first.
  const isPortShared = shared !== undefined || config.tls !== undefined;
  const { uws, version } = options.uws;
  const requestStats = new RequestStats(options.requestStats, options.httpThread);
  const watchers = new SharedWatchers(options.requestStats);
  const own = { uws, port, isPortShared, requestStats, watchers, versions: versionsWith(version) };
  return { server: new HttpServer({ ...own, config, router, operations, logger }), router };
}

function clientOf(
  shard: number,
  shared: SharedReservations | undefined,
  stats: BatchStats,
  row: Float64Array,
): ShardClient {
  const readGeneration = (): number => statOf(row, STAT.generation);
  if (shared === undefined) return new ShardClient(systemClock, undefined, stats, readGeneration);
  const room = {
    release: (increments: number, bytes: number): void => {
      shared.release(shard, increments, bytes);
    },
  };
  return new ShardClient(systemClock, room, stats, readGeneration);
}

function limitsOf({ config, idempotencyRoom }: HttpServerOptions): RouterLimits {
  return {
    pendingKeysMax: config.pendingKeysMax,
    pendingBytesMax: config.pendingBytesMax,
    journalBytesMax: journalKinds[config.journal].isVolatile ? Number.POSITIVE_INFINITY : config.journalBytesMax,
    windowBytesMax: WINDOW_BYTES_MAX,
    ackTimeoutMs: config.ackTimeoutMs,
    idempotencyRoom,
  };
}
