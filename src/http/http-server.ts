/**
 * An HTTP server: the application of uWebSockets.js with its routes, in front of a router. HTTP thread.
 *
 * ```text
 * starting ──open──► open ◄──────► refusing increments (another code)
 *     └────────────────┴──────drain()──────┴──► draining ──close()──► closed
 * ```
 *
 * The port is open from the start. While the admission is `starting` or `draining`, everything but probes, metrics and the
 * version is refused with that code. Any other code refuses increments only.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { boundSentences, gatheredBytesMax } from '../config/bound-sentences.js';
import type { Config } from '../config/config.js';
import { CounterError, reasonOf, StartError } from '../core/errors.js';
import type { CounterOperations } from '../core/counter-operations.js';
import type { Admission, IncrementRouter } from '../core/increment.js';
import type { Logger } from '../core/logger.js';
import { isAlwaysAnswered, isStream, operationsByPath, type ApiOperation, type StreamName } from './api.js';
import { AccessControl, HostRule, type Access } from './access.js';
import { CrossOriginRule } from './cross-origin.js';
import type { VersionDocument } from './documents.js';
import { EventStreams, writeStreamHead, type EventStream } from './events/event-stream.js';
import { DashboardEvents } from './events/dashboard-events.js';
import { Watchers } from './events/watch.js';
import { readPageFiles, writePageFile, type PageFile } from './dashboard-page.js';
import { IncrementRoute } from './increment-route.js';
import { openApiText } from './openapi.js';
import { problemReply, replyOfError, writeReply, type HttpReply, type HttpRequestHead } from './reply.js';
import {
  ASSET_ROUTE,
  PAGE_ROUTE,
  PREFLIGHT_ROUTE,
  UNKNOWN_ROUTE,
  type RequestStats,
  type RouteStats,
  type SharedWatchers,
} from './request-stats.js';
import { makeRoutes, type Route } from './routes.js';
import {
  nativeText,
  type HttpRequest,
  type HttpResponse,
  type Uws,
  type UwsApp,
  type us_listen_socket,
} from './uws.js';

/** Most operations other than increments in flight. One more gets 503 `overloaded`. */
const OPERATIONS_IN_FLIGHT_MAX = 10_000;

/** Most applications with an old certificate. The oldest is closed, with its connections, before there would be more. */
const RETIRED_APPS_MAX = 16;

/** Wait between attempts to listen again. */
const LISTEN_RETRY_MS = 1_000;

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

/** What was read again while the server runs. */
export interface Reloaded {
  readonly authTokens: Config['authTokens'];
  /** The files of the TLS certificate have changed. */
  readonly isCertificateChanged: boolean;
}

/** The requests that an HTTP server must still answer. */
export interface HttpServerLoad {
  /** True while increments are with a shard, or other operations are in flight. */
  readonly isAnswering: boolean;
  /** Increments that wait for their body or their outcome. */
  readonly incrementsInFlight: number;
}

/**
 * Begins a stream: checks the request, where it may throw a CounterError, and returns what starts the events. That returns
 * what ends them.
 */
type StreamRoute = (head: HttpRequestHead) => (stream: EventStream) => () => void;

/** Why a client may not do what it asks for. */
interface AccessRefusal {
  readonly code: 'unauthorized' | 'forbidden';
  readonly problem: HttpReply;
}

/** The text for each method in the Allow header. GET includes HEAD. */
const ALLOWED = { get: 'GET, HEAD', post: 'POST', delete: 'DELETE' } as const;

/** Of TLS 1.2 the forward-secret AEAD suites only; all suites of TLS 1.3 are of that kind. */
const TLS_1_2_CIPHERS = 'ECDHE+AESGCM:ECDHE+CHACHA20';

/** The name of the header, in a form that uWebSockets.js need not convert. */
const HOST_HEADER = nativeText('host');
const HOST_REFUSED =
  'The Host header names another host; use an IP address or localhost, or add the name to ALLOWED_HOSTS.';

