/**
 * The database as a shard uses it: checkpoints, ownership and flushes of its streams, over one connection. Shard thread.
 *
 * Statements run in turn, because the streams of a shard share the connection and a probe is a transaction. A failure of
 * a statement other than a flush is CounterError `database-unavailable`: such a statement can be repeated without harm. A
 * flush that failed resolves to what is known of it.
 */
import { CounterError } from '../../../core/errors.js';
import type { Checkpoint } from '../../../core/checkpoint.js';
import { Turns } from '../../../core/turns.js';
import { SumArrayEncoder } from '../../../db/binary-array.js';
import { OutcomeUnknownError, StatementRefusedError } from '../../../db/database-errors.js';
import { FlushStatement, type FlushResult } from '../../../db/flush-statement.js';
import type { ShardConnection } from '../../../db/shard-connection.js';
import * as sql from '../../../db/statements.js';
import type { ClaimsInDatabase, OwnershipClaim } from '../../journal/ownership-claim.js';
import type { FrozenRange } from '../pending-sums.js';
import { findPoison, rejectedIncrements, rejectedKeys, type Poison, type RejectedKeys } from './poison-search.js';
import { RangeEncoder } from './range-encoder.js';

/** Whose streams these are, kept in their rows for operators. */
export interface StreamOwner {
  /** The id of the server, a UUID. */
  readonly node: string;
  readonly shard: number;
  /** The kind of journal. */
  readonly journal: string;
}

/** A stream's row in `journal_checkpoints`. */
export interface StreamRow extends Checkpoint {
  /** No more records will come; the row is a tombstone. */
  readonly retired: boolean;
}

/** A stream's row and who has owned the stream. */
export interface ClaimedStreamRow extends StreamRow, ClaimsInDatabase {}

/** What a flush moved to `rejected_increments`. */
interface SetAside {
  /** Increments of the rows. */
  readonly rejected: number;
  /** Of which keys, if there were any. */
  readonly rejectedKeys?: RejectedKeys;
}

/** How a flush ended, as far as this process can know. */
export type FlushAttempt =
  /** It committed. */
  | ({
      readonly kind: 'committed';
      /** Rows of `counters` that were written. */
      readonly keys: number;
      /** Idempotency keys of the range that were recorded before. */
      readonly duplicates?: readonly string[];
      /** Of those, how many came with other content. */
      readonly mismatches?: number;
    } & Partial<SetAside>)
  /** The statement ran, and the compare-and-set did not match. */
  | { readonly kind: 'fenced' }
  /** It certainly did not commit; the same range can be sent again. `mayBePoison`: one of its rows may be the reason. */
  | { readonly kind: 'refused'; readonly error: unknown; readonly mayBePoison?: boolean }
  /** It certainly did not commit: PostgreSQL will never take one of its rows. */
  | { readonly kind: 'poison'; readonly error: unknown }
  /** It was not sent: the database cannot be reached. */
  | { readonly kind: 'unreachable'; readonly error: unknown }
  /** It was sent and no reply came. `setAside`: what it set aside if it committed. */
  | { readonly kind: 'unknown'; readonly error: unknown; readonly setAside?: SetAside };

/** The database as a shard needs it; a simulation can put something between the two. */
export type ShardDatabase = Pick<PostgresShardDatabase, keyof PostgresShardDatabase>;

const NO_SUMS = new SumArrayEncoder();

interface CheckpointRow {
  readonly epoch: string;
  readonly lsn: string;
  readonly retired: boolean;
}

/** One shard's statements. */
export class PostgresShardDatabase {
  readonly #connection: ShardConnection;
  readonly #flush: FlushStatement;
  readonly #owner: StreamOwner;
  /** Streams that are known to have a row. */
  readonly #ensured = new Set<string>();
  readonly #encoder = new RangeEncoder();
  readonly #turns = new Turns();

  constructor(connection: ShardConnection, owner: StreamOwner) {
    this.#connection = connection;
    this.#flush = new FlushStatement(connection);
    this.#owner = owner;
  }

