/**
 * Reads of committed counters, over a connection of their own so that they do not wait for flushes. Main thread.
 *
 * One statement is in flight. The next one reads all counters that were requested meanwhile: under load reads form batches, and
 * without load no read waits. Lists take turns with them. While the database is unavailable all fail at once.
 *
 * ```text
 * connecting ──opened──► ready ──lost──► connecting       reads wait, for one connect timeout at most
 *     └──failed──► unavailable ──backoff──► connecting    reads fail with database-unavailable
 * ```
 */
import { Backoff } from '../core/backoff.js';
import type { Checkpoint } from '../core/checkpoint.js';
import type { CounterListPage, CounterListQuery, UnreadableCounter } from '../core/counter-operations.js';
import { CounterError } from '../core/errors.js';
import { AMOUNT_MAX, type Sum } from '../core/increment.js';
import { printablePrefix, type Logger } from '../core/logger.js';
import { encodeKeys } from './binary-array.js';
import { connect, type DatabaseConnection, type DatabaseTarget } from './connection.js';
import { isStatementRefused } from './database-errors.js';
import { LIST_COUNTERS, LIST_COUNTERS_BELOW, READ_COUNTERS } from './statements.js';

/** A committed counter. */
export interface CommittedCounter {
  /** 0 where the counter does not exist. */
  readonly committed: Sum;
  /** In UTC, as ISO 8601 writes it, with milliseconds. */
  readonly updatedAt: string | null;
  readonly exists: boolean;
}

/** Counters in one snapshot of the database. */
export interface CommittedCounters {
  /** In the order of the keys. */
  readonly counters: readonly (CommittedCounter | UnreadableCounter)[];
  /** Checkpoints of the requested streams. A stream without a row is missing. */
  readonly checkpoints: ReadonlyMap<string, Checkpoint>;
}

/** Name and limits of the store. */
export interface CounterStoreOptions {
  readonly applicationName: string;
  /** At most 2000, the default, because reads wait for it. */
  readonly connectTimeoutMs?: number;
  /** Time limit of one statement; default 5000. */
  readonly queryTimeoutMs?: number;
  /** Most reads that wait; default 10000. One more is `overloaded`. */
  readonly waitingMax?: number;
  /** For rows that lists omit. */
  readonly logger?: Pick<Logger, 'error'>;
}

const CONNECT_TIMEOUT_MS = 2_000;
const QUERY_TIMEOUT_MS = 5_000;
const WAITING_MAX = 10_000;
/** Most keys of a statement that reads for several calls. */
const BATCH_KEYS_MAX = 200;
const BACKOFF_MIN_MS = 50;
const BACKOFF_MAX_MS = 1_000;
/** Most keys with an unreadable sum that are logged, once each. */
const REPORTED_KEYS_MAX = 1_000;

const CODE_POINT_MAX = 0x10ffff;
const SURROGATE_MIN = 0xd800;
const SURROGATE_MAX = 0xdfff;

interface Read {
  readonly kind: 'read';
  readonly keys: readonly Uint8Array[];
  readonly streams: readonly string[];
  readonly resolve: (counters: CommittedCounters) => void;
  readonly reject: (error: CounterError) => void;
}

/** A statement between the reads. `use` never rejects. */
interface Turn {
  readonly kind: 'turn';
  readonly use: (connection: DatabaseConnection) => Promise<void>;
  readonly reject: (error: CounterError) => void;
}

interface CountersRow {
  /** Joined by commas, as `times`; null where no key was asked for. */
  readonly sums: string | null;
  readonly times: string | null;
  readonly checkpoints: readonly string[] | null;
}

interface ListedRow {
  readonly key: string;
  readonly sum: string;
  readonly updated_at: Date;
}

type State =
  | { readonly kind: 'connecting' }
  | { readonly kind: 'unavailable'; readonly timer: NodeJS.Timeout; readonly cause: unknown }
  | { readonly kind: 'ready'; readonly connection: DatabaseConnection; readonly reading: boolean }
  | { readonly kind: 'closed' };

/** The committed counters. Connects as soon as it is made. */
export class CounterStore {
  readonly #target: DatabaseTarget;
  readonly #options: CounterStoreOptions;
  readonly #waitingMax: number;
  #waiting: (Read | Turn)[] = [];
  readonly #backoff = new Backoff(BACKOFF_MIN_MS, BACKOFF_MAX_MS);
  #state: State = { kind: 'connecting' };
  /** Logged keys, whose sum is not a number. */
  readonly #reported = new Set<string>();

  constructor(target: DatabaseTarget, options: CounterStoreOptions) {
    this.#target = target;
    this.#options = options;
    this.#waitingMax = options.waitingMax ?? WAITING_MAX;
    this.#connect();
  }

  /** Whether the database answered last time. */
  available(): boolean {
    return this.#state.kind === 'ready';
  }

