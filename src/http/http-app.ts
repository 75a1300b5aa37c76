/**
 * A uWebSockets.js application: listens, routes, and closes in order. Front-end thread.
 *
 * ```text
 * starting ──accept()──► accepting ──drain()──► draining ──close()──► closed
 * ```
 *
 * The port is open from the start: until `accept`, everything but the probes is 503 `starting`.
 */
import { CounterError, type ErrorCode } from '../core/errors.js';
import type { CounterOperations } from '../core/counter-operations.js';
import type { IncrementReceiver } from '../core/increment.js';
import { operationsByPath } from './api.js';
import type { Access, AccessControl } from './access.js';
import { IncrementRoute, type IncrementLimits } from './increment-route.js';
import { portRefused } from './port-claim.js';
import { problemReply, replyOfError, writeReply, type HttpReply } from './reply.js';
import { makeRoutes, type Route } from './routes.js';
import type { HttpRequest, HttpResponse, Uws, UwsApp, us_listen_socket } from './uws.js';

/** Most requests besides increments that are answered at a time; one more is 503 `overloaded`. */
const OPERATIONS_IN_FLIGHT_MAX = 10_000;

/** What a front end is made of. */
export interface HttpAppOptions {
  readonly uws: Uws;
  readonly host: string;
  readonly port: number;
  /** Other front ends of this process listen on the same port. */
  readonly isPortShared: boolean;
  readonly limits: IncrementLimits;
  readonly receiver: IncrementReceiver;
  readonly operations: CounterOperations;
  /** Who may do what; undefined: everybody everything. */
  readonly access: AccessControl | undefined;
  readonly openApiText: string;
  /** Told of errors that are not of the catalogue. */
  readonly onBug: (error: unknown) => void;
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
}

/** What the Allow header says of a method; HEAD goes with GET. */
const ALLOWED = { get: 'GET, HEAD', post: 'POST', delete: 'DELETE' } as const;

/** One front end. */
export class HttpApp {
  readonly #options: HttpAppOptions;
  readonly #app: UwsApp;
  readonly #increments: IncrementRoute;
  #socket: us_listen_socket | undefined;
  #state: 'starting' | 'accepting' | 'draining' = 'starting';
  #operationsInFlight = 0;

  constructor(options: HttpAppOptions) {
    this.#options = options;
    const { uws, tls } = options;
    this.#app = tls ? uws.SSLApp({ cert_file_name: tls.certFile, key_file_name: tls.keyFile }) : uws.App();
    this.#increments = new IncrementRoute(options.receiver, options.limits);
    this.#addRoutes();
  }

  /** Reads and other operations that wait for an answer. */
  get operationsInFlight(): number {
    return this.#operationsInFlight;
  }

  /** Increments that wait for their body or their outcome. */
  get incrementsInFlight(): number {
    return this.#increments.inFlight;
  }