  /** The id of the database, a UUID made with its schema. Rejects until the migrations have run. */
  databaseId(): Promise<string> {
    return this.#inTurn(async () => {
      const [row] = await this.#connection.run<{ database_id: string }>({ text: sql.DATABASE_ID });
      if (row === undefined) throw new CounterError('database-unavailable', 'The database has no schema of ours yet.');
      return row.database_id;
    });
  }

  /** Makes the stream's row, at epoch 0 and LSN 0, unless it is there. */
  ensureStream(stream: string): Promise<void> {
    return this.#inTurn(() => this.#ensure(stream));
  }

  /** Makes the stream's row unless it is there, and reads it with its claims. */
  readClaims(stream: string): Promise<ClaimedStreamRow> {
    return this.#inTurn(async () => {
      await this.#ensure(stream);
      // In this order, each with a snapshot of its own: a claim that commits in between raises the epoch that was read.
      const row = await this.#readRow(stream);
      if (row === undefined) throw new TypeError('a checkpoint row vanished');
      const values = [stream, row.epoch];
      const rows = await this.#connection.run<{ claim: string; lsn: string }>({ text: sql.READ_CLAIMS, values });
      const claims = rows.map(({ claim, lsn }) => ({ id: claim, lsn: Number(lsn) }));
      return { ...row, claims, isComplete: claims.length < sql.CLAIMS_MAX };
    });
  }

  /**
   * Raises the epoch, which fences whoever held the stream. Records by which claim: the last one given. Those before it
   * are earlier claims of the same journal that the database does not have. Undefined where the row is not at `at`.
   */
  claimStream(stream: string, at: Checkpoint, claims: readonly OwnershipClaim[]): Promise<StreamRow | undefined> {
    return this.#inTurn(async () => {
      const values = [stream, at.epoch, claims.map(({ id }) => id), claims.map(({ lsn }) => lsn), at.lsn];
      return streamRow(await this.#connection.run<CheckpointRow>({ text: sql.RAISE_EPOCH, values }));
    });
  }

  /** Commits a range. */
  flush(range: FrozenRange): Promise<FlushAttempt> {
    return this.#attemptInTurn(async () => {
      // A stream that began while the database was unavailable has no row yet; a flush never makes one.
      if (!this.#ensured.has(range.stream)) await orUnavailable(() => this.#ensure(range.stream));
      return this.#attemptOf(range, await this.#flush.run(this.#encoder.encode(range)));
    });
  }

  /**
   * As {@link flush}, for a range with rows that PostgreSQL refuses: finds these, and commits them as rejected. Searches
   * nothing where PostgreSQL refuses a statement without rows, too: then the reason is the table, not a row.
   */
  flushSettingAside(range: FrozenRange): Promise<FlushAttempt> {
    return this.#attemptInTurn(async () => {
      if (!this.#ensured.has(range.stream)) await orUnavailable(() => this.#ensure(range.stream));
      const refusal = await orUnavailable(() => this.#probe(NO_SUMS.keys(), NO_SUMS.amounts()));
      if (refusal !== undefined) return { kind: 'refused', error: withSqlState(refusal) };
      const poison = await orUnavailable(() => findPoison(range, (keys, amounts) => this.#probe(keys, amounts)));
      let result: FlushResult;
      try {
        result = await this.#flush.run(this.#encoder.encode(range, poison));
      } catch (error) {
        const attempt = failedAttempt(error);
        // Which requests are duplicates is lost with the reply, so this may be more than it was.
        return attempt.kind === 'unknown' ? { ...attempt, setAside: setAside(range, poison, []) } : attempt;
      }
      const attempt = await this.#attemptOf(range, result);
      return attempt.kind === 'committed' ? { ...attempt, ...setAside(range, poison, result.duplicates) } : attempt;
    });
  }

  /** The stream's row once every flush that was under way has ended. Undefined where there is none. */
  readBack(stream: string): Promise<StreamRow | undefined> {
    return this.#inTurn(() => this.#readRow(stream));
  }

  /**
   * Looks whether the stream's row is at `at`, and makes it where it was never made. False: it is elsewhere. An idle owner
   * gives a time (ms since 1970) before which everything that it accepted is committed.
   */
  touch(stream: string, at: Checkpoint, acceptedThroughMs: number | undefined): Promise<boolean> {
    return this.#inTurn(async () => {
      if (!this.#ensured.has(stream)) {
        await this.#ensure(stream);
        return true;
      }
      const acceptedThrough = acceptedThroughMs === undefined ? null : new Date(acceptedThroughMs);
      const values = [stream, at.epoch, at.lsn, acceptedThrough];
      const rows = await this.#connection.run({ text: sql.TOUCH_CHECKPOINT, values });
      return rows.length === 1;
    });
  }

  /** Marks a finished stream; its row stays as a tombstone. False: the row is not at `at`. Idempotent. */
  retire(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#inTurn(async () => {
      const values = [stream, at.epoch, at.lsn];
      const rows = await this.#connection.run({ text: sql.RETIRE_STREAM, values });
      return rows.length === 1;
    });
  }

  /** Closes the connection; no call may follow. */
  close(): Promise<void> {
    return this.#connection.close();
  }

  #inTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#turns.run(() => orUnavailable(statements));
  }

  #attemptInTurn(flush: () => Promise<FlushAttempt>): Promise<FlushAttempt> {
    return this.#turns.run(() => flush().catch(failedAttempt));
  }

  async #ensure(stream: string): Promise<void> {
    const { node, shard, journal } = this.#owner;
    await this.#connection.run({ text: sql.ENSURE_CHECKPOINT, values: [stream, node, shard, journal] });
    // The streams of a memory journal end with their threads.
    if (journal === 'memory')
      await this.#connection.run({ text: sql.RETIRE_PREDECESSORS, values: [stream, node, shard] });
    this.#ensured.add(stream);
  }

  async #readRow(stream: string): Promise<StreamRow | undefined> {
    return streamRow(await this.#connection.run<CheckpointRow>({ text: sql.READ_BACK, values: [stream] }));
  }

  async #attemptOf({ idempotent }: FrozenRange, { applied, keys, duplicates }: FlushResult): Promise<FlushAttempt> {
    if (!applied) return { kind: 'fenced' };
    return {
      kind: 'committed',
      keys,
      duplicates,
      mismatches: await this.#mismatches(idempotent, duplicates),
    };
  }

  /** How many of the duplicates were recorded with other content. */
  async #mismatches(idempotent: FrozenRange['idempotent'], duplicates: readonly string[]): Promise<number> {
    if (duplicates.length === 0) return 0;
    try {
      const rows = await this.#connection.run<{ token: string; digest: Buffer }>({
        text: sql.READ_DIGESTS,
        values: [duplicates],
      });
      return rows.filter(({ token, digest }) => {
        const own = idempotent.get(token)?.digest;
        return own !== undefined && !digest.equals(own);
      }).length;
    } catch (error) {
      // The flush is committed; only a number for the metrics is lost.
      if (isDatabaseUnavailable(error) || isStatementFailure(error)) return 0;
      throw error;
    }
  }

  /** Tries the sums without committing them. Undefined where PostgreSQL takes them all. */
  async #probe(keys: Buffer, amounts: Buffer): Promise<StatementRefusedError | undefined> {
    await this.#connection.run({ text: 'begin' });
    let refusal: StatementRefusedError | undefined;
    try {
      await this.#connection.run({ text: sql.PROBE_CONSTRAINTS });
      await this.#connection.run({ text: sql.PROBE, values: [keys, amounts] });
    } catch (error) {
      if (!(error instanceof StatementRefusedError) || !(error.kind === 'poison' || mayBePoison(error))) {
        this.#connection.drop();
        throw error;
      }
      refusal = error;
    }
    await this.#connection.run({ text: 'rollback' });
    return refusal;
  }
}

