/**
 * All HTTP servers of the process: that of the main thread and, with HTTP_THREADS above 1, those of other HTTP threads on the
 * same port. Main thread.
 *
 * Keeps the admission of the process and passes it to every HTTP server. They differ only during the drain delay: readiness is
 * `draining`, while the HTTP servers still take requests.
 */
import type { Config } from '../config/config.js';
import { pause, repeat, systemClock, type Timer } from '../core/clock.js';
import type { Refusal } from '../core/bounds.js';
import type { ErrorCode } from '../core/errors.js';
import { HttpThreads } from './http-thread-supervisor.js';
import type { HttpServerLoad, Reloaded } from '../http/http-server.js';
import { reservePort } from '../http/listener.js';
import type { LoadedUws } from '../http/uws.js';
import type { CounterOperations } from '../core/counter-operations.js';
import type { HttpServerLink } from '../shard-worker/protocol/control-messages.js';
import type { Admission } from '../core/increment.js';
import type { Logger } from '../core/logger.js';
import { makeHttpServer, type RoutedHttpServer } from './http-threads/make-http-server.js';
import { makeReservations, SharedReservations } from '../shard-worker/client/shared-reservations.js';

const IN_FLIGHT_CHECK_MS = 5;
/** How long a stop waits for unfinished bodies. */
const BODY_TIMEOUT_MS = 1_000;
/** How often the other HTTP threads get the current limit of idempotency keys. */
const IDEMPOTENCY_CEILING_MS = 100;

/** The collaborators of the HTTP servers. */
export interface HttpServersDeps {
  readonly config: Config;
  readonly uws: LoadedUws;
  readonly stats: SharedArrayBuffer;
  readonly requestStats: SharedArrayBuffer;
  readonly batchStats: SharedArrayBuffer;
  /** See `ServerDatabase`. */
  readonly idempotencyKeys: { readonly idempotencyRoom: number; readonly idempotencyCeiling: number };
  readonly logger: Logger;
  /** Called if an HTTP thread has failed. The process must end. */
  readonly lost: (reason: string) => void;
}

/** All HTTP servers of the process. */
export class HttpServers {
  readonly #deps: HttpServersDeps;
  readonly #reservations: SharedArrayBuffer | undefined;
  /** For HTTP servers yet to be made, with the last bearer tokens and the limit of bodies. */
  #config: Config;
  readonly #idempotencyCeiling = new Float64Array(new SharedArrayBuffer(Float64Array.BYTES_PER_ELEMENT));
  #ceilingTimer: Timer | undefined;
  /** The HTTP server of the main thread, until it is closed. */
  #local: RoutedHttpServer | undefined;
  #threads: HttpThreads | undefined;
  #port = 0;
  #admission: Admission = 'starting';

  constructor(deps: HttpServersDeps) {
    this.#deps = deps;
    this.#config = deps.config;
    const { httpThreads, shards } = deps.config;
    this.#reservations = httpThreads > 1 ? makeReservations(shards) : undefined;
  }

