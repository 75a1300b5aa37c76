/** The table of all HTTP operations, from which the routes and the OpenAPI document are made. Any thread. */
import type { ErrorCode } from '../core/errors.js';
import type { Access } from './access.js';

/** A document type of `documents.ts`, or plain text. */
export type ReplyContent =
  | 'text'
  | 'metrics'
  | 'openapi'
  | 'CounterDocument'
  | 'CounterListDocument'
  | 'RequestedCountersDocument'
  | 'events'
  | 'DeletedCounterDocument'
  | 'FlushDocument'
  | 'ReadinessDocument'
  | 'VersionDocument';

/** One operation: a method of a path. */
export interface ApiOperation {
  readonly method: 'get' | 'post' | 'delete';
  /** In the form of OpenAPI. A `{key}` comes last and stands for the rest of the path. */
  readonly path: string;
  readonly access: Exclude<Access, 'any' | 'page'>;
  /** The operation, like every `open` one, is also answered while the server starts and drains. */
  readonly isAlwaysAnswered?: true;
  readonly summary: string;
  readonly parameters: readonly ApiParameter[];
  readonly body?: 'increments';
  readonly reply: { readonly status: 200 | 202; readonly says: string; readonly content: readonly ReplyContent[] };
  /** In addition to those of {@link errorsOf}. */
  readonly errors: readonly ErrorCode[];
}

/** A parameter, described in `openapi.ts`. */
export type ApiParameter =
  'keyPath' | 'keys' | 'keysRequired' | 'keyRequired' | 'name' | 'prefix' | 'after' | 'limit' | 'idempotencyKey';

/** Errors of access, and of operations that wait for the server to take them. */
const accessErrors = ['unauthorized', 'forbidden'] as const satisfies readonly ErrorCode[];
const commonErrors = [...accessErrors, 'overloaded', 'starting', 'draining'] as const satisfies readonly ErrorCode[];

const readErrors = ['invalid-request', 'unknown-counter', 'database-unavailable'] as const;
const deleteErrors = [...readErrors, 'roll-up-behind', 'idempotency-mismatch', 'outcome-unknown'] as const;