/** One HTTP server. The head of this file shows its states. */
export class HttpServer {
  readonly #deps: HttpServerDeps;
  /** Takes new connections. */
  #app: UwsApp;
  /** Applications with an old certificate, oldest first. They serve the connections that they have, and take no new ones. */
  readonly #retired = new Set<UwsApp>();
  /** Open connections of each application, where they are counted. */
  readonly #connectionsOf = new WeakMap<UwsApp, number>();
  /** Undefined if no tokens are configured: everything is permitted. */
  #access: AccessControl | undefined;
  /** Undefined where any Host header is allowed. */
  readonly #hosts: HostRule | undefined;
  /** Undefined if no other origin may call from a browser. */
  readonly #crossOrigin: CrossOriginRule | undefined;
  readonly #increments: IncrementRoute;
  readonly #streams: EventStreams;
  readonly #streamRoutes: Readonly<Record<StreamName, StreamRoute>>;
  readonly #pageFiles = readPageFiles();
  #admission: Admission = 'starting';
  #openApiText: string;
  /** Undefined while the server does not listen. */
  #socket: us_listen_socket | undefined;
  /** Listens with an old certificate, beside {@link #socket}, until what waits there is accepted. */
  #oldSocket: us_listen_socket | undefined;
  /** The port that the server listens on, once it has listened. */
  #port = 0;
  #isAccepting = true;
  #relisten: NodeJS.Timeout | undefined;
  #expiry: NodeJS.Timeout | undefined;
  #operationsInFlight = 0;