function setAside(range: FrozenRange, poison: Poison, duplicates: readonly string[]): SetAside {
  const rejected = rejectedIncrements(range, poison, duplicates);
  return rejected === 0 ? { rejected } : { rejected, rejectedKeys: rejectedKeys(range, poison) };
}

/** Whether an error says that the database is unavailable. */
export function isDatabaseUnavailable(error: unknown): boolean {
  return error instanceof CounterError && error.code === 'database-unavailable';
}

function isStatementFailure(error: unknown): error is OutcomeUnknownError | StatementRefusedError {
  return error instanceof OutcomeUnknownError || error instanceof StatementRefusedError;
}

/** For statements that can be repeated without harm. */
async function orUnavailable<T>(statements: () => Promise<T>): Promise<T> {
  try {
    return await statements();
  } catch (error) {
    if (!isStatementFailure(error)) throw error;
    const detail = `The database did not answer: ${error.message}.`;
    throw new CounterError('database-unavailable', detail, { cause: error });
  }
}

/** What is known of a flush that failed with this error. */
function failedAttempt(error: unknown): FlushAttempt {
  if (error instanceof OutcomeUnknownError) return { kind: 'unknown', error };
  if (error instanceof StatementRefusedError) {
    if (error.kind === 'poison') return { kind: 'poison', error: withSqlState(error) };
    return { kind: 'refused', error: withSqlState(error), mayBePoison: mayBePoison(error) };
  }
  if (isDatabaseUnavailable(error)) return { kind: 'unreachable', error };
  throw error;
}

/**
 * Whether a row may be the reason, although the SQLSTATE does not say so: a trigger may raise any error. Connections,
 * locks, timeouts and resources are no reason to search: the same statement may succeed later.
 */
function mayBePoison({ kind }: StatementRefusedError): boolean {
  return kind === 'other' || kind === 'refused';
}

function withSqlState(error: StatementRefusedError): Error {
  return new Error(`${error.message} (SQLSTATE ${error.sqlState})`, { cause: error });
}

function streamRow([row]: readonly CheckpointRow[]): StreamRow | undefined {
  return row === undefined ? undefined : { epoch: Number(row.epoch), lsn: Number(row.lsn), retired: row.retired };
}