  /**
   * Committed counters and the checkpoints of `streams`, in one snapshot. Rejects with CounterError
   * `database-unavailable` or `overloaded`.
   */
  readCounters(keys: readonly Uint8Array[], streams: readonly string[]): Promise<CommittedCounters> {
    const refusal = this.#refusal();
    if (refusal !== undefined) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ kind: 'read', keys, streams, resolve, reject });
      this.#readNext();
    });
  }

  /**
   * One page of counters. Rejects with CounterError `database-unavailable` or `overloaded`.
   *
   * A page is one range of the index of the primary key. Its order is `collate "C"`, which in UTF-8 is the order of code
   * points. Both bounds are computed here: PostgreSQL uses the index for a prefix operator only from version 15 on, and
   * `like` would need escapes.
   *
   * Omits a row whose sum is not a number (another program stored NaN or an infinity), and logs it once. Such a row must not make
   * its page fail, and no number can represent it.
   */
  async list({ prefix, after, limit }: CounterListQuery): Promise<CounterListPage> {
    const from = lowerBound(prefix, after);
    const below = prefixSuccessor(prefix);
    const rows = await this.#inTurn((connection) =>
      connection.query<ListedRow>(
        below === undefined
          ? { name: 'list-counters', text: LIST_COUNTERS, values: [limit + 1, from] }
          : { name: 'list-counters-below', text: LIST_COUNTERS_BELOW, values: [limit + 1, from, below] },
      ),
    );
    const page = rows.slice(0, limit);
    const counters = page
      .filter((row) => isInteger(row.sum) || this.#reportUnreadable(row))
      .map(({ key, sum, updated_at }) => ({ key, sum: parseSum(sum), updatedAt: updated_at }));
    return { counters, next: rows.length > limit ? (page.at(-1)?.key ?? null) : null };
  }

  /** Ends the connection. Reads that wait fail. */
  async close(): Promise<void> {
    const before = this.#state;
    this.#state = { kind: 'closed' };
    this.#failWaiting(undefined);
    if (before.kind === 'unavailable') clearTimeout(before.timer);
    if (before.kind === 'ready') await before.connection.close();
  }

  /** Logs a row that lists omit, once. Returns false. */
  #reportUnreadable({ key, sum }: ListedRow): false {
    if (this.#reported.has(key) || this.#reported.size >= REPORTED_KEYS_MAX) return false;
    this.#reported.add(key);
    const fields = { key: printablePrefix(Buffer.from(key)), sum };
    this.#options.logger?.error(fields, `A counter has ${sum} as its sum; lists omit it until the row is corrected`);
    return false;
  }

  /** Runs `use`, one statement that can be repeated without harm, between the reads. */
  #inTurn<T>(use: (connection: DatabaseConnection) => Promise<T>): Promise<T> {
    const refusal = this.#refusal();
    if (refusal !== undefined) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      const settle = (connection: DatabaseConnection): Promise<void> =>
        use(connection).then(resolve, (error: unknown) => reject(unavailable(error)));
      this.#waiting.push({ kind: 'turn', use: settle, reject });
      this.#readNext();
    });
  }

  #refusal(): CounterError | undefined {
    if (this.#state.kind === 'unavailable') return unavailable(this.#state.cause);
    if (this.#state.kind === 'closed') return unavailable(undefined);
    if (this.#waiting.length < this.#waitingMax) return undefined;
    return new CounterError('overloaded', `${this.#waitingMax} reads already wait for the database; retry later.`);
  }

  #connect(): void {
    this.#state = { kind: 'connecting' };
    const { applicationName, connectTimeoutMs, queryTimeoutMs } = this.#options;
    connect(this.#target, {
      applicationName,
      connectTimeoutMs: Math.min(connectTimeoutMs ?? CONNECT_TIMEOUT_MS, CONNECT_TIMEOUT_MS),
      queryTimeoutMs: queryTimeoutMs ?? QUERY_TIMEOUT_MS,
    }).then(
      (connection) => this.#opened(connection),
      (error: unknown) => this.#failed(error),
    );
  }

  #opened(connection: DatabaseConnection): void {
    if (this.#state.kind === 'closed') {
      connection.destroy();
      return;
    }
    if (connection.server.inRecovery) {
      // During a failover a standby may be behind, and this session would stay on it.
      connection.leaveHost();
      this.#failed(new Error('the database is a standby'));
      return;
    }
    this.#backoff.reset();
    this.#state = { kind: 'ready', connection, reading: false };
    connection.onLost(() => {
      if (this.#state.kind === 'ready' && this.#state.connection === connection) this.#connect();
    });
    this.#readNext();
  }

  #failed(cause: unknown): void {
    if (this.#state.kind === 'closed') return;
    const timer = setTimeout(() => this.#connect(), this.#backoff.take());
    timer.unref();
    this.#state = { kind: 'unavailable', timer, cause };
    this.#failWaiting(cause);
  }

  #failWaiting(cause: unknown): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const read of waiting) read.reject(unavailable(cause));
  }

  #readNext(): void {
    const state = this.#state;
    if (state.kind !== 'ready' || state.reading || this.#waiting.length === 0) return;
    this.#state = { ...state, reading: true };
    const batch = this.#takeBatch();
    this.#run(state.connection, batch).then(
      () => {
        if (this.#state.kind !== 'ready' || this.#state.connection !== state.connection) return;
        this.#state = { ...this.#state, reading: false };
        this.#readNext();
      },
      // Never happens: #run settles its batch and does not reject.
      (error: unknown) => [batch].flat().forEach((waiting) => waiting.reject(unavailable(error))),
    );
  }

  #run(connection: DatabaseConnection, batch: readonly Read[] | Turn): Promise<void> {
    return 'use' in batch ? batch.use(connection) : this.#read(connection, batch);
  }

  /** The turn at the head of the queue, or the reads at its head that ask for the same streams. */
  #takeBatch(): readonly Read[] | Turn {
    const batch: Read[] = [];
    let keys = 0;
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[batch.length]) {
      if (next.kind === 'turn') {
        if (batch.length > 0) break;
        this.#waiting.shift();
        return next;
      }
      keys += next.keys.length;
      if (batch[0] !== undefined && (next.streams !== batch[0].streams || keys > BATCH_KEYS_MAX)) break;
      batch.push(next);
    }
    this.#waiting.splice(0, batch.length);
    return batch;
  }

  async #read(connection: DatabaseConnection, batch: readonly Read[]): Promise<void> {
    try {
      const rows = await connection.query<CountersRow>({
        name: 'read-counters',
        text: READ_COUNTERS,
        values: [encodeKeys(batch.flatMap((read) => read.keys)), batch[0]?.streams ?? []],
      });
      const checkpoints = parseCheckpoints(rows[0]?.checkpoints ?? []);
      const times = rows[0]?.times?.split(',') ?? [];
      const counters = rows[0]?.sums?.split(',').map((sum, index) => committedCounter(sum, times[index] ?? '')) ?? [];
      let next = 0;
      for (const read of batch) {
        const end = next + read.keys.length;
        if (end > counters.length) read.reject(unavailable(new Error('a read was answered without its rows')));
        else read.resolve({ counters: counters.slice(next, end), checkpoints });
        next = end;
      }
    } catch (error) {
      // A key that PostgreSQL refuses must not fail the other reads of the batch. (HTTP validation rejects such keys.)
      if (batch.length > 1 && isStatementRefused(error) && !connection.lost) {
        for (const read of batch) await this.#read(connection, [read]);
        return;
      }
      for (const read of batch) read.reject(unavailable(error));
    }
  }
}

