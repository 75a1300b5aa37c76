/**
 * The flush statement: its parameters, its timeout, and its result. Shard thread; one call at a time.
 */
import type { DatabaseTime } from '../core/checkpoint.js';
import {
  IdempotentArrayEncoder,
  RejectedArrayEncoder,
  UncoveredArrayEncoder,
  type IdempotentFlushArrays,
  type RejectedRows,
  type UncoveredRows,
} from './binary-array.js';
import type { Statement } from './connection.js';
import { OutcomeUnknownError, StatementRefusedError } from './database-errors.js';
import { RESET_TIMEOUTS, SET_TIMEOUTS } from './session-statements.js';
import type { ShardConnection } from './shard-connection.js';
import * as sql from './statements.js';

/** One flush: the sums of the records above `fromLsn` up to `toLsn`. */
export interface FlushRequest {
  readonly stream: string;
  readonly epoch: number;
  readonly fromLsn: number;
  readonly toLsn: number;
  /** The time of the last record. The flush commits everything that the stream accepted before it. */
  readonly acceptedThrough: DatabaseTime;
  /** Distinct; text[] in binary format, see {@link SumArrayEncoder}. Must not change until the call has settled. */
  readonly keys: Buffer;
  /** numeric[] in binary format, as many elements. */
  readonly amounts: Buffer;
  /** Idempotent requests of this range. */
  readonly idempotencyKeys?: IdempotentFlushArrays;
  /**
   * Rows of this range that PostgreSQL refused; the other arrays lack them. A row of an idempotent request is kept only if this
   * flush records the idempotency key.
   */
  readonly rejected?: RejectedRows;
  /** Idempotent requests of this range that the row does not cover; the other arrays lack them. */
  readonly uncovered?: UncoveredRows;
}

/** The result of a flush. */
export interface FlushResult {
  /** False: the checkpoint was not at (epoch, fromLsn), and nothing happened. */
  readonly applied: boolean;
  /** Rows of `counters` that were written. */
  readonly keys: number;
  /** Idempotency keys that were recorded before. */
  readonly duplicates: readonly string[];
  /** The time of the database at the flush. */
  readonly databaseTime: DatabaseTime;
}

/** A row of the flush statements. */
interface FlushRow {
  readonly fenced: number;
  readonly keys: number;
  readonly unclaimed: readonly string[] | null;
  readonly database_time: number;
}

/** The session's usual statement_timeout, in seconds. */
const USUAL_FLUSH_SECONDS = 30;
/** The slowest database for a backlog: about 4,000 keys of 24 bytes a second. */
const FLUSH_BYTES_A_SECOND_MIN = 100_000;
const FLUSH_SECONDS_MAX = 3_600;
/** The client waits this much longer than the server. */
const REPLY_SECONDS = 10;
const QUERY_CANCELED = '57014';
const ALLOWANCE_MAX = 64;

/** Sends flushes over a shard's connection. */
export class FlushStatement {
  readonly #connection: ShardConnection;
  /** Multiplies the time limit of a flush. */
  #allowance = 1;

  constructor(connection: ShardConnection) {
    this.#connection = connection;
  }

  /** Adds the sums and moves the checkpoint, both or neither. Rejects as {@link ShardConnection.run} does. */
  async run(request: FlushRequest): Promise<FlushResult> {
    const statement = flushStatement(request);
    const seconds = flushSeconds(request, this.#allowance);
    const needsLongTimeout = seconds > USUAL_FLUSH_SECONDS;
    const [row] = needsLongTimeout ? await this.#runWithTimeout(statement, seconds) : await this.#run(statement);
    if (row === undefined) throw new OutcomeUnknownError('a flush was answered without its row');
    return {
      applied: row.fenced === 1,
      keys: row.keys,
      duplicates: row.unclaimed ?? [],
      databaseTime: row.database_time,
    };
  }

  async #runWithTimeout(statement: Statement, seconds: number): Promise<FlushRow[]> {
    const limits = [`${seconds}s`, `${seconds + USUAL_FLUSH_SECONDS}s`];
    await this.#connection.run({ text: SET_TIMEOUTS, values: limits });
    try {
      return await this.#run({ ...statement, timeoutMs: 1000 * (seconds + REPLY_SECONDS) });
    } finally {
      await this.#restoreTimeouts();
    }
  }

