/** Answers the operations that read or delete, within their bound. HTTP thread. */
import { CounterError } from '../core/errors.js';
import type { Admission } from '../core/increment.js';
import type { Logger } from '../core/logger.js';
import { answer, headOf, problemReply, replyOfError, type HttpReply, type HttpRequestHead } from './reply.js';
import type { RouteStats } from './request-stats.js';
import type { Route } from './routes.js';
import type { HttpRequest, HttpResponse } from './uws.js';

/** Most operations in flight, besides increments. One more gets 503 `overloaded`. */
const OPERATIONS_IN_FLIGHT_MAX = 10_000;

/** Answers the operations of one HTTP server, besides increments. */
export class OperationAnswers {
  readonly #server: { readonly admission: Admission };
  readonly #logger: Logger;
  #inFlight = 0;

  /** `server` has the admission. */
  constructor(server: { readonly admission: Admission }, logger: Logger) {
    this.#server = server;
    this.#logger = logger;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** The refusal of all operations, if any. */
  refusal(): HttpReply | undefined {
    if (this.#server.admission === 'starting')
      return problemReply('starting', 'The server is starting; try again later.');
    if (this.#server.admission === 'draining')
      return problemReply('draining', 'The server is shutting down; retry later or on another server.');
    if (this.#inFlight >= OPERATIONS_IN_FLIGHT_MAX) {
      const detail = `${OPERATIONS_IN_FLIGHT_MAX} operations are in flight, which is the limit of an HTTP thread; retry later.`;
      return problemReply('overloaded', detail);
    }
    return undefined;
  }

  /** Answers a request of a permitted client. */
  answer(
    res: HttpResponse,
    req: HttpRequest,
    route: Route,
    { isAlways, stats }: { readonly isAlways: boolean; readonly stats: RouteStats },
  ): void {
    const head = headOf(req);
    const isHead = head.method === 'head';
    const refusal = isAlways ? undefined : this.refusal();
    if (refusal !== undefined) {
      answer(res, refusal, isHead, stats);
      return;
    }
    let aborted = false;
    res.onAborted(() => {
      aborted = true;
    });
    this.#inFlight += 1;
    const finish = (reply: HttpReply): void => {
      this.#inFlight -= 1;
      if (!aborted) answer(res, reply, isHead, stats);
    };
    // After the parser has read the bytes behind the request. It answers malformed ones with an error and aborts the request;
    // the sum of a delete would be lost.
    setImmediate(() => {
      if (aborted) this.#inFlight -= 1;
      else void this.#replyOf(route, head).then(finish);
    });
  }

  async #replyOf(route: Route, head: HttpRequestHead): Promise<HttpReply> {
    try {
      return await route(head);
    } catch (error) {
      if (!(error instanceof CounterError))
        this.#logger.error({ err: error }, 'A request failed because of a bug; answering internal-error');
      return replyOfError(error);
    }
  }
}