/** The operations by name, which is also their `operationId`. */
export const api = {
  increment: {
    method: 'post',
    path: '/increment',
    access: 'write',
    summary: 'Count increments. 202: the journal holds all increments of the request; each counts exactly once.',
    parameters: ['idempotencyKey'],
    body: 'increments',
    reply: { status: 202, says: 'The journal holds the whole request.', content: ['text'] },
    errors: [
      'invalid-request',
      'body-too-large',
      'unsupported-encoding',
      'idempotency-mismatch',
      'outcome-unknown',
      'journal-unavailable',
    ],
  },
  readSum: {
    method: 'get',
    path: '/key_sum',
    access: 'read',
    summary: 'Read the sum of a counter as digits.',
    parameters: ['name'],
    reply: { status: 200, says: 'The sum, an integer of any size.', content: ['text'] },
    errors: readErrors,
  },
  readCounter: {
    method: 'get',
    path: '/counters/{key}',
    access: 'read',
    summary: 'Read a counter: its committed sum, what this server holds pending, and their exact total.',
    parameters: ['keyPath'],
    reply: { status: 200, says: 'The counter.', content: ['CounterDocument'] },
    errors: readErrors,
  },
  deleteCounter: {
    method: 'delete',
    path: '/counters/{key}',
    access: 'admin',
    summary: 'Delete a counter and return its last sum.',
    parameters: ['keyPath', 'idempotencyKey'],
    reply: { status: 200, says: 'The deletion is committed.', content: ['DeletedCounterDocument'] },
    errors: deleteErrors,
  },
  readCounters: {
    method: 'get',
    path: '/counters',
    access: 'read',
    summary:
      'List committed counters in pages, in the bytewise order of their keys; with `key`, read that counter, and with ' +
      'several, those counters in one snapshot.',
    parameters: ['prefix', 'after', 'limit', 'keys'],
    reply: {
      status: 200,
      says: 'A page; with one `key`, the counter; with several, their counters in the order asked for.',
      content: ['CounterListDocument', 'CounterDocument', 'RequestedCountersDocument'],
    },
    errors: readErrors,
  },
  watch: {
    method: 'get',
    path: '/watch',
    access: 'read',
    summary:
      'Follow counters: an event for each at once, then one whenever its sum changes, at most one a second each.',
    parameters: ['keysRequired'],
    reply: {
      status: 200,
      says: 'Server-sent events named `counter`; each holds a RequestedCounterDocument.',
      content: ['events'],
    },
    errors: ['invalid-request'],
  },
  deleteCounterByQuery: {
    method: 'delete',
    path: '/counters',
    access: 'admin',
    summary: 'Delete a counter and return its last sum; for keys that a path cannot name.',
    parameters: ['keyRequired', 'idempotencyKey'],
    reply: { status: 200, says: 'The deletion is committed.', content: ['DeletedCounterDocument'] },
    errors: deleteErrors,
  },
  flush: {
    method: 'post',
    path: '/flush',
    access: 'admin',
    summary: 'Commit everything that this server acknowledged before the call.',
    parameters: [],
    reply: { status: 200, says: 'Everything is committed.', content: ['FlushDocument'] },
    errors: ['database-unavailable', 'roll-up-behind'],
  },
  health: {
    method: 'get',
    path: '/healthz',
    access: 'open',
    summary: 'Whether the process can make progress.',
    parameters: [],
    reply: { status: 200, says: 'The process can make progress.', content: ['text'] },
    errors: [],
  },
  readiness: {
    method: 'get',
    path: '/readyz',
    access: 'open',
    summary: 'Whether increments are accepted.',
    parameters: [],
    reply: { status: 200, says: 'Increments are accepted.', content: ['ReadinessDocument'] },
    errors: ['overloaded', 'starting', 'draining', 'journal-unavailable', 'database-unavailable'],
  },
  metrics: {
    method: 'get',
    path: '/metrics',
    access: 'read',
    isAlwaysAnswered: true,
    summary: 'The metrics of this server, for Prometheus.',
    parameters: [],
    reply: { status: 200, says: 'The text exposition format of Prometheus.', content: ['metrics'] },
    errors: [],
  },
  dashboardEvents: {
    method: 'get',
    path: '/dashboard/events',
    access: 'read',
    isAlwaysAnswered: true,
    summary: 'What the dashboard at `/` shows, each second. For that page; its members may change with every version.',
    parameters: [],
    reply: { status: 200, says: 'Server-sent events named `dashboard`.', content: ['events'] },
    errors: ['overloaded', 'draining'],
  },
  version: {
    method: 'get',
    path: '/version',
    access: 'read',
    isAlwaysAnswered: true,
    summary: 'The versions of the server, of uWebSockets.js and of Node.js.',
    parameters: [],
    reply: { status: 200, says: 'The versions.', content: ['VersionDocument'] },
    errors: [],
  },
  openApi: {
    method: 'get',
    path: '/openapi.json',
    access: 'read',
    summary: 'This document.',
    parameters: [],
    reply: { status: 200, says: 'An OpenAPI 3.1 document.', content: ['openapi'] },
    errors: [],
  },
} as const satisfies Record<string, ApiOperation>;

/** The name of an operation. */
export type OperationName = keyof typeof api;

/** The operations that answer with an event stream. */
export type StreamName = {
  [Name in OperationName]: (typeof api)[Name]['reply']['content'][number] extends 'events' ? Name : never;
}[OperationName];

/** Whether an operation answers with an event stream. */
export function isStream(name: OperationName): name is StreamName {
  const contents: readonly ReplyContent[] = api[name].reply.content;
  return contents.includes('events');
}

/** All error codes that an operation answers with, besides errors of HTTP. */
export function errorsOf({ access, isAlwaysAnswered, errors }: ApiOperation): ReadonlySet<ErrorCode> {
  if (access === 'open') return new Set(errors);
  return new Set([...errors, ...(isAlwaysAnswered === true ? accessErrors : commonErrors)]);
}

/** Whether an operation is answered in every state of the server. */
export function isAlwaysAnswered({ access, isAlwaysAnswered: always }: ApiOperation): boolean {
  return access === 'open' || always === true;
}

/** The paths with their operations, in the order of the table. */
export function operationsByPath(): ReadonlyMap<string, readonly (readonly [OperationName, ApiOperation])[]> {
  // Object.entries of a literal of known keys; the table has no other members.
  const entries = Object.entries(api) as [OperationName, ApiOperation][];
  const paths = new Map<string, (readonly [OperationName, ApiOperation])[]>();
  for (const [name, operation] of entries) {
    const operations = paths.get(operation.path) ?? [];
    operations.push([name, operation]);
    paths.set(operation.path, operations);
  }
  return paths;
}
