import type { CounterOperations } from '../core/counter-operations.js';
import type { OperationName } from './api.js';
import { counterListRoute } from './counter-list-route.js';
import { counterRoute, keySumRoute, deleteCounterRoute } from './counter-routes.js';
import { flushRoute } from './flush-route.js';
import { healthRoute, readinessRoute } from './health-routes.js';
import { parseQuery } from './percent-encoding.js';
import { jsonReply, type HttpReply, type HttpRequestHead } from './reply.js';

/** Answers a request whose head is all there is to it. Rejects with CounterError, or with a bug. */
export type Route = (head: HttpRequestHead) => Promise<HttpReply> | HttpReply;

/** The routes by the name of their operation. `openApiText` is the document; `keyBytesMax` is MAX_KEY_BYTES. */
export function makeRoutes(
  operations: CounterOperations,
  keyBytesMax: number,
  openApiText: string,
): Readonly<Record<Exclude<OperationName, 'increment'>, Route>> {
  const deleteCounter: Route = (head) => deleteCounterRoute(head, operations, keyBytesMax);
  return {
    readSum: (head) => keySumRoute(head, operations, keyBytesMax),
    readCounter: (head) => counterRoute(head, operations, keyBytesMax),
    readCounters: (head) =>
      parseQuery(head.query).has('key')
        ? counterRoute(head, operations, keyBytesMax)
        : counterListRoute(head.query, operations),
    deleteCounter,
    deleteCounterByQuery: deleteCounter,
    flush: () => flushRoute(operations),
    health: () => healthRoute(),
    readiness: async () => readinessRoute(await operations.readiness()),
    openApi: () => jsonReply(200, openApiText),
  };
}
