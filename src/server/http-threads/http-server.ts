/**
 * One front end whole: the application that listens, the router behind it, and its ends of the shards' ports. Any thread
 * that serves HTTP has one.
 */
import { systemClock } from '../../core/clock.js';
import type { Config } from '../../config/config.js';
import type { ErrorCode } from '../../core/errors.js';
import { AccessControl } from '../../http/access.js';
import { HttpApp } from '../../http/http-app.js';
import { openApiText } from '../../http/openapi.js';
import type { Uws } from '../../http/uws.js';
import type { CounterOperations } from '../../core/counter-operations.js';
import type { HttpServerLink } from '../../shard-worker/protocol/control-messages.js';
import type { Admission } from '../../core/increment.js';
import type { Logger } from '../../core/logger.js';
import { localHttpServerLink } from '../../shard-worker/client/http-server-link.js';
import { ShardClient } from '../../shard-worker/client/shard-client.js';
import { ShardRouter } from '../../shard-worker/client/shard-router.js';
import { SharedReservations } from '../../shard-worker/client/shared-reservations.js';

/** Bytes posted to one shard and not yet answered: the bound of what waits on a front end's port to it. */
const WINDOW_BYTES_MAX = 16 * 1024 * 1024;

/** What a front end is made of. */
export interface HttpServerOptions {
  readonly config: Config;
  readonly uws: Uws;
  /** 0: any free one. */
  readonly port: number;
  readonly stats: SharedArrayBuffer;
  /** Where the front ends reserve room; undefined where this is the only one. Others share the port, too. */
  readonly reservations: SharedArrayBuffer | undefined;
  readonly idempotencyRoom: () => number;
  readonly operations: CounterOperations;
  readonly logger: Logger;
}

/** What a front end still has to answer. */
export interface HttpServerLoad {
  /** Requests that were taken in are without their answer. */
  readonly isAnswering: boolean;
  /** Increments of which nothing but the head has come, or that are answered: none of these was taken in. */
  readonly incrementsInFlight: number;
}

/** One front end. */
export class HttpServer {
  /** For the supervisor of the shards. */
  readonly link: HttpServerLink;
  readonly #app: HttpApp;
  readonly #router: ShardRouter;
  readonly #ackTimeoutMs: number;
  readonly #keyBytesMax: number;
  #expiry: NodeJS.Timeout | undefined;

  constructor(options: HttpServerOptions) {
    const { config, reservations } = options;
    const { bodyBytesMax, keyBytesMax, authTokens, pendingBytesMax, httpThreads } = config;
    // At least one body, whose buffer doubles.
    const gatheredBytesMax = Math.max(2 * bodyBytesMax, Math.floor(pendingBytesMax / 4 / httpThreads));
    this.#ackTimeoutMs = config.ackTimeoutMs;
    this.#keyBytesMax = keyBytesMax;
    const shared = reservations === undefined ? undefined : new SharedReservations(reservations);
    const clients = Array.from({ length: config.shards }, (_, shard) => clientOf(shard, shared));
    this.link = localHttpServerLink(clients);
    this.#router = new ShardRouter(clients, options.stats, limitsOf(options), setImmediate, shared);
    this.#app = new HttpApp({
      uws: options.uws,
      host: config.host,
      port: options.port,
      isPortShared: shared !== undefined,
      tls: config.tls,
      limits: { bodyBytesMax, keyBytesMax, gatheredBytesMax },
      access: AccessControl.of(authTokens),
      openApiText: openApiText({ bodyBytesMax, keyBytesMax, hasBearerTokens: authTokens.length > 0 }),
      receiver: this.#router,
      operations: options.operations,
      onBug: (error) => {
        options.logger.error({ err: error }, 'A request met a bug of ours');
      },
    });
  }

  /** The code with which increments of new keys are refused now, or undefined. */
  get refusal(): ErrorCode | undefined {
    return this.#router.refusalOfNew(this.#keyBytesMax);
  }

  get load(): HttpServerLoad {
    const { operationsInFlight, incrementsInFlight } = this.#app;
    return { isAnswering: !this.#router.isIdle || operationsInFlight > 0, incrementsInFlight };
  }

  /** Listens; resolves to the port. Throws StartError where it cannot. */
  listen(): Promise<number> {
    return this.#app.listen();
  }

  /** Increments and operations are taken from now on. */
  accept(): void {
    const sweepMs = Math.max(10, Math.min(250, this.#ackTimeoutMs / 4));
    this.#expiry = setInterval(() => {
      this.#router.expire();
    }, sweepMs);
    this.#app.accept();
  }

  /** Opens a shard's door, or closes it with the code that its callers get. */
  setShardAdmission(shard: number, admission: Admission): void {
    this.#router.setShardAdmission(shard, admission);
  }

  /** Refuses increments with a code, or takes them again. */
  setAdmission(admission: ErrorCode | undefined): void {
    this.#app.setAdmission(admission);
  }

  /** Stops listening and refuses what comes on open connections. */
  drain(): void {
    this.#app.drain();
  }

  /** Closes every connection. To be called before the thread ends, or the process aborts. */
  close(): void {
    clearInterval(this.#expiry);
    this.#app.close();
  }
}

function clientOf(shard: number, shared: SharedReservations | undefined): ShardClient {
  if (shared === undefined) return new ShardClient();
  return new ShardClient(systemClock, {
    release: (increments, bytes) => {
      shared.release(shard, increments, bytes);
    },
  });
}

function limitsOf({ config, idempotencyRoom }: HttpServerOptions): ConstructorParameters<typeof ShardRouter>[2] {
  return {
    pendingKeysMax: config.pendingKeysMax,
    pendingBytesMax: config.pendingBytesMax,
    journalBytesMax: config.journal === 'memory' ? Number.POSITIVE_INFINITY : config.journalBytesMax,
    windowBytesMax: WINDOW_BYTES_MAX,
    ackTimeoutMs: config.ackTimeoutMs,
    idempotencyRoom,
  };
}
