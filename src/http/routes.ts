/**
 * The routes of all operations except POST /increment. Their requests have no body. HTTP thread.
 */
import { CounterError } from '../core/errors.js';
import type { CounterOperations, CounterReading, Readiness } from '../core/counter-operations.js';
import type { OperationName } from './api.js';
import type {
  CounterDocument,
  CounterListDocument,
  DeletedCounterDocument,
  FlushDocument,
  ReadinessDocument,
  VersionDocument,
} from './documents.js';
import { documentReply, jsonReply, problemReply, textReply, type HttpReply, type HttpRequestHead } from './reply.js';
import { checkIdempotencyKey, checkKey, decodePercent, parseQuery } from './request-parameters.js';

/** Most counters of a page. */
export const LIST_LIMIT_MAX = 1000;

/** Counters of a page if the request has no `limit`. */
export const LIST_LIMIT_DEFAULT = 100;

/** Answers a request. Rejects with a CounterError; anything else is a bug. */
export type Route = (head: HttpRequestHead) => Promise<HttpReply> | HttpReply;

/** What the routes answer from. `keyBytesMax` is MAX_KEY_BYTES; `openApiText` is the document. */
export interface RouteSources {
  readonly operations: CounterOperations;
  readonly keyBytesMax: number;
  readonly openApiText: string;
  readonly versions: VersionDocument;
}

/** The routes by the name of their operation. */
export function makeRoutes({
  operations,
  keyBytesMax,
  openApiText,
  versions,
}: RouteSources): Readonly<Record<Exclude<OperationName, 'increment'>, Route>> {
  const deleteCounter: Route = (head) => deleteRoute(head, operations, keyBytesMax);
  return {
    readSum: (head) => keySumRoute(head, operations, keyBytesMax),
    readCounter: (head) => counterRoute(head, operations, keyBytesMax),
    readCounters: (head) =>
      parseQuery(head.query).has('key')
        ? counterRoute(head, operations, keyBytesMax)
        : counterListRoute(head, operations),
    deleteCounter,
    deleteCounterByQuery: deleteCounter,
    flush: async () => documentReply<FlushDocument>({ flushed_keys: await operations.flush() }),
    // The answer itself shows that the event loop of this thread runs.
    health: () => textReply('ok'),
    readiness: async () => readinessReply(await operations.readiness()),
    metrics: async () => ({ status: 200, contentType: METRICS_MEDIA_TYPE, body: await operations.metrics() }),
    version: () => documentReply<VersionDocument>(versions),
    openApi: () => jsonReply(openApiText),
  };
}

/** The text exposition format of Prometheus. */
export const METRICS_MEDIA_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

const COUNTER_PATH = '/counters/';

/** GET /key_sum?name=KEY: the sum as digits. */
async function keySumRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const name = parseQuery(head.query).get('name');
  if (name === undefined) throw new CounterError('invalid-request', 'The query parameter name is missing.');
  const { sum } = await readCounter(operations, checkKey(name, keyBytesMax));
  return textReply(String(sum));
}

/** GET /counters/KEY and GET /counters?key=KEY. */
async function counterRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const key = checkKey(counterKey(head), keyBytesMax);
  const { sum, committed, pending, updatedAt } = await readCounter(operations, key);
  const updated = updatedAt?.toISOString() ?? null;
  return documentReply<CounterDocument>({ key: utf8Text(key), sum, committed, pending, updated_at: updated });
}

/** DELETE /counters/KEY and DELETE /counters?key=KEY: deletes the counter and returns its last sum. */
async function deleteRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const key = checkKey(counterKey(head), keyBytesMax);
  const id = head.idempotencyKey === '' ? undefined : checkIdempotencyKey(head.idempotencyKey);
  const sum = await operations.delete(key, id);
  if (sum === undefined) throw unknownCounter();
  return documentReply<DeletedCounterDocument>({ key: utf8Text(key), sum });
}

/** GET /counters?prefix=P&after=KEY&limit=N: a page of committed counters. */
async function counterListRoute(head: HttpRequestHead, operations: CounterOperations): Promise<HttpReply> {
  const parameters = parseQuery(head.query);
  const prefix = textParameter(parameters, 'prefix') ?? '';
  const after = textParameter(parameters, 'after');
  const page = await operations.list({ prefix, after, limit: limitOf(textParameter(parameters, 'limit')) });
  const counters = page.counters.map(({ key, sum, updatedAt }) => ({ key, sum, updated_at: updatedAt.toISOString() }));
  return documentReply<CounterListDocument>({ counters, next: page.next });
}

/** GET /readyz: whether increments are accepted. */
function readinessReply(readiness: Readiness): HttpReply {
  switch (readiness.state) {
    case 'ok':
      return documentReply<ReadinessDocument>({
        status: 'ok',
        ...(readiness.reason === undefined ? {} : { reason: readiness.reason }),
      });
    case 'degraded':
      return documentReply<ReadinessDocument>({ status: 'degraded', reason: readiness.reason });
    case 'refusing':
      return problemReply(readiness.code, readiness.reason);
  }
}

/** The key in the path or the query. Everything after `/counters/` is the key, raw slashes included. */
function counterKey(head: HttpRequestHead): Uint8Array {
  if (head.path.startsWith(COUNTER_PATH)) return decodePercent(head.path.slice(COUNTER_PATH.length), false);
  const key = parseQuery(head.query).get('key');
  if (key === undefined) throw new CounterError('invalid-request', 'The query parameter key is missing.');
  return key;
}

async function readCounter(operations: CounterOperations, key: Uint8Array): Promise<CounterReading> {
  const reading = await operations.read(key);
  if (reading === undefined) throw unknownCounter();
  return reading;
}

function unknownCounter(): CounterError {
  return new CounterError('unknown-counter', 'This key was never counted, or its counter was deleted.');
}

/** May be longer than any key; then no key matches. The limit of the request head bounds the length. */
function textParameter(parameters: ReadonlyMap<string, Uint8Array>, name: string): string | undefined {
  const bytes = parameters.get(name);
  if (bytes === undefined) return undefined;
  if (bytes.includes(0)) throw new CounterError('invalid-request', `The query parameter ${name} contains U+0000.`);
  return utf8Text(bytes);
}

function limitOf(text: string | undefined): number {
  if (text === undefined) return LIST_LIMIT_DEFAULT;
  const limit = /^[0-9]{1,4}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= LIST_LIMIT_MAX) return limit;
  throw new CounterError(
    'invalid-request',
    `The query parameter limit must be a whole number from 1 to ${LIST_LIMIT_MAX}.`,
  );
}

function utf8Text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8');
}
