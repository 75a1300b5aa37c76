/**
 * The request stats of an HTTP server, in shared memory that the main thread reads. HTTP thread and main thread.
 *
 * ```text
 * head: open event streams of all HTTP threads
 * row of an HTTP thread: answers by route and status | refused increments by refusal | open connections
 * ```
 *
 * Each cell of a row has one writer, the HTTP thread. A request costs one addition; a refused one two.
 */
import { REFUSALS, type Refusal } from '../core/bounds.js';
import { errorCatalogue, errorCodes, type ErrorCode } from '../core/errors.js';
import { errorsOf, operationsByPath } from './api.js';

/** The path of requests whose path is unknown. */
export const UNKNOWN_ROUTE = 'unknown';

/** Preflights of browsers, for pages of other origins. */
export const PREFLIGHT_ROUTE = 'preflight';

/** The dashboard's page, and its assets. */
export const PAGE_ROUTE = '/';
export const ASSET_ROUTE = '/dashboard/{file}';

/**
 * The routes: the paths of all operations as OpenAPI writes them, those of the page, one for preflights, and one for all
 * other paths.
 */
const ROUTES: readonly string[] = [
  ...operationsByPath().keys(),
  PAGE_ROUTE,
  ASSET_ROUTE,
  PREFLIGHT_ROUTE,
  UNKNOWN_ROUTE,
];

/** Statuses that the server answers with. */
const STATUSES: readonly number[] = [
  ...new Set([200, 202, 204, 304, ...errorCodes.map((code) => errorCatalogue[code].status)]),
].sort((a, b) => a - b);

/** Index of each status by its number, for the path of a request. */
const STATUS_INDEX = new Uint8Array(600);
for (const [index, status] of STATUSES.entries()) STATUS_INDEX[status] = index;

const ANSWER_CELLS = ROUTES.length * STATUSES.length;
const CONNECTIONS_CELL = ANSWER_CELLS + REFUSALS.length;
/** Rounded up so that the rows of two threads do not share a cache line. */
const ROW_CELLS = Math.ceil((CONNECTIONS_CELL + 1) / 16) * 16;

/** A cache line. */
const HEAD_BYTES = 64;
const ROW_BYTES = ROW_CELLS * Float64Array.BYTES_PER_ELEMENT;

/** Makes the stats of `httpThreads` HTTP servers, all zero. */
export function makeRequestStats(httpThreads: number): SharedArrayBuffer {
  return new SharedArrayBuffer(HEAD_BYTES + httpThreads * ROW_BYTES);
}

/** The number of open event streams of all HTTP threads, which MAX_WATCHERS bounds. */
export class SharedWatchers {
  readonly #cell: Int32Array;

  constructor(stats: SharedArrayBuffer) {
    this.#cell = new Int32Array(stats, 0, 1);
  }

  /** Counts one more. False, without counting, if there are `most`. */
  take(most: number): boolean {
    if (Atomics.add(this.#cell, 0, 1) < most) return true;
    this.release();
    return false;
  }

  /** Counts one less. */
  release(): void {
    Atomics.sub(this.#cell, 0, 1);
  }

  get open(): number {
    return Atomics.load(this.#cell, 0);
  }
}

/** The writing end of one HTTP server. */
export class RequestStats {
  readonly #row: Float64Array;

  /** `httpThread` is 0 for the main thread. */
  constructor(stats: SharedArrayBuffer, httpThread: number) {
    this.#row = rowOf(stats, httpThread);
  }

  /** The counters of one route, which is one of {@link ROUTES}. */
  of(route: string): RouteStats {
    const index = ROUTES.indexOf(route);
    if (index < 0) throw new TypeError(`${route} is no route`);
    return new RouteStats(this.#row.subarray(index * STATUSES.length, (index + 1) * STATUSES.length));
  }

  /** A request with increments was refused. */
  countRefusal(refusal: Refusal): void {
    const cell = ANSWER_CELLS + REFUSALS.indexOf(refusal);
    this.#row[cell] = (this.#row[cell] ?? 0) + 1;
  }

  /** Adds `more` open connections, which may be negative. */
  addConnections(more: number): void {
    this.#row[CONNECTIONS_CELL] = (this.#row[CONNECTIONS_CELL] ?? 0) + more;
  }
}

/** Answers of one route by status. */
export class RouteStats {
  readonly #cells: Float64Array;

  constructor(cells: Float64Array) {
    this.#cells = cells;
  }

  /** A request was answered with `status`. */
  count(status: number): void {
    const index = STATUS_INDEX[status] as number;
    // Every status below 600 has an index, and every index a cell.
    this.#cells[index] = (this.#cells[index] as number) + 1;
  }
}

/** Answers by route and status: counted ones, and those that the operation's description names. */
export function readAnswers(
  stats: SharedArrayBuffer,
): readonly { readonly route: string; readonly status: number; readonly answers: number }[] {
  const rows = rowsOf(stats);
  const expected = expectedStatuses();
  return ROUTES.flatMap((route, at) =>
    STATUSES.flatMap((status, index) => {
      const answers = total(rows, at * STATUSES.length + index);
      return answers > 0 || expected.get(route)?.has(status) === true ? [{ route, status, answers }] : [];
    }),
  );
}

/** Answers to requests with increments, and how many of them were 202. */
export function readIncrementAnswers(stats: SharedArrayBuffer): {
  readonly answers: number;
  readonly accepted: number;
} {
  const rows = rowsOf(stats);
  const first = ROUTES.indexOf('/increment') * STATUSES.length;
  const counts = STATUSES.map((_, index) => total(rows, first + index));
  return { answers: counts.reduce((sum, count) => sum + count, 0), accepted: counts[STATUSES.indexOf(202)] ?? 0 };
}

/** Requests with increments that were refused, by their index in `REFUSALS`. */
export function readRefusals(stats: SharedArrayBuffer): readonly number[] {
  const rows = rowsOf(stats);
  return REFUSALS.map((_, index) => total(rows, ANSWER_CELLS + index));
}

/** Open connections, if the HTTP servers count them. */
export function readConnections(stats: SharedArrayBuffer): number {
  return total(rowsOf(stats), CONNECTIONS_CELL);
}

function rowOf(stats: SharedArrayBuffer, httpThread: number): Float64Array {
  return new Float64Array(stats, HEAD_BYTES + httpThread * ROW_BYTES, ROW_CELLS);
}

function rowsOf(stats: SharedArrayBuffer): readonly Float64Array[] {
  const threads = (stats.byteLength - HEAD_BYTES) / ROW_BYTES;
  return Array.from({ length: threads }, (_, thread) => rowOf(stats, thread));
}

function total(rows: readonly Float64Array[], cell: number): number {
  return rows.reduce((sum, row) => sum + (row[cell] ?? 0), 0);
}

/** The statuses of each path by its operations. */
function expectedStatuses(): ReadonlyMap<string, ReadonlySet<number>> {
  const statusOf = (code: ErrorCode): number => errorCatalogue[code].status;
  const expected = new Map<string, ReadonlySet<number>>([
    [UNKNOWN_ROUTE, new Set([statusOf('not-found')])],
    [PAGE_ROUTE, new Set([200, 304])],
    [ASSET_ROUTE, new Set([200, 304])],
  ]);
  for (const [path, operations] of operationsByPath()) {
    const statuses = operations.flatMap(([, operation]) => [
      operation.reply.status,
      ...[...errorsOf(operation)].map(statusOf),
    ]);
    expected.set(path, new Set(statuses));
  }
  return expected;
}
