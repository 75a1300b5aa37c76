/**
 * The routes of all operations except POST /increment. Their requests have no body. HTTP thread.
 */
import { CounterError } from '../core/errors.js';
import type { CounterOperations, CounterReading, ReadResult, Readiness } from '../core/counter-operations.js';
import type { OperationName, StreamName } from './api.js';
import type {
  CounterDocument,
  CounterListDocument,
  DeletedCounterDocument,
  FlushDocument,
  ReadinessDocument,
  RequestedCounterDocument,
  RequestedCountersDocument,
  VersionDocument,
} from './documents.js';
import {
  documentReply,
  jsonReply,
  problemReply,
  textReply,
  type HttpReply,
  type HttpRequestHead,
  type InMemory,
} from './reply.js';
import {
  checkIdempotencyKey,
  checkKey,
  decodePercent,
  keysOf,
  parseQuery,
  type QueryParameters,
} from './request-parameters.js';

/** Most counters of a page. */
export const LIST_LIMIT_MAX = 1000;

/** Counters of a page if the request has no `limit`. */
export const LIST_LIMIT_DEFAULT = 100;

/** Most keys that a request may name. */
export const KEYS_MAX = 100;

/** Answers a request. Rejects with a CounterError; any other error is a bug. */
export type Route = (head: HttpRequestHead) => Promise<HttpReply> | HttpReply;

/** The sources of the routes. `keyBytesMax` is MAX_KEY_BYTES; `openApiText` returns the document. */
export interface RouteSources {
  readonly operations: CounterOperations;
  readonly keyBytesMax: number;
  readonly openApiText: () => string;
  readonly versions: VersionDocument;
}

/** The routes by the name of their operation. */
export function makeRoutes({
  operations,
  keyBytesMax,
  openApiText,
  versions,
}: RouteSources): Readonly<Record<Exclude<OperationName, 'increment' | StreamName>, Route>> {
  const deleteCounter: Route = (head) => deleteRoute(head, operations, keyBytesMax);
  return {
    readSum: (head) => keySumRoute(head, operations, keyBytesMax),
    readCounter: (head) => counterRoute(head, operations, keyBytesMax),
    readCounters: (head) =>
      parseQuery(head.query).has('key')
        ? countersRoute(head, operations, keyBytesMax)
        : counterListRoute(head, operations),
    deleteCounter,
    deleteCounterByQuery: deleteCounter,
    flush: async () => documentReply<FlushDocument>({ flushed_keys: await operations.flush() }),
    // An answer shows that the event loop of this thread runs.
    health: () => textReply('ok'),
    readiness: async () => readinessReply(await operations.readiness()),
    metrics: async () => ({ status: 200, contentType: METRICS_MEDIA_TYPE, body: await operations.metrics() }),
    version: () => documentReply<VersionDocument>(versions),
    openApi: () => jsonReply(openApiText()),
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
  const name = parseQuery(head.query).get('name')?.[0];
  if (name === undefined) throw new CounterError('invalid-request', 'The query parameter name is missing.');
  const { sum } = await readCounter(operations, checkKey(name, keyBytesMax));
  return textReply(String(sum));
}

/** GET /counters/KEY. */
async function counterRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  return counterReply(checkKey(keyInPath(head), keyBytesMax), operations);
}

/** GET /counters?key=KEY is GET /counters/KEY; with several keys, their counters in the order asked for. */
async function countersRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const keys = keysOf(parseQuery(head.query), KEYS_MAX, keyBytesMax);
  const [only, ...others] = keys;
  if (only !== undefined && others.length === 0) return counterReply(only, operations);
  const results = await operations.read(keys);
  const counters = keys.map((key, index) => counterDocument(utf8Text(key), results[index]));
  return documentReply<RequestedCountersDocument>({ counters });
}

async function counterReply(key: Uint8Array, operations: CounterOperations): Promise<HttpReply> {
  const { sum, committed, pending, updatedAt } = await readCounter(operations, key);
  return documentReply<CounterDocument>({ key: utf8Text(key), sum, committed, pending, updated_at: updatedAt });
}

/** The document of one of several counters. Throws `internal-error` if its row cannot be read. */
function counterDocument(key: string, result: ReadResult): InMemory<RequestedCounterDocument> {
  if (result === undefined) return { key, sum: null, committed: 0, pending: 0, updated_at: null };
  const { sum, committed, pending, updatedAt } = readable(result);
  return { key, sum, committed, pending, updated_at: updatedAt };
}

/** DELETE /counters/KEY and DELETE /counters?key=KEY: deletes the counter and returns its last sum. */
async function deleteRoute(
  head: HttpRequestHead,
  operations: CounterOperations,
  keyBytesMax: number,
): Promise<HttpReply> {
  const key = isKeyInPath(head)
    ? checkKey(keyInPath(head), keyBytesMax)
    : onlyKeyOf(parseQuery(head.query), keyBytesMax);
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

function isKeyInPath(head: HttpRequestHead): boolean {
  return head.path.startsWith(COUNTER_PATH);
}

/** Everything after `/counters/` is the key, raw slashes included. */
function keyInPath(head: HttpRequestHead): Uint8Array {
  return decodePercent(head.path.slice(COUNTER_PATH.length), false);
}

function onlyKeyOf(parameters: QueryParameters, keyBytesMax: number): Uint8Array {
  const [key] = keysOf(parameters, 1, keyBytesMax);
  // keysOf returns at least one key.
  return key as Uint8Array;
}

async function readCounter(operations: CounterOperations, key: Uint8Array): Promise<CounterReading> {
  const [result] = await operations.read([key]);
  if (result === undefined) throw unknownCounter();
  return readable(result);
}

function readable(result: NonNullable<ReadResult>): CounterReading {
  if ('unreadable' in result) throw new CounterError('internal-error', result.unreadable);
  return result;
}

function unknownCounter(): CounterError {
  return new CounterError('unknown-counter', 'This key was never counted, or its counter was deleted.');
}

/** May be longer than any key, and then matches none. The request head limits the length. */
function textParameter(parameters: QueryParameters, name: string): string | undefined {
  const bytes = parameters.get(name)?.[0];
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

/** The text of bytes that are UTF-8. */
export function utf8Text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8');
}
