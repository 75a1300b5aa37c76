/**
 * The contract between the main thread and a further front-end thread: what the one is told and the other asks. An Error
 * loses its class on the way, so failures cross as code and detail.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Config } from '../../config/config.js';
import type { ErrorCode } from '../../core/errors.js';
import type { CounterListPage, CounterListQuery, CounterReading, Readiness } from '../../core/counter-operations.js';
import type { Admission, Sum } from '../../core/increment.js';
import type { HttpServerLoad } from '../../http/http-server.js';

/** What a front-end thread is started with. Everything here survives structured cloning. */
export interface HttpThreadTask {
  /** From 1: 0 is the main thread's. */
  readonly httpThread: number;
  /** Never 0. */
  readonly port: number;
  readonly config: Config;
  readonly stats: SharedArrayBuffer;
  readonly reservations: SharedArrayBuffer;
  /** One double: what the process may come to have of tokens claimed and pending, as of a moment ago. */
  readonly idempotencyCeiling: SharedArrayBuffer;
}

/** What each operation of a node resolves to. */
export interface OperationResults {
  readonly read: CounterReading | undefined;
  readonly delete: Sum | undefined;
  readonly list: CounterListPage;
  readonly flush: number;
  readonly readiness: Readiness;
}

/** One call of an operation, on its way to the main thread. */
export type OperationCall =
  | { readonly operation: 'read'; readonly key: Uint8Array }
  | { readonly operation: 'delete'; readonly key: Uint8Array; readonly id: string | undefined }
  | { readonly operation: 'list'; readonly query: CounterListQuery }
  | { readonly operation: 'flush' }
  | { readonly operation: 'readiness' };

/** What a front-end thread is asked to do, and answers once with `done`. */
export type HttpThreadRequest =
  { readonly kind: 'admission'; readonly admission: Admission } | { readonly kind: 'drain' | 'load' | 'close' };

/** Main thread → front-end thread. */
export type HttpThreadCommand =
  | { readonly kind: 'connect'; readonly shard: number; readonly port: MessagePort }
  /** The shard is gone; its increments are refused until another message opens it. */
  | { readonly kind: 'disconnect'; readonly shard: number }
  | { readonly kind: 'shard-admission'; readonly shard: number; readonly admission: Admission }
  | (HttpThreadRequest & { readonly id: number })
  | { readonly kind: 'result'; readonly id: number; readonly result: OperationResults[OperationCall['operation']] }
  | { readonly kind: 'failed'; readonly id: number; readonly code: ErrorCode; readonly detail: string };

/** Front-end thread → main thread. */
export type HttpThreadReport =
  | { readonly kind: 'listening' }
  /** It cannot start, for reasons that an operator must change. */
  | { readonly kind: 'refused'; readonly problems: readonly string[]; readonly exitCode: number }
  /** The application is closed after an error that nothing caught. */
  | { readonly kind: 'broken'; readonly detail: string }
  | { readonly kind: 'done'; readonly id: number; readonly load: HttpServerLoad }
  | { readonly kind: 'call'; readonly id: number; readonly call: OperationCall };
