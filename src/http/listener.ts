/**
 * Listens on a port, also while the TLS certificate changes. HTTP thread.
 *
 * ```text
 * accepting ◄──► pausing      a pause closes the listening socket; open connections are served in all states
 *     └──────end()─────┴──► ended ──close()──► every connection is closed
 * ```
 *
 * A new certificate needs a new application of uWebSockets.js. The old one is retired: it serves its open connections.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import { reasonOf, StartError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { RequestStats } from './request-stats.js';
import type { RouteEntry } from './route-table.js';
import type { Uws, UwsApp, us_listen_socket } from './uws.js';

/** Most applications with an old certificate. Beyond that the oldest is closed with its connections. */
const RETIRED_APPS_MAX = 16;

/** Wait between attempts to listen again. */
const LISTEN_RETRY_MS = 1_000;

/** Only the forward-secret AEAD suites of TLS 1.2. All suites of TLS 1.3 are of that kind. */
const TLS_1_2_CIPHERS = 'ECDHE+AESGCM:ECDHE+CHACHA20';

/** The collaborators and values of a listener. */
export interface ListenerDeps {
  readonly config: Pick<Config, 'host' | 'tls'>;
  readonly uws: Uws;
  /** 0: any free port. */
  readonly port: number;
  /** Other HTTP servers of this process listen on the same port. */
  readonly isPortShared: boolean;
  /** Added to each application in this order. */
  readonly routes: readonly RouteEntry[];
  readonly requestStats: RequestStats;
  readonly logger: Logger;
}

/** See the file's head. */
export class Listener {
  readonly #deps: ListenerDeps;
  /** Takes new connections. */
  #app: UwsApp;
  /** Applications with an old certificate, oldest first. They take no new connections. */
  readonly #retired = new Set<UwsApp>();
  /** Open connections of each application, if counted. */
  readonly #connectionsOf = new WeakMap<UwsApp, number>();
  /** Undefined while the server does not listen. */
  #socket: us_listen_socket | undefined;
  /** Listens with an old certificate, beside {@link #socket}, until its waiting connections are accepted. */
  #oldSocket: us_listen_socket | undefined;
  /** The port, once the server has listened. */
  #port = 0;
  #state: 'accepting' | 'pausing' | 'ended' = 'accepting';
  #relisten: NodeJS.Timeout | undefined;

  constructor(deps: ListenerDeps) {
    this.#deps = deps;
    this.#app = this.#makeApp();
  }

  /** Whether the build of uWebSockets.js can count connections. */
  get countsConnections(): boolean {
    return this.#app.filter !== undefined;
  }

  /** Listens. Resolves to the port. Rejects with StartError if the port is not available. */
  listen(): Promise<number> {
    const { config, uws, port } = this.#deps;
    return new Promise((resolve, reject) => {
      this.#listenOn(port, (socket) => {
        if (socket === false) {
          reject(portRefused(config.host, port));
          return;
        }
        this.#port = uws.us_socket_local_port(socket);
        if (this.#state !== 'accepting') this.#stopListening();
        resolve(this.#port);
      });
    });
  }

  /**
   * Accepts new connections, or closes the listening socket until the next call. Open connections are served in both
   * states.
   */
  setAccepting(accepting: boolean): void {
    if (this.#state === 'ended') return;
    this.#state = accepting ? 'accepting' : 'pausing';
    if (!accepting) this.#stopListening();
    else if (this.#socket === undefined && this.#port !== 0) this.#listenAgain();
  }

  #listenAgain(): void {
    if (this.#state !== 'accepting') return;
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
   * Listens with the new certificate, for a moment beside the old socket, so that no connection is refused. Open connections
   * keep the old one. Resolves to a sentence if that is impossible; then nothing has changed.
   */
  async renewCertificate(): Promise<string | undefined> {
    if (this.#state === 'ended') return undefined;
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
    // The kernel resets connections that wait on a closed socket. So it closes right after the event loop has accepted them:
    // the first turn ends the current round of the loop, the next ones are whole rounds.
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

  /** Stops listening for good. */
  end(): void {
    this.#state = 'ended';
    this.#stopListening();
  }

  /** Closes every connection. Must be called before the thread ends, or the process aborts. */
  close(): void {
    this.end();
    for (const app of [...this.#retired, this.#app]) app.close();
    this.#retired.clear();
  }

  #makeApp(): UwsApp {
    const { config, uws, routes } = this.#deps;
    const { tls } = config;
    const app = tls
      ? uws.SSLApp({ cert_file_name: tls.certFile, key_file_name: tls.keyFile, ssl_ciphers: TLS_1_2_CIPHERS })
      : uws.App();
    this.#countConnections(app);
    for (const { method, pattern, handle } of routes) app[method](pattern, handle);
    return app;
  }

  /** Counts connections, which build 20.30 cannot, and closes a retired application after its last one. */
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
}

/**
 * Proves that no other process listens on the port; 0 finds a free port. Resolves to the port.
 *
 * HTTP servers that share a port would silently share it with any other process of the same user. So this function takes the
 * port exclusively for a moment. Two processes that start in the same millisecond can miss each other. Rejects with StartError,
 * exit code 1, if the port is in use.
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

function portRefused(host: string, port: number, cause?: unknown): StartError {
  const problem = `Port ${port} on ${host} is not available: it is in use, or not permitted.`;
  return new StartError([problem], { exitCode: 1, cause });
}