  /**
   * Listens on the main thread, and answers from `operations`. Resolves to the port. Rejects with StartError if the port is not
   * available.
   */
  async listen(operations: CounterOperations): Promise<number> {
    const { uws, stats, requestStats, batchStats, idempotencyKeys, logger } = this.#deps;
    const config = this.#config;
    const isShared = this.#reservations !== undefined || config.tls !== undefined;
    // Reserves the port first. A port chosen within uWebSockets.js cannot be listened on again while it has connections.
    const port = isShared || config.port === 0 ? await reservePort(config.host, config.port) : config.port;
    this.#local = makeHttpServer({
      config,
      uws,
      port,
      stats,
      requestStats,
      batchStats,
      httpThread: 0,
      reservations: this.#reservations,
      idempotencyRoom: () => idempotencyKeys.idempotencyRoom,
      operations,
      logger,
    });
    this.#port = await this.#local.server.listen();
    return this.#port;
  }

  /** Starts the other HTTP threads. Returns the links of all HTTP servers, for the supervisor of the shards. */
  launch(operations: CounterOperations): readonly HttpServerLink[] {
    const { stats, requestStats, batchStats, lost } = this.#deps;
    if (this.#reservations !== undefined) {
      this.#threads = new HttpThreads({
        config: this.#config,
        port: this.#port,
        stats,
        requestStats,
        batchStats,
        reservations: this.#reservations,
        // The view is over shared memory.
        idempotencyCeiling: this.#idempotencyCeiling.buffer,
        operations,
        lost,
      });
    }
    return [...(this.#local === undefined ? [] : [this.#local.router]), ...(this.#threads?.links ?? [])];
  }

  /** Resolves once all HTTP servers listen. Rejects with StartError if one cannot. */
  async listening(): Promise<void> {
    if (this.#threads === undefined) return;
    await this.#threads.listening();
    const { httpThreads } = this.#deps.config;
    this.#deps.logger.info({ httpThreads }, `${httpThreads} HTTP threads share the port`);
  }

  /** Sets the limit of bodies. To be called before {@link open}. */
  limitBodies(bodyBytesMax: number): void {
    this.#config = { ...this.#config, bodyBytesMax };
    this.#local?.server.limitBodies(bodyBytesMax);
    this.#threads?.limitBodies(bodyBytesMax);
  }

  /** Takes increments and operations. Resolves once all HTTP servers do. */
  async open(): Promise<void> {
    if (this.#threads !== undefined) {
      this.#shareCeiling();
      this.#ceilingTimer = repeat(systemClock, IDEMPOTENCY_CEILING_MS, () => {
        this.#shareCeiling();
      });
    }
    await this.#setAdmission('open');
  }

  /** Refuses increments with a code, because the process will end. */
  refuse(code: ErrorCode): void {
    void this.#setAdmission(code);
  }

  /** Accepts new connections on all HTTP servers, or refuses them. */
  setAccepting(accepting: boolean): void {
    this.#local?.server.setAccepting(accepting);
    this.#threads?.setAccepting(accepting);
  }

  /**
   * Applies bearer tokens and a certificate that were read again. Resolves to the problems by HTTP server. The first server
   * that refuses a certificate changes nothing, and later ones are not asked.
   */
  async reload(reloaded: Reloaded): Promise<readonly string[]> {
    const problem = await this.#local?.server.reload(reloaded);
    if (problem !== undefined) return [problem];
    this.#config = { ...this.#config, authTokens: reloaded.authTokens };
    return (await this.#threads?.reload(reloaded)) ?? [];
  }

  /** Makes readiness `draining`. Requests are still taken until {@link drain}. */
  announceDrain(): void {
    this.#admission = 'draining';
  }

  /** Why increments of new keys are refused now, for readiness; undefined if they are taken. */
  get refusal(): Refusal | undefined {
    if (this.#admission !== 'open') return this.#admission;
    return this.#local?.router.refusalOfNew(this.#deps.config.keyBytesMax);
  }

  /** The port; 0 before it is open. */
  get port(): number {
    return this.#port;
  }

  /** Whether the HTTP servers count their connections. */
  get countsConnections(): boolean {
    return this.#local?.server.countsConnections === true;
  }

  /** Whether the journals of all shards take records, as far as the HTTP server of the main thread knows. */
  get isJournalAvailable(): boolean {
    return this.#local?.router.isJournalAvailable === true;
  }

  /** Bytes of increments that wait for the journal of a shard. */
  inFlightBytes(shard: number): number {
    if (this.#reservations !== undefined) return new SharedReservations(this.#reservations).bytes(shard);
    return this.#local?.router.reservedBytes(shard) ?? 0;
  }

  /** Opens a shard for increments, or refuses its increments with a code. */
  setShardAdmission(shard: number, admission: Admission): void {
    this.#local?.router.setShardAdmission(shard, admission);
    this.#threads?.setShardAdmission(shard, admission);
  }

  /** Stops listening. Resolves once all requests in flight are answered. */
  async drain(): Promise<void> {
    this.#local?.server.drain();
    await this.#threads?.drain();
    const bodiesUntil = performance.now() + BODY_TIMEOUT_MS;
    for (;;) {
      const loads = await this.#loads();
      const requests = loads.reduce((total, { incrementsInFlight }) => total + incrementsInFlight, 0);
      if (!loads.some(({ isAnswering }) => isAnswering)) {
        if (requests === 0) return;
        if (performance.now() >= bodiesUntil) {
          this.#deps.logger.warn({ requests }, `Not waiting for ${requests} requests with unfinished bodies`);
          return;
        }
      }
      await pause(IN_FLIGHT_CHECK_MS);
    }
  }

  /** True while other threads have open applications. Without {@link close}, the process would abort at its end. */
  get hasThreads(): boolean {
    return this.#threads !== undefined;
  }

  /** Closes all connections and ends the other HTTP threads. */
  async close(): Promise<void> {
    this.#ceilingTimer?.cancel();
    const threads = this.#threads;
    await threads?.close();
    this.#threads = undefined;
    this.#local?.server.close();
    this.#local = undefined;
  }

  async #setAdmission(admission: Admission): Promise<void> {
    this.#admission = admission;
    this.#local?.server.setAdmission(admission);
    await this.#threads?.setAdmission(admission);
  }

  async #loads(): Promise<readonly HttpServerLoad[]> {
    const further = (await this.#threads?.load()) ?? [];
    return this.#local === undefined ? further : [this.#local.server.load, ...further];
  }

  #shareCeiling(): void {
    this.#idempotencyCeiling[0] = this.#deps.idempotencyKeys.idempotencyCeiling;
  }
}