/**
 * Parses a numeric as PostgreSQL prints it, exactly. Throws CounterError `internal-error` where it is not an integer: another
 * program has stored NaN or an infinity.
 */
export function parseSum(text: string): Sum {
  if (!isInteger(text)) throw new CounterError('internal-error', notInteger(text));
  const sum = Number(text);
  return sum <= AMOUNT_MAX && sum >= -AMOUNT_MAX ? sum : BigInt(text);
}

function isInteger(text: string): boolean {
  return /^-?\d+$/.test(text);
}

/**
 * The least string that is greater than every string with this prefix: its last code point plus one, skipping the surrogates,
 * which UTF-8 does not have. Undefined where there is none: the prefix is empty, or only U+10FFFF.
 */
export function prefixSuccessor(prefix: string): string | undefined {
  const points = Array.from(prefix, (character) => character.codePointAt(0) ?? 0);
  while (points.at(-1) === CODE_POINT_MAX) points.pop();
  const last = points.pop();
  if (last === undefined) return undefined;
  const next = last + 1 === SURROGATE_MIN ? SURROGATE_MAX + 1 : last + 1;
  return String.fromCodePoint(...points, next);
}

/**
 * The lower bound of the keys of a page. Keys have no U+0000, so `after` with U+0001 appended is the least string that is greater
 * than `after`.
 */
function lowerBound(prefix: string, after: string | undefined): string {
  if (after === undefined) return prefix;
  const next = `${after}\u0001`;
  return Buffer.compare(Buffer.from(next), Buffer.from(prefix)) > 0 ? next : prefix;
}

function committedCounter(sum: string, time: string): CommittedCounter | UnreadableCounter {
  if (sum === '') return { committed: 0, updatedAt: null, exists: false };
  if (!isInteger(sum)) return { unreadable: notInteger(sum) };
  return { committed: parseSum(sum), updatedAt: time === '' ? null : time, exists: true };
}

function notInteger(sum: string): string {
  return `The table "counters" has ${sum} as a sum; correct that row.`;
}

function parseCheckpoints(lines: readonly string[]): Map<string, Checkpoint> {
  const positions = new Map<string, Checkpoint>();
  for (const line of lines) {
    const [stream, epoch, lsn] = line.split(' ');
    if (stream !== undefined) positions.set(stream, { epoch: Number(epoch), lsn: Number(lsn) });
  }
  return positions;
}

function unavailable(cause: unknown): CounterError {
  return new CounterError('database-unavailable', 'The database is unavailable; try again later.', { cause });
}