  /** Listens, on a port that no one else has or that is shared; resolves to the port. Throws StartError where it cannot. */
  listen(): Promise<number> {
    const { uws, host, port, isPortShared } = this.#options;
    // Without this option the port would be shared, without a word, with any process of the same user.
    const option = isPortShared ? 0 : uws.LIBUS_LISTEN_EXCLUSIVE_PORT;
    return new Promise((resolve, reject) => {
      this.#app.listen(host, port, option, (socket) => {
        if (socket === false) {
          reject(portRefused(host, port));
          return;
        }
        this.#socket = socket;
        resolve(uws.us_socket_local_port(socket));
      });
    });
  }

  /** Increments and operations are taken from now on. */
  accept(): void {
    this.#state = 'accepting';
    this.#increments.admission = undefined;
  }

  /** Refuses increments with a code, or takes them again. */
  setAdmission(admission: ErrorCode | undefined): void {
    if (this.#state === 'accepting') this.#increments.admission = admission;
  }

  /** Stops listening; what comes on open connections, and what has come in part, is refused as `draining`. */
  drain(): void {
    this.#state = 'draining';
    this.#increments.admission = 'draining';
    this.#increments.refuseUnread('draining');
    if (this.#socket !== undefined) this.#options.uws.us_listen_socket_close(this.#socket);
    this.#socket = undefined;
  }

  /** Closes every connection. The application must be closed before its thread ends, or the process aborts. */
  close(): void {
    if (this.#state !== 'draining') this.drain();
    this.#app.close();
  }

  #addRoutes(): void {
    const { operations, limits, openApiText } = this.#options;
    const routes = makeRoutes(operations, limits.keyBytesMax, openApiText);
    for (const [path, operationsOfPath] of operationsByPath()) {
      const pattern = path.replace('{key}', '*');
      for (const [name, { method, access }] of operationsOfPath) {
        if (name === 'increment') this.#addIncrement(pattern, access);
        else this.#add(pattern, method, access, routes[name]);
      }
      const isOpen = operationsOfPath.every(([, { access }]) => access === 'open');
      const allow = operationsOfPath.map(([, { method }]) => ALLOWED[method]).join(', ');
      const problem = problemReply('method-not-allowed', `This path allows ${allow}.`, [['allow', allow]]);
      this.#refuse(pattern, isOpen ? 'open' : 'any', problem);
    }
    this.#refuse('/*', 'any', problemReply('not-found', 'There is nothing at this path.'));
  }

  #addIncrement(pattern: string, access: Access): void {
    this.#app.post(pattern, (res, req) => {
      if (this.#admits(res, req, access)) this.#increments.handle(res, req);
    });
  }

  #add(pattern: string, method: keyof typeof ALLOWED, access: Access, route: Route): void {
    const app = this.#app;
    const handle = (res: HttpResponse, req: HttpRequest): void => {
      if (this.#admits(res, req, access)) this.#answer(res, req, route, access === 'open');
    };
    if (method === 'get') app.get(pattern, handle).head(pattern, handle);
    else if (method === 'post') app.post(pattern, handle);
    else app.del(pattern, handle);
  }

  /** Answers what nothing before has taken. */
  #refuse(pattern: string, access: Access, problem: HttpReply): void {
    this.#app.any(pattern, (res, req) => {
      if (this.#admits(res, req, access)) reply(res, problem, req.getMethod() === 'head');
    });
  }

  /** Refuses those who may not, before anything else of their request is looked at, and before they are told anything. */
  #admits(res: HttpResponse, req: HttpRequest, access: Access): boolean {
    const control = this.#options.access;
    if (control === undefined) return true;
    const refusal = control.refusal(req.getHeader('authorization'), access);
    if (refusal === undefined) return true;
    const problem =
      refusal === 'unauthorized'
        ? problemReply(refusal, 'Send a valid token as Authorization: Bearer.', [['www-authenticate', 'Bearer']])
        : problemReply(refusal, 'The token does not have the scope that this operation needs.');
    reply(res, problem, req.getMethod() === 'head');
    return false;
  }

  #answer(res: HttpResponse, req: HttpRequest, route: Route, isProbe: boolean): void {
    const head = {
      method: req.getMethod(),
      path: req.getUrl(),
      query: rawQuery(req),
      idempotencyKey: req.getHeader('idempotency-key'),
    };
    const isHead = head.method === 'head';
    const refusal = isProbe ? undefined : this.#refusal();
    if (refusal !== undefined) {
      reply(res, refusal, isHead);
      return;
    }
    let aborted = false;
    res.onAborted(() => {
      aborted = true;
    });
    this.#operationsInFlight += 1;
    const finish = (answer: HttpReply): void => {
      this.#operationsInFlight -= 1;
      if (!aborted) reply(res, answer, isHead);
    };
    Promise.resolve()
      .then(() => route(head))
      .then(finish, (error: unknown) => {
        if (!(error instanceof CounterError)) this.#options.onBug(error);
        finish(replyOfError(error));
      });
  }

  #refusal(): HttpReply | undefined {
    if (this.#state === 'starting') return problemReply('starting', 'The server is recovering.');
    if (this.#state === 'draining') return problemReply('draining', 'The server is shutting down.');
    if (this.#operationsInFlight >= OPERATIONS_IN_FLIGHT_MAX) {
      return problemReply('overloaded', 'Too many requests wait for the database.');
    }
    return undefined;
  }
}

/** What follows the question mark; where there is none, 20.30 gives undefined, which its declaration does not say. */
function rawQuery(req: HttpRequest): string {
  const query: unknown = req.getQuery();
  return typeof query === 'string' ? query : '';
}

function reply(res: HttpResponse, answer: HttpReply, isHead: boolean): void {
  res.cork(() => {
    writeReply(res, answer, isHead);
  });
}
