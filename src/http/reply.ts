/**
 * Replies as values, and how they are written to a response. HTTP thread.
 */
import type { RouteStats } from './request-stats.js';
import type { HttpRequest, HttpResponse } from './uws.js';
import { CounterError, errorCatalogue, type ErrorCode } from '../core/errors.js';
import type { Sum } from '../core/increment.js';

/** A reply that a route makes and the HTTP server writes. */
export interface HttpReply {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
  readonly headers?: readonly (readonly [name: string, value: string])[];
}

/** The head of a request, with raw values. */
export interface HttpRequestHead {
  readonly method: string;
  /** As sent, percent-encoded, without query. */
  readonly path: string;
  /** As sent, without the question mark. */
  readonly query: string;
  /** '' if there is none; the first of several. */
  readonly idempotencyKey: string;
}

const STATUS_LINES: Readonly<Record<number, string>> = {
  200: '200 OK',
  202: '202 Accepted',
  204: '204 No Content',
  400: '400 Bad Request',
  401: '401 Unauthorized',
  403: '403 Forbidden',
  404: '404 Not Found',
  405: '405 Method Not Allowed',
  413: '413 Content Too Large',
  415: '415 Unsupported Media Type',
  422: '422 Unprocessable Content',
  500: '500 Internal Server Error',
  503: '503 Service Unavailable',
};

/** Retry-After of a 503, in seconds. */
const RETRY_AFTER_SECONDS: Partial<Record<ErrorCode, number>> = { draining: 5 };

/** A document in memory, where each number may be a bigint. */
export type InMemory<T> = T extends number ? Sum : T extends object ? { readonly [K in keyof T]: InMemory<T[K]> } : T;

/** A plain-text 200. */
export function textReply(body: string): HttpReply {
  return { status: 200, contentType: 'text/plain', body };
}

/** A 200 with JSON text. */
export function jsonReply(body: string): HttpReply {
  return { status: 200, contentType: 'application/json', body };
}

/** A 200 with a document of type `T`: members in their order, without undefined ones. */
export function documentReply<T extends object>(document: InMemory<T>): HttpReply {
  return jsonReply(exactJson(document));
}

/** The problem document (RFC 9457) of a catalogue error. */
export function problemReply(
  code: ErrorCode,
  detail: string,
  headers: readonly (readonly [string, string])[] = [],
): HttpReply {
  const { status, title, retryable, counted } = errorCatalogue[code];
  const type = `urn:problem-type:summing-counters:${code}`;
  const retryAfter = RETRY_AFTER_SECONDS[code] ?? 1;
  return {
    status,
    contentType: 'application/problem+json',
    body: JSON.stringify({ type, title, status, detail, code, retryable, counted }),
    headers: status === 503 ? [['retry-after', String(retryAfter)], ...headers] : headers,
  };
}

/** The reply to anything thrown. An error outside the catalogue is a bug; only the log has its text. */
export function replyOfError(error: unknown): HttpReply {
  if (error instanceof CounterError) return problemReply(error.code, error.detail);
  return problemReply('internal-error', 'The server failed because of a bug; its log has the error.');
}

/** The head of a request. `req` is valid only during its callback. */
export function headOf(req: HttpRequest): HttpRequestHead {
  return {
    method: req.getMethod(),
    path: req.getUrl(),
    query: rawQuery(req),
    idempotencyKey: req.getHeader('idempotency-key'),
  };
}

/** The text after the question mark. Without one, 20.30 returns undefined, contrary to its declaration. */
function rawQuery(req: HttpRequest): string {
  const query: unknown = req.getQuery();
  return typeof query === 'string' ? query : '';
}

/** Writes a reply. Call it inside `cork`. HEAD gets the reply without its body. */
export function writeReply(res: HttpResponse, reply: HttpReply, isHead: boolean): void {
  res.writeStatus(STATUS_LINES[reply.status] ?? String(reply.status));
  if (reply.status !== 204) res.writeHeader('content-type', reply.contentType);
  for (const [name, value] of reply.headers ?? []) res.writeHeader(name, value);
  if (reply.status === 204) {
    res.endWithoutBody();
  } else if (isHead) {
    // uWebSockets.js 20.30 can abort if endWithoutBody gets the length as an argument.
    res.writeHeader('content-length', String(Buffer.byteLength(reply.body)));
    res.endWithoutBody();
  } else {
    res.end(reply.body);
  }
}

/** Writes a reply and counts it. */
export function answer(res: HttpResponse, reply: HttpReply, isHead: boolean, stats: RouteStats): void {
  stats.count(reply.status);
  res.cork(() => {
    writeReply(res, reply, isHead);
  });
}

/** Writes a reply and closes the connection, without reading the rest of the request. Call it inside `cork`. */
export function writeLastReply(res: HttpResponse, reply: HttpReply): void {
  res.writeStatus(STATUS_LINES[reply.status] ?? String(reply.status));
  res.writeHeader('content-type', reply.contentType).end(reply.body, true);
}

/** JSON with integer literals of any length. JSON.stringify cannot write them from a bigint. */
function exactJson(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map(exactJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${exactJson(member)}`).join(',')}}`;
}
