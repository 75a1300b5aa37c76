/**
 * An HTTP server: the application of uWebSockets.js with its routes, in front of a router. HTTP thread.
 *
 * ```text
 * starting ──open──► open ◄──────► refusing increments (another code)
 *     └────────────────┴──────drain()──────┴──► draining ──close()──► closed
 * ```
 *
 * The port is open from the start. The admissions `starting` and `draining` refuse everything but probes, metrics and the
 * version. Any other code refuses increments only.
 */
import { boundSentences, gatheredBytesMax } from '../config/bound-sentences.js';
import type { Config } from '../config/config.js';
import { repeat, systemClock, type Timer } from '../core/clock.js';
import type { CounterOperations } from '../core/counter-operations.js';
import type { Admission, IncrementRouter } from '../core/increment.js';
import type { Logger } from '../core/logger.js';
import type { VersionDocument } from './documents.js';
import { EventRoutes } from './events/event-routes.js';
import { IncrementRoute } from './increment-route.js';
import { Listener } from './listener.js';
import { openApiText } from './openapi.js';
import { OperationAnswers } from './operation-answers.js';
import { RequestAccess } from './request-access.js';
import type { RequestStats, SharedWatchers } from './request-stats.js';
import { routeTable } from './route-table.js';
import type { Uws } from './uws.js';

/** The collaborators and values of an HTTP server. */
export interface HttpServerDeps {
  readonly config: Config;
  readonly uws: Uws;
  /** 0: any free port. */
  readonly port: number;
  /** Other HTTP servers of this process listen on the same port. */
  readonly isPortShared: boolean;
  readonly router: IncrementRouter;
  readonly operations: CounterOperations;
  readonly requestStats: RequestStats;
  /** Counts the event streams of all HTTP servers. */
  readonly watchers: SharedWatchers;
  readonly versions: VersionDocument;
  readonly logger: Logger;
}

/** Settings that were read again while the server runs. */
export interface Reloaded {
  readonly authTokens: Config['authTokens'];
  /** The files of the TLS certificate have changed. */
  readonly isCertificateChanged: boolean;
}

/** The requests that an HTTP server must still answer. */
export interface HttpServerLoad {
  /** Whether increments are with a shard, or other operations in flight. */
  readonly isAnswering: boolean;
  /** Increments that wait for their body or their outcome. */
  readonly incrementsInFlight: number;
}

/** One HTTP server. The head of this file shows its states. */
export class HttpServer {
  readonly #config: Config;
  readonly #router: IncrementRouter;
  readonly #access: RequestAccess;
  readonly #increments: IncrementRoute;
  readonly #answers: OperationAnswers;
  readonly #events: EventRoutes;
  readonly #listener: Listener;
  #admission: Admission = 'starting';
  #openApiText: string;
  #expiry: Timer | undefined;

  constructor(deps: HttpServerDeps) {
    const { config, uws, port, isPortShared, router, operations, requestStats, watchers, versions, logger } = deps;
    const { bodyBytesMax, keyBytesMax, role } = config;
    this.#config = config;
    this.#router = router;
    this.#openApiText = this.#describe(bodyBytesMax);
    const access = new RequestAccess(config);
    const increments = new IncrementRoute(this, router, {
      bodyBytesMax,
      keyBytesMax,
      gatheredBytesMax: gatheredBytesMax(config),
      boundSentences: boundSentences(config),
      stats: requestStats,
    });
    const answers = new OperationAnswers(this, logger);
    const events = new EventRoutes({ config, server: this, access, answers, operations, watchers, logger });
    const sources = { operations, keyBytesMax, openApiText: () => this.#openApiText, versions };
    const routes = routeTable({ role, requestStats, access, increments, answers, events, sources });
    this.#access = access;
    this.#increments = increments;
    this.#answers = answers;
    this.#events = events;
    this.#listener = new Listener({ config, uws, port, isPortShared, routes, requestStats, logger });
  }

  /** Sets the limit of bodies. To be called before the server is open. */
  limitBodies(bodyBytesMax: number): void {
    this.#increments.limitBodies(bodyBytesMax);
    this.#openApiText = this.#describe(bodyBytesMax);
  }

  #describe(bodyBytesMax: number): string {
    const { keyBytesMax, authTokens } = this.#config;
    return openApiText({ bodyBytesMax, keyBytesMax, hasBearerTokens: authTokens.length > 0 });
  }

  /** The one admission state, which all routes read. */
  get admission(): Admission {
    return this.#admission;
  }

  get load(): HttpServerLoad {
    const isAnswering = !this.#router.isIdle || this.#answers.inFlight > 0;
    return { isAnswering, incrementsInFlight: this.#increments.inFlight };
  }

  /** Whether the build of uWebSockets.js can count connections. */
  get countsConnections(): boolean {
    return this.#listener.countsConnections;
  }

  /** Listens. Resolves to the port. Rejects with StartError if the port is not available. */
  async listen(): Promise<number> {
    const port = await this.#listener.listen();
    // A server that drains already has taken no increments, and its timer would never end.
    if (this.#admission !== 'draining') this.#startExpiry();
    return port;
  }

  /** Accepts new connections, or refuses them until the next call. Open connections are served in both states. */
  setAccepting(accepting: boolean): void {
    this.#listener.setAccepting(accepting);
  }

  /**
   * Uses other bearer tokens and, if its files have changed, the new certificate. Open connections keep the old certificate;
   * event streams whose token is no longer valid end. Resolves to a sentence if that is impossible; then nothing has changed.
   */
  async reload({ authTokens, isCertificateChanged }: Reloaded): Promise<string | undefined> {
    const problem = isCertificateChanged ? await this.#listener.renewCertificate() : undefined;
    if (problem !== undefined) return problem;
    this.#access.useTokens(authTokens);
    this.#events.endRefused();
    return undefined;
  }

  /**
   * Opens the server, or makes it refuse increments with a code. Only `open` changes `starting`; nothing changes `draining`.
   */
  setAdmission(admission: Admission): void {
    if (this.#admission === 'draining') return;
    if (this.#admission === 'starting' && admission !== 'open') return;
    this.#admission = admission;
  }

  /** Stops listening, and ends the event streams. Refuses new requests on open connections and requests with unfinished bodies as `draining`. */
  drain(): void {
    this.#admission = 'draining';
    this.#events.end();
    this.#increments.refuseUnread('draining');
    this.#listener.end();
  }

  /** Closes every connection. Must be called before the thread ends, or the process aborts. */
  close(): void {
    this.#expiry?.cancel();
    if (this.#admission !== 'draining') this.drain();
    this.#listener.close();
  }

  /** Starts the timer that answers requests after ACK_TIMEOUT_MS. */
  #startExpiry(): void {
    const everyMs = Math.max(10, Math.min(250, this.#config.ackTimeoutMs / 4));
    this.#expiry = repeat(systemClock, everyMs, () => {
      this.#router.expire();
    });
  }
}
