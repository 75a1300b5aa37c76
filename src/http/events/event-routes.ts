/** The routes whose answers are event streams. HTTP thread. */
import type { Config } from '../../config/config.js';
import type { CounterOperations } from '../../core/counter-operations.js';
import type { Admission } from '../../core/increment.js';
import type { Logger } from '../../core/logger.js';
import { isAlwaysAnswered, type ApiOperation, type StreamName } from '../api.js';
import type { OperationAnswers } from '../operation-answers.js';
import { answer, headOf, problemReply, replyOfError, type HttpReply, type HttpRequestHead } from '../reply.js';
import type { RequestAccess } from '../request-access.js';
import type { RouteStats, SharedWatchers } from '../request-stats.js';
import type { HttpRequest, HttpResponse } from '../uws.js';
import { DashboardEvents } from './dashboard-events.js';
import { EventStreams, writeStreamHead, type EventStream } from './event-stream.js';
import { Watchers } from './watch.js';

/**
 * Checks a request and returns a function that starts the events, which returns a function that ends them. Throws a
 * CounterError for a bad request.
 */
type StreamRoute = (head: HttpRequestHead) => (stream: EventStream) => () => void;

/** The collaborators of event routes. */
export interface EventRoutesDeps {
  readonly config: Config;
  /** Has the admission. */
  readonly server: { readonly admission: Admission };
  readonly access: RequestAccess;
  readonly answers: OperationAnswers;
  readonly operations: CounterOperations;
  /** Counts the event streams of all HTTP servers. */
  readonly watchers: SharedWatchers;
  readonly logger: Logger;
}

/** The event streams of one HTTP server. */
export class EventRoutes {
  readonly #deps: EventRoutesDeps;
  readonly #streams: EventStreams;
  readonly #routes: Readonly<Record<StreamName, StreamRoute>>;

  constructor(deps: EventRoutesDeps) {
    const { operations, config, logger } = deps;
    this.#deps = deps;
    this.#streams = new EventStreams(deps.watchers, config.watchersMax);
    const reportBug = (err: unknown): void => logger.error({ err }, 'An event stream failed because of a bug');
    const watchers = new Watchers(operations, { keyBytesMax: config.keyBytesMax, reportBug });
    const dashboards = new DashboardEvents(operations, reportBug);
    this.#routes = {
      dashboardEvents: () => (stream) => dashboards.add(stream),
      watch: (head) => {
        const keys = watchers.keysOf(head);
        return (stream) => watchers.add(stream, keys);
      },
    };
  }

  /** Ends the streams of clients that are no longer permitted. */
  endRefused(): void {
    this.#streams.endRefused();
  }

  /** Ends all streams. */
  end(): void {
    this.#streams.end();
  }

  /** Answers a request of a permitted client. */
  answer(res: HttpResponse, req: HttpRequest, name: StreamName, operation: ApiOperation, stats: RouteStats): void {
    const { access, answers, server } = this.#deps;
    const head = headOf(req);
    const isHead = head.method === 'head';
    const authorization = req.getHeader('authorization');
    const isPermitted = (): boolean => access.isPermitted(authorization, operation.access);
    try {
      // A dashboard also shows a start. A stop ends all streams and takes no new one.
      const isStartShown = isAlwaysAnswered(operation) && server.admission === 'starting';
      const refusal = isStartShown ? undefined : answers.refusal();
      if (refusal !== undefined) {
        answer(res, refusal, isHead, stats);
        return;
      }
      const start = this.#routes[name](head);
      if (this.#streams.isFull) answer(res, this.#tooManyStreams(), isHead, stats);
      else if (isHead) writeStreamHead(res, stats);
      else this.#open(res, start, { isPermitted, stats });
    } catch (error) {
      answer(res, replyOfError(error), isHead, stats);
    }
  }

  #open(
    res: HttpResponse,
    start: ReturnType<StreamRoute>,
    { isPermitted, stats }: { readonly isPermitted: () => boolean; readonly stats: RouteStats },
  ): void {
    const stream = this.#streams.open(res, stats, isPermitted);
    if (stream === undefined) answer(res, this.#tooManyStreams(), false, stats);
    else stream.onOver(start(stream));
  }

  #tooManyStreams(): HttpReply {
    const { watchersMax } = this.#deps.config;
    const detail = `MAX_WATCHERS (${watchersMax}) event streams are open; close some, or retry later.`;
    return problemReply('overloaded', detail);
  }
}