  /** Each timeout doubles the limit of the next flush; each success halves it. */
  async #run(statement: Statement): Promise<FlushRow[]> {
    try {
      const rows = await this.#connection.run<FlushRow>(statement);
      this.#allowance = Math.max(1, this.#allowance / 2);
      return rows;
    } catch (error) {
      const wasCanceled = error instanceof StatementRefusedError && error.sqlState === QUERY_CANCELED;
      if (wasCanceled) this.#allowance = Math.min(2 * this.#allowance, ALLOWANCE_MAX);
      throw notWritten(error) ?? error;
    }
  }

  /** Sets the session's usual limits again. Drops a connection that refuses them. */
  async #restoreTimeouts(): Promise<void> {
    if (!this.#connection.isOpen) return;
    try {
      await this.#connection.run({ text: RESET_TIMEOUTS });
    } catch {
      this.#connection.drop();
    }
  }
}

/**
 * The time limit of a flush in seconds, by its size: a backlog of a million keys is one statement, and must not time out for ever.
 * On a slower database the limit is `allowance` times as long, up to an hour.
 */
function flushSeconds({ keys, idempotencyKeys }: FlushRequest, allowance: number): number {
  const bytes =
    keys.length +
    (idempotencyKeys === undefined ? 0 : idempotencyKeys.sumIdempotencyKeys.length + idempotencyKeys.sumKeys.length);
  const seconds = Math.max(USUAL_FLUSH_SECONDS, Math.ceil(bytes / FLUSH_BYTES_A_SECOND_MIN));
  return Math.max(seconds, Math.min(seconds * allowance, FLUSH_SECONDS_MAX));
}

/** The simplest statement for a request. */
function flushStatement(request: FlushRequest): Statement {
  const { stream, epoch, fromLsn, toLsn, acceptedThrough, keys, amounts, idempotencyKeys, rejected, uncovered } =
    request;
  const common = [stream, epoch, fromLsn, toLsn, timestamp(acceptedThrough), keys, amounts];
  if (rejected !== undefined || uncovered !== undefined) {
    return {
      text: sql.FLUSH_WITH_REJECTED,
      values: [
        ...common,
        ...idempotentParameters(idempotencyKeys ?? new IdempotentArrayEncoder().finish()),
        ...rejectedParameters(rejected ?? new RejectedArrayEncoder().finish()),
        ...uncoveredParameters(uncovered ?? new UncoveredArrayEncoder().finish()),
      ],
    };
  }
  if (idempotencyKeys !== undefined) {
    return {
      name: 'flush-with-tokens',
      text: sql.FLUSH_WITH_IDEMPOTENCY_KEYS,
      values: [...common, ...idempotentParameters(idempotencyKeys)],
    };
  }
  return { name: 'flush', text: sql.FLUSH, values: common };
}

function idempotentParameters(parameters: IdempotentFlushArrays): readonly Buffer[] {
  const { idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts } = parameters;
  return [idempotencyKeys, digests, sumIdempotencyKeys, sumKeys, sumAmounts];
}

function rejectedParameters(rows: RejectedRows): readonly unknown[] {
  const { keys, amounts, reasons, sqlStates, refusalNumbers, idempotencyKeys } = rows;
  return [keys, amounts, reasons, sqlStates, refusalNumbers, idempotencyKeys];
}

function uncoveredParameters({
  keys,
  amounts,
  lsns,
  idempotencyKeys,
  digests,
  times,
}: UncoveredRows): readonly Buffer[] {
  return [keys, amounts, lsns, idempotencyKeys, digests, times];
}

/**
 * The refusal of a statement whose rows PostgreSQL did not write without saying why; undefined for another error. Rows that a concurrent
 * statement may have written are `retry`: another snapshot sees them.
 */
export function notWritten(error: unknown): StatementRefusedError | undefined {
  // The text alone could be a key in the message of a trigger.
  if (!(error instanceof StatementRefusedError) || error.sqlState !== '22P02') return undefined;
  const found = sql.rowsNotWritten(error.message);
  if (found === undefined) return undefined;
  return new StatementRefusedError(found.what, error.sqlState, found.mayBeSeenLater ? 'retry' : 'poison', {
    cause: error,
  });
}

/** A time of the database as a parameter. */
export function timestamp(time: DatabaseTime): string {
  return time === 0 ? '-infinity' : new Date(1000 * time).toISOString();
}
