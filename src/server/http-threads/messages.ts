/**
 * The messages between the main thread and another HTTP thread. Both threads.
 *
 * An Error loses its class on a port, so failures cross as code and detail.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Config } from '../../config/config.js';
import type { ErrorCode } from '../../core/errors.js';
import type {
  CounterListPage,
  CounterListQuery,
  DashboardUpdate,
  ReadResult,
  Readiness,
} from '../../core/counter-operations.js';
import type { Admission, Sum } from '../../core/increment.js';
import type { HttpServerLoad, Reloaded } from '../../http/http-server.js';

/** The start data of an HTTP thread. All of it survives structured cloning. */
export interface HttpThreadTask {
  /** From 1; 0 is the main thread. */
  readonly httpThread: number;
  /** Never 0. */
  readonly port: number;
  readonly config: Config;
  readonly stats: SharedArrayBuffer;
  readonly requestStats: SharedArrayBuffer;
  readonly batchStats: SharedArrayBuffer;
  readonly reservations: SharedArrayBuffer;
  /** One double: `ServerDatabase.idempotencyCeiling`, refreshed by the main thread. */
  readonly idempotencyCeiling: SharedArrayBuffer;
}

/** The result of each operation. */
export interface OperationResults {
  readonly read: readonly ReadResult[];
  readonly delete: Sum | undefined;
  readonly list: CounterListPage;
  readonly flush: number;
  readonly readiness: Readiness;
  readonly metrics: string;
  readonly dashboard: DashboardUpdate;
}

/** A call of an operation, for the main thread. */
export type OperationCall =
  | { readonly operation: 'read'; readonly keys: readonly Uint8Array[] }
  | { readonly operation: 'delete'; readonly key: Uint8Array; readonly id: string | undefined }
  | { readonly operation: 'list'; readonly query: CounterListQuery }
  | { readonly operation: 'flush' }
  | { readonly operation: 'readiness' }
  | { readonly operation: 'metrics' }
  | { readonly operation: 'dashboard'; readonly since: number };

/** A command that the HTTP thread answers once, with `done`. */
export type HttpThreadRequest =
  | { readonly kind: 'admission'; readonly admission: Admission }
  | { readonly kind: 'reload'; readonly reloaded: Reloaded }
  | { readonly kind: 'drain' | 'load' | 'close' };

/** The answer of an HTTP thread to a request. */
export interface HttpThreadAnswer {
  readonly load: HttpServerLoad;
  /** Why the request failed. */
  readonly problem?: string | undefined;
}

/** Main thread → HTTP thread. */
export type HttpThreadCommand =
  | { readonly kind: 'connect'; readonly shard: number; readonly port: MessagePort }
  /** The shard thread has ended. Its increments are refused until a `shard-admission` opens it. */
  | { readonly kind: 'disconnect'; readonly shard: number }
  | { readonly kind: 'shard-admission'; readonly shard: number; readonly admission: Admission }
  /** The limit of bodies. It comes before the HTTP server is open. */
  | { readonly kind: 'limit-bodies'; readonly bodyBytesMax: number }
  /** Whether new connections are accepted. */
  | { readonly kind: 'accepting'; readonly accepting: boolean }
  | (HttpThreadRequest & { readonly id: number })
  | { readonly kind: 'result'; readonly id: number; readonly result: OperationResults[OperationCall['operation']] }
  | { readonly kind: 'failed'; readonly id: number; readonly code: ErrorCode; readonly detail: string };

/** HTTP thread → main thread. */
export type HttpThreadReport =
  | { readonly kind: 'listening' }
  /** The thread cannot start until an operator changes something. */
  | { readonly kind: 'refused'; readonly problems: readonly string[]; readonly exitCode: number }
  /** An uncaught error has closed the application. */
  | { readonly kind: 'broken'; readonly detail: string }
  | ({ readonly kind: 'done'; readonly id: number } & HttpThreadAnswer)
  | { readonly kind: 'call'; readonly id: number; readonly call: OperationCall };