  constructor(deps: HttpServerDeps) {
    this.#deps = deps;
    const { config, router, requestStats } = deps;
    const { bodyBytesMax, keyBytesMax } = config;
    this.#access = AccessControl.of(config.authTokens);
    this.#hosts = HostRule.of(config);
    this.#crossOrigin = CrossOriginRule.of(config);
    this.#increments = new IncrementRoute(this, router, {
      bodyBytesMax,
      keyBytesMax,
      gatheredBytesMax: gatheredBytesMax(config),
      boundSentences: boundSentences(config),
      stats: requestStats,
    });
    this.#openApiText = this.#describe(bodyBytesMax);
    this.#streams = new EventStreams(deps.watchers, config.watchersMax);
    this.#streamRoutes = this.#makeStreamRoutes();
    this.#app = this.#makeApp();
  }

  #makeApp(): UwsApp {
    const { config, uws } = this.#deps;
    const { tls } = config;
    const app = tls
      ? uws.SSLApp({ cert_file_name: tls.certFile, key_file_name: tls.keyFile, ssl_ciphers: TLS_1_2_CIPHERS })
      : uws.App();
    this.#countConnections(app);
    this.#addRoutes(app);
    return app;
  }

  /** Sets the limit of bodies. To be called before the server is open: until then it takes none. */
  limitBodies(bodyBytesMax: number): void {
    this.#increments.limitBodies(bodyBytesMax);
    this.#openApiText = this.#describe(bodyBytesMax);
  }

  #describe(bodyBytesMax: number): string {
    const { keyBytesMax, authTokens } = this.#deps.config;
    return openApiText({ bodyBytesMax, keyBytesMax, hasBearerTokens: authTokens.length > 0 });
  }

  /** The one admission state, which all routes read. */
  get admission(): Admission {
    return this.#admission;
  }

  get load(): HttpServerLoad {
    const isAnswering = !this.#deps.router.isIdle || this.#operationsInFlight > 0;
    return { isAnswering, incrementsInFlight: this.#increments.inFlight };
  }

  /** Whether the build of uWebSockets.js can count connections. */
  get countsConnections(): boolean {
    return this.#app.filter !== undefined;
  }

  /** Listens. Resolves to the port. Rejects with StartError if the port cannot be had. */
  listen(): Promise<number> {
    const { config, uws, port } = this.#deps;
    return new Promise((resolve, reject) => {
      this.#listenOn(port, (socket) => {
        if (socket === false) {
          reject(portRefused(config.host, port));
          return;
        }
        this.#startExpiry();
        this.#port = uws.us_socket_local_port(socket);
        if (!this.#isAccepting) this.#stopListening();
        resolve(this.#port);
      });
    });
  }

  /**
   * Accepts new connections, or closes the listening socket until the next call. Open connections are served in both
   * states.
   */
  setAccepting(accepting: boolean): void {
    this.#isAccepting = accepting;
    if (!accepting) this.#stopListening();
    else if (this.#socket === undefined && this.#port !== 0) this.#listenAgain();
  }

  #listenAgain(): void {
    if (!this.#isAccepting || this.#admission === 'draining') return;
    const { config, logger } = this.#deps;
    this.#listenOn(this.#port, (socket) => {
      if (socket !== false) return;
      const { problems } = portRefused(config.host, this.#port);
      logger.error({ retryMs: LISTEN_RETRY_MS }, `${problems.join(' ')} New connections are refused; trying again`);
      this.#relisten = setTimeout(() => {
        this.#listenAgain();
      }, LISTEN_RETRY_MS);
    });
  }

  #listenOn(port: number, callback: (socket: us_listen_socket | false) => void): void {
    this.#listenWith(this.#app, port, (socket) => {
      if (socket !== false) this.#socket = socket;
      callback(socket);
    });
  }

  #listenWith(app: UwsApp, port: number, callback: (socket: us_listen_socket | false) => void): void {
    const { config, uws, isPortShared } = this.#deps;
    // Without this option any process of the same user could silently share the port.
    const option = isPortShared ? 0 : uws.LIBUS_LISTEN_EXCLUSIVE_PORT;
    app.listen(config.host, port, option, callback);
  }

  #stopListening(): void {
    clearTimeout(this.#relisten);
    this.#closeOldSocket();
    if (this.#socket !== undefined) this.#deps.uws.us_listen_socket_close(this.#socket);
    this.#socket = undefined;
  }

  #closeOldSocket(): void {
    if (this.#oldSocket !== undefined) this.#deps.uws.us_listen_socket_close(this.#oldSocket);
    this.#oldSocket = undefined;
  }

  /**
   * Uses other bearer tokens and, if its files have changed, the new certificate from now on. Open connections keep the old
   * certificate; event streams whose token is no longer valid end. Resolves to why that is impossible, in a sentence; then
   * nothing has changed.
   */
  async reload({ authTokens, isCertificateChanged }: Reloaded): Promise<string | undefined> {
    if (isCertificateChanged && this.#admission !== 'draining') {
      const problem = await this.#replaceApp();
      if (problem !== undefined) return problem;
    }
    this.#access = AccessControl.of(authTokens);
    this.#streams.endRefused();
    return undefined;
  }

  /** Listens with the new certificate, beside the old socket for a moment, so that no connection is refused. */
  async #replaceApp(): Promise<string | undefined> {
    let app: UwsApp;
    try {
      app = this.#makeApp();
    } catch (error) {
      return `The TLS certificate cannot be used: ${reasonOf(error)}.`;
    }
    if (this.#socket !== undefined) {
      const socket = await new Promise<us_listen_socket | false>((resolve) => {
        this.#listenWith(app, this.#port, resolve);
      });
      if (socket === false) {
        app.close();
        return portRefused(this.#deps.config.host, this.#port).message;
      }
      this.#oldSocket = this.#socket;
      this.#socket = socket;
    }
    const old = this.#app;
    this.#app = app;
    // Connections that the kernel holds for a socket are reset when it closes. So it closes right after the event loop has
    // looked for them: the first turn ends the current round of the loop, the next ones are whole rounds.
    for (let turn = 0; turn < 3; turn += 1) await nextTurn();
    this.#closeOldSocket();
    this.#retire(old);
    return undefined;
  }

  #retire(app: UwsApp): void {
    const [oldest] = this.#retired;
    if (this.#retired.size >= RETIRED_APPS_MAX && oldest !== undefined) this.#closeRetired(oldest);
    this.#retired.add(app);
    if (app.filter !== undefined && this.#connectionsOf.get(app) === 0) this.#closeRetired(app);
  }

  #closeRetired(app: UwsApp): void {
    if (this.#retired.delete(app)) app.close();
  }

  /**
   * Opens the server, or makes it refuse increments with a code. While the server is `starting`, only `open` has an
   * effect; once it is `draining`, nothing has.
   */
  setAdmission(admission: Admission): void {
    if (this.#admission === 'draining') return;
    if (this.#admission === 'starting' && admission !== 'open') return;
    this.#admission = admission;
  }

  /** Stops listening, and ends the event streams. Refuses new requests on open connections and requests with unfinished bodies as `draining`. */
  drain(): void {
    this.#admission = 'draining';
    this.#streams.end();
    this.#increments.refuseUnread('draining');
    this.#stopListening();
  }

  /** Closes every connection. The application must be closed before its thread ends, or the process aborts. */
  close(): void {
    clearInterval(this.#expiry);
    if (this.#admission !== 'draining') this.drain();
    for (const app of [...this.#retired, this.#app]) app.close();
    this.#retired.clear();
  }

  /** Starts the timer that answers requests which wait for a shard longer than ACK_TIMEOUT_MS. */
  #startExpiry(): void {
    const { config, router } = this.#deps;
    this.#expiry = setInterval(
      () => {
        router.expire();
      },
      Math.max(10, Math.min(250, config.ackTimeoutMs / 4)),
    );
  }

  /** Build 20.30 cannot count connections. A retired application is closed after its last one, where they are counted. */
  #countConnections(app: UwsApp): void {
    const { requestStats } = this.#deps;
    this.#connectionsOf.set(app, 0);
    app.filter?.((_, more) => {
      requestStats.addConnections(Number(more));
      const connections = (this.#connectionsOf.get(app) ?? 0) + Number(more);
      this.#connectionsOf.set(app, connections);
      if (connections === 0 && this.#retired.has(app)) setImmediate(() => this.#closeRetired(app));
    });
  }

  #addRoutes(app: UwsApp): void {
    const { operations, config, requestStats } = this.#deps;
    const { keyBytesMax } = config;
    const document = (): string => this.#openApiText;
    const routes = makeRoutes({ operations, keyBytesMax, openApiText: document, versions: this.#deps.versions });
    for (const [path, operationsOfPath] of operationsByPath()) {
      const pattern = path.replace('{key}', '*');
      const stats = requestStats.of(path);
      const taken = operationsOfPath.filter(([name]) => name !== 'increment' || config.role !== 'roll-up');
      for (const [name, operation] of taken) {
        if (name === 'increment') this.#addIncrement(app, pattern, operation.access, stats);
        else if (isStream(name)) this.#addStream(app, pattern, operation, this.#streamRoutes[name], stats);
        else this.#add(app, pattern, operation, routes[name], stats);
      }
      const isOpen = operationsOfPath.every(([, { access }]) => access === 'open');
      this.#refuse(app, pattern, isOpen ? 'open' : 'any', methodNotAllowed(taken), stats);
    }
    for (const file of this.#pageFiles) this.#addPageFile(app, file);
    const unknown = problemReply('not-found', 'No operation has this path; see /openapi.json.');
    this.#refuse(app, '/*', 'any', unknown, requestStats.of(UNKNOWN_ROUTE));
  }

  #addPageFile(app: UwsApp, file: PageFile): void {
    const stats = this.#deps.requestStats.of(file.path === '/' ? PAGE_ROUTE : ASSET_ROUTE);
    const handle = (res: HttpResponse, req: HttpRequest): void => {
      if (!this.#admits(res, req, 'page', stats)) return;
      const options = { ifNoneMatch: req.getHeader('if-none-match'), isHead: req.getMethod() === 'head' };
      res.cork(() => stats.count(writePageFile(res, file, options)));
    };
    app.get(file.path, handle).head(file.path, handle);
    this.#refuse(app, file.path, 'page', methodNotAllowed([['page', { method: 'get' }]]), stats);
  }

  #addIncrement(app: UwsApp, pattern: string, access: Access, stats: RouteStats): void {
    app.post(pattern, (res, req) => {
      this.#crossOrigin?.mark(res, req);
      const refusal = this.#admissionRefusal(req, access);
      if (refusal === undefined) {
        this.#increments.handle(res, req);
        return;
      }
      this.#deps.requestStats.countRefusal(refusal.code);
      reply(res, refusal.problem, false, stats);
    });
  }

  #add(app: UwsApp, pattern: string, operation: ApiOperation, route: Route, stats: RouteStats): void {
    const { method, access } = operation;
    const isAlways = isAlwaysAnswered(operation);
    const handle = (res: HttpResponse, req: HttpRequest): void => {
      if (this.#admits(res, req, access, stats)) this.#answer(res, req, route, { isAlways, stats });
    };
    if (method === 'get') app.get(pattern, handle).head(pattern, handle);
    else if (method === 'post') app.post(pattern, handle);
    else app.del(pattern, handle);
  }

  #makeStreamRoutes(): Readonly<Record<StreamName, StreamRoute>> {
    const { operations, config, logger } = this.#deps;
    const reportBug = (err: unknown): void => logger.error({ err }, 'An event stream failed because of a bug');
    const watchers = new Watchers(operations, { keyBytesMax: config.keyBytesMax, reportBug });
    const dashboards = new DashboardEvents(operations, reportBug);
    return {
      dashboardEvents: () => (stream) => dashboards.add(stream),
      watch: (head) => {
        const keys = watchers.keysOf(head);
        return (stream) => watchers.add(stream, keys);
      },
    };
  }

  #addStream(app: UwsApp, pattern: string, operation: ApiOperation, route: StreamRoute, stats: RouteStats): void {
    const handle = (res: HttpResponse, req: HttpRequest): void => {
      if (!this.#admits(res, req, operation.access, stats)) return;
      const head = headOf(req);
      const isHead = head.method === 'head';
      const authorization = req.getHeader('authorization');
      const isPermitted = (): boolean => this.#access?.refusal(authorization, operation.access) === undefined;
      try {
        // A dashboard shows a start, too. A stop ends all streams and takes no new one.
        const isStartShown = isAlwaysAnswered(operation) && this.#admission === 'starting';
        const refusal = isStartShown ? undefined : this.#refusal();
        if (refusal !== undefined) {
          reply(res, refusal, isHead, stats);
          return;
        }
        const start = route(head);
        if (this.#streams.isFull) reply(res, this.#tooManyStreams(), isHead, stats);
        else if (isHead) writeStreamHead(res, stats);
        else this.#openStream(res, start, { isPermitted, stats });
      } catch (error) {
        reply(res, replyOfError(error), isHead, stats);
      }
    };
    app.get(pattern, handle).head(pattern, handle);
  }

  #openStream(
    res: HttpResponse,
    start: ReturnType<StreamRoute>,
    { isPermitted, stats }: { readonly isPermitted: () => boolean; readonly stats: RouteStats },
  ): void {
    const stream = this.#streams.open(res, stats, isPermitted);
    if (stream === undefined) reply(res, this.#tooManyStreams(), false, stats);
    else stream.onOver(start(stream));
  }

  #tooManyStreams(): HttpReply {
    const { watchersMax } = this.#deps.config;
    const detail = `${watchersMax} event streams (MAX_WATCHERS), the most, are open; close some, or retry later.`;
    return problemReply('overloaded', detail);
  }

  /** Answers requests that match no earlier route: with the problem, or as a preflight, which carries no token. */
  #refuse(app: UwsApp, pattern: string, access: Access, problem: HttpReply, stats: RouteStats): void {
    const preflightStats = this.#deps.requestStats.of(PREFLIGHT_ROUTE);
    app.any(pattern, (res, req) => {
      const preflight = req.getMethod() === 'options' ? this.#crossOrigin?.preflightReply(req) : undefined;
      if (preflight !== undefined) {
        if (this.#admits(res, req, 'page', preflightStats)) reply(res, preflight, false, preflightStats);
      } else if (this.#admits(res, req, access, stats)) reply(res, problem, req.getMethod() === 'head', stats);
    });
  }

  /** Prepares the answer for the origin. Answers a request that may not go on; false if so. */
  #admits(res: HttpResponse, req: HttpRequest, access: Access, stats: RouteStats): boolean {
    this.#crossOrigin?.mark(res, req);
    const refusal = this.#admissionRefusal(req, access);
    if (refusal === undefined) return true;
    reply(res, refusal.problem, req.getMethod() === 'head', stats);
    return false;
  }

  /** Checks Host and bearer token before anything else, so that a refused client learns nothing. */
  #admissionRefusal(req: HttpRequest, access: Access): AccessRefusal | undefined {
    if (this.#hosts !== undefined && access !== 'open' && !this.#hosts.allows(req.getHeader(HOST_HEADER)))
      return { code: 'forbidden', problem: problemReply('forbidden', HOST_REFUSED) };
    if (this.#access === undefined) return undefined;
    const code = this.#access.refusal(req.getHeader('authorization'), access);
    if (code === undefined) return undefined;
    const problem =
      code === 'unauthorized'
        ? problemReply(code, 'The request has no valid bearer token; send Authorization: Bearer TOKEN.', [
            ['www-authenticate', 'Bearer'],
          ])
        : problemReply(code, 'The token lacks the scope of this operation; use a token with that scope.');
    return { code, problem };
  }

  #answer(
    res: HttpResponse,
    req: HttpRequest,
    route: Route,
    { isAlways, stats }: { readonly isAlways: boolean; readonly stats: RouteStats },
  ): void {
    const head = headOf(req);
    const isHead = head.method === 'head';
    const refusal = isAlways ? undefined : this.#refusal();
    if (refusal !== undefined) {
      reply(res, refusal, isHead, stats);
      return;
    }
    let aborted = false;
    res.onAborted(() => {
      aborted = true;
    });
    this.#operationsInFlight += 1;
    const finish = (answer: HttpReply): void => {
      this.#operationsInFlight -= 1;
      if (!aborted) reply(res, answer, isHead, stats);
    };
    // Not before the parser has read what came with the request. It answers malformed bytes with an error and aborts the
    // request; a delete would then be done and its sum lost.
    setImmediate(() => {
      if (aborted) this.#operationsInFlight -= 1;
      else void this.#replyOf(route, head).then(finish);
    });
  }

  async #replyOf(route: Route, head: HttpRequestHead): Promise<HttpReply> {
    try {
      return await route(head);
    } catch (error) {
      if (!(error instanceof CounterError))
        this.#deps.logger.error({ err: error }, 'A request failed because of a bug; answering internal-error');
      return replyOfError(error);
    }
  }

  #refusal(): HttpReply | undefined {
    if (this.#admission === 'starting') return problemReply('starting', 'The server is starting; try again later.');
    if (this.#admission === 'draining')
      return problemReply('draining', 'The server is shutting down; retry later or on another server.');
    if (this.#operationsInFlight >= OPERATIONS_IN_FLIGHT_MAX) {
      const detail = `${OPERATIONS_IN_FLIGHT_MAX} operations, the most of an HTTP thread, are in flight; retry later.`;
      return problemReply('overloaded', detail);
    }
    return undefined;
  }
}

/**
 * Proves that no other process listens on the port; 0 finds a free port. Resolves to the port.
 *
 * HTTP servers that share a port would silently share it with any other process of the same user. So this function
 * first takes the port exclusively for a moment, and releases it. Two processes that start within the same millisecond
 * can miss each other. Rejects with StartError, exit code 1, if the port is in use.
 */
export async function reservePort(host: string, port: number): Promise<number> {
  const server = createServer();
  try {
    server.listen({ host, port, exclusive: true });
    await once(server, 'listening');
  } catch (error) {
    throw portRefused(host, port, error);
  }
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address !== null ? address.port : port;
}

/** The refusal of every other method of a path. A path may take none: a roll-up takes no increments. */
function methodNotAllowed(
  operations: readonly (readonly [string, { readonly method: keyof typeof ALLOWED }])[],
): HttpReply {
  const allow = operations.map(([, { method }]) => ALLOWED[method]).join(', ');
  const detail =
    allow === '' ? 'This server only flushes what others have taken (ROLE=roll-up).' : `This path allows ${allow}.`;
  return problemReply('method-not-allowed', detail, [['allow', allow]]);
}

function portRefused(host: string, port: number, cause?: unknown): StartError {
  const problem = `Port ${port} on ${host} is not available: it is in use, or not permitted.`;
  return new StartError([problem], { exitCode: 1, cause });
}

/** The text after the question mark. Without one, 20.30 returns undefined, contrary to its declaration. */
function rawQuery(req: HttpRequest): string {
  const query: unknown = req.getQuery();
  return typeof query === 'string' ? query : '';
}

function headOf(req: HttpRequest): HttpRequestHead {
  return {
    method: req.getMethod(),
    path: req.getUrl(),
    query: rawQuery(req),
    idempotencyKey: req.getHeader('idempotency-key'),
  };
}

function reply(res: HttpResponse, answer: HttpReply, isHead: boolean, stats: RouteStats): void {
  stats.count(answer.status);
  res.cork(() => {
    writeReply(res, answer, isHead);
  });
}
