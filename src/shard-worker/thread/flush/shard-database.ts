/**
 * The database as a shard uses it: checkpoints, ownership and flushes of its streams, over one connection. Shard thread.
 *
 * Statements run in turn, because the streams of a shard share the connection and a probe is a transaction. A failed statement
 * rejects with CounterError `database-unavailable` and can be repeated. A failed flush resolves to what is known of it.
 */
import { randomUUID } from 'node:crypto';
import { CounterError } from '../../../core/errors.js';
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { Turns } from '../../../core/turns.js';
import { SumArrayEncoder } from '../../../db/binary-array.js';
import { OutcomeUnknownError, StatementRefusedError } from '../../../db/database-errors.js';
import { FlushStatement, notWritten, timestamp, type FlushResult } from '../../../db/flush-statement.js';
import { orUnavailable, type RunStatement, type ShardConnection } from '../../../db/shard-connection.js';
import * as sql from '../../../db/statements.js';
import type { ClaimInDatabase, ClaimsInDatabase, OwnershipClaim } from '../../journal/ownership-claim.js';
import type { FrozenRange } from '../pending-sums.js';
import { findPoison, rejectedIncrements, rejectedKeys, type Poison, type RejectedKeys } from './poison-search.js';
import { RangeEncoder } from './range-encoder.js';

/** The owner of the streams, kept in their rows for operators. */
export interface StreamOwner {
  /** The id of the server, a UUID. */
  readonly node: string;
  readonly shard: number;
  /** The kind of journal. */
  readonly journal: string;
}

/** A stream's row in `journal_checkpoints`. */
export interface StreamRow extends Checkpoint {
  /** Idempotent records with an older time can no longer be checked against the window. */
  readonly coveredFrom: DatabaseTime;
  /** The stream was closed or retired. */
  readonly isOver: boolean;
}

/** A stream's locked row, and its claims. */
export interface LockedStream extends ClaimsInDatabase {
  /** Undefined if there is none. */
  readonly row: StreamRow | undefined;
}

/** What to record when a locked row is taken. */
export interface Taking {
  /** The claims to record: lost ones, then the new one. */
  readonly claims: readonly OwnershipClaim[];
  /** The LSN of the row if it must be made. */
  readonly lsn: Lsn;
}

/** A stream that was taken. */
export interface TakenRow {
  readonly row: StreamRow;
  /** What was there before. */
  readonly before: LockedStream;
}

/** What a flush moved to `rejected_increments`. */
interface SetAside {
  /** In increments. */
  readonly rejected: number;
  /** The keys of these, if any. */
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
      /** How many of those came with other content. */
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
  /** It was sent and no reply came. `setAside`: the rows set aside if it committed. */
  | { readonly kind: 'unknown'; readonly error: unknown; readonly setAside?: SetAside };

/** The database as a shard needs it. A simulation can intercept it. */
export type ShardDatabase = Pick<PostgresShardDatabase, keyof PostgresShardDatabase>;

const NO_SUMS = new SumArrayEncoder();
const ROLLBACK = { text: sql.ROLL_BACK_TAKING };

interface CheckpointRow {
  readonly epoch: string;
  readonly lsn: string;
  readonly covered_from: number;
  readonly retired: boolean;
  readonly closed: boolean;
}

/** As {@link CheckpointRow}; the epoch is null where there is no row. */
interface LockedRow extends Omit<CheckpointRow, 'epoch' | 'lsn'> {
  readonly database_time: number;
  readonly epoch: string | null;
  readonly lsn: string | null;
}

interface TimeRow {
  readonly database_time: number;
}

/** One shard's statements. */
export class PostgresShardDatabase {
  readonly #connection: ShardConnection;
  readonly #flush: FlushStatement;
  readonly #owner: StreamOwner;
  readonly #encoder = new RangeEncoder();
  readonly #turns: Turns;
  #time: DatabaseTime = 0;

  /** `turns`: shared with other users of the connection. */
  constructor(connection: ShardConnection, owner: StreamOwner, turns = new Turns()) {
    this.#connection = connection;
    this.#flush = new FlushStatement(connection);
    this.#owner = owner;
    this.#turns = turns;
  }

  /** The id of the database, a UUID made with its schema. Rejects until the migrations have run. */
  databaseId(): Promise<string> {
    return this.#inTurn(async () => {
      const [row] = await this.#connection.run<{ database_id: string }>({ text: sql.DATABASE_ID });
      if (row === undefined) throw new CounterError('database-unavailable', 'The database has no schema of ours yet.');
      return row.database_id;
    });
  }

  /** The largest time of the database that this thread has heard; 0: none. */
  get time(): DatabaseTime {
    return this.#time;
  }

  /** Checks whether the database answers, and reads its time. */
  look(): Promise<void> {
    return this.#inTurn(async () => {
      this.#hear(await this.#connection.run<TimeRow>({ text: sql.LOOK }));
    });
  }

  /**
   * Takes a stream in one transaction: a new epoch, which fences the previous owner, and an ownership claim. `decide` gets the
   * locked row and the claims, and returns what to record. If it throws, nothing changes, and this rejects with its error.
   * `committing` is called before the commit is sent; from then on the claims may be in the database. Resolves to undefined
   * where another session has made the row meanwhile.
   */
  take(stream: string, decide: (found: LockedStream) => Taking, committing: () => void): Promise<TakenRow | undefined> {
    const take = async (run: RunStatement): Promise<TakenRow | undefined> => {
      await run({ text: sql.BEGIN_TAKING });
      await run({ text: sql.LOCK_PRUNED_BEFORE });
      const [found] = await run<LockedRow>({ text: sql.LOCK_CHECKPOINT, values: [stream] });
      if (found === undefined) throw new TypeError('a statement that always has a row had none');
      const before = lockedStream(found, await this.#claimsOf(stream, run));
      const { claims, lsn } = decide(before);
      const { node, shard, journal } = this.#owner;
      const common = [stream, claims.map(({ id }) => id), claims.map((claim) => claim.lsn)];
      const taken = await run<CheckpointRow>(
        before.row === undefined
          ? { text: sql.MAKE_CHECKPOINT, values: [...common, node, shard, journal, lsn] }
          : { text: sql.TAKE_CHECKPOINT, values: common },
      );
      const row = streamRow(taken);
      if (row === undefined) {
        await run(ROLLBACK);
        return undefined;
      }
      committing();
      await run({ text: sql.COMMIT_TAKING });
      this.#hear([found]);
      return { row, before };
    };
    return this.#inTurn(() => this.#connection.transaction(take, ROLLBACK));
  }

  /** The ownership claims of a stream, in the order of their epochs. */
  readClaims(stream: string): Promise<readonly ClaimInDatabase[]> {
    return this.#inTurn(() => this.#claimsOf(stream, (statement) => this.#connection.run(statement)));
  }

  /** Commits a range. */
  flush(range: FrozenRange): Promise<FlushAttempt> {
    return this.#attemptInTurn(async () => {
      return this.#attemptOf(range, await this.#flush.run(this.#encoder.encode(range)));
    });
  }

  /**
   * As {@link flush}, for a range with rows that PostgreSQL refuses or does not write. Finds these and commits them as rejected.
   * Sets nothing aside if PostgreSQL also refuses a statement without rows, or does not write a key that nobody sends, because
   * then the table is the reason.
   */
  flushSettingAside(range: FrozenRange): Promise<FlushAttempt> {
    return this.#attemptInTurn(async () => {
      const refusal = await orUnavailable(() => this.#probe(NO_SUMS));
      if (refusal !== undefined) return { kind: 'refused', error: withSqlState(refusal) };
      const poison = await findPoison(range, (rows) => this.#probeRows(rows));
      let result: FlushResult;
      try {
        result = await this.#flush.run(this.#encoder.encode(range, poison));
      } catch (error) {
        const attempt = failedAttempt(error);
        // The reply with the duplicates is lost, so this may be too many.
        return attempt.kind === 'unknown' ? { ...attempt, setAside: setAside(range, poison, []) } : attempt;
      }
      const attempt = await this.#attemptOf(range, result);
      return attempt.kind === 'committed' ? { ...attempt, ...setAside(range, poison, result.duplicates) } : attempt;
    });
  }

  /** The stream's row once every current flush has ended. Undefined if there is none. */
  readBack(stream: string): Promise<StreamRow | undefined> {
    return this.#inTurn(() => this.#readRow(stream));
  }

  /**
   * Whether the stream's row is at `at`. An idle owner also gives a time of the database that its directory has noted:
   * everything that it accepted before is committed.
   */
  touch(stream: string, at: Checkpoint, time: DatabaseTime | undefined): Promise<boolean> {
    return this.#inTurn(async () => {
      const values = [stream, at.epoch, at.lsn, time === undefined ? null : timestamp(time)];
      const rows = await this.#connection.run<TimeRow>({ text: sql.TOUCH_CHECKPOINT, values });
      this.#hear(rows);
      return rows.length === 1;
    });
  }

  /** Closes a stream without pending increments, at a clean stop. False: the row is not at `at`. Idempotent. */
  closeStream(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#inTurn(async () => {
      const values = [stream, at.epoch, at.lsn];
      return (await this.#connection.run({ text: sql.CLOSE_STREAM, values })).length === 1;
    });
  }

  /** Retires a stream; its row stays as a tombstone. False: the row is not at `at`. Idempotent. */
  retire(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#inTurn(async () => {
      const values = [stream, at.epoch, at.lsn];
      return (await this.#connection.run({ text: sql.RETIRE_STREAM, values })).length === 1;
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

  #hear([row]: readonly TimeRow[]): void {
    if (row !== undefined) this.#time = Math.max(this.#time, row.database_time);
  }

  async #claimsOf(stream: string, run: RunStatement): Promise<readonly ClaimInDatabase[]> {
    const rows = await run<{ claim: string; epoch: string; lsn: string }>({ text: sql.READ_CLAIMS, values: [stream] });
    return rows.map(({ claim, epoch, lsn }) => ({ id: claim, epoch: Number(epoch), lsn: Number(lsn) }));
  }

  async #readRow(stream: string): Promise<StreamRow | undefined> {
    return streamRow(await this.#connection.run<CheckpointRow>({ text: sql.READ_BACK, values: [stream] }));
  }

  async #attemptOf({ idempotent }: FrozenRange, result: FlushResult): Promise<FlushAttempt> {
    const { applied, keys, duplicates, databaseTime } = result;
    this.#hear([{ database_time: databaseTime }]);
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
      // The flush is committed. Only a number for the metrics is lost.
      if (isDatabaseUnavailable(error) || isStatementFailure(error)) return 0;
      throw error;
    }
  }

  /**
   * Tries rows of a range. Where they are not written, tries them again with a key that nobody sends, in one statement. Rejects if
   * PostgreSQL writes neither.
   */
  async #probeRows(rows: SumArrayEncoder): Promise<StatementRefusedError | undefined> {
    const refusal = await orUnavailable(() => this.#probe(rows));
    if (refusal === undefined || notWritten(refusal.cause) === undefined) return refusal;
    const key = Buffer.from(`summing-counters:probe:${randomUUID()}`);
    rows.append(key, 0, key.length, 1);
    const again = await orUnavailable(() => this.#probe(rows));
    if (again === undefined || notWritten(again.cause) === undefined) return again;
    const { message, sqlState } = again;
    if (sql.rowsNotWritten(String(again.cause))?.written === 0)
      throw new StatementRefusedError(message, sqlState, 'retry', { cause: again });
    return new StatementRefusedError('a trigger or a policy keeps the row from being written', sqlState, 'poison');
  }

  /** Tries the sums without committing them. Undefined if PostgreSQL takes them all. */
  async #probe(rows: SumArrayEncoder): Promise<StatementRefusedError | undefined> {
    await this.#connection.run({ text: 'begin' });
    let refusal: StatementRefusedError | undefined;
    try {
      await this.#connection.run({ text: sql.PROBE_CONSTRAINTS });
      await this.#connection.run({ text: sql.PROBE, values: [rows.keys(), rows.amounts()] });
    } catch (error) {
      if (!(error instanceof StatementRefusedError) || !(error.kind === 'poison' || mayBePoison(error))) {
        this.#connection.drop();
        throw error;
      }
      refusal = notWritten(error) ?? error;
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
 * Whether a row may be the reason although the SQLSTATE does not say so: a trigger may raise any error. Connections, locks,
 * timeouts and resources are excluded, because the same statement may succeed later.
 */
function mayBePoison({ kind }: StatementRefusedError): boolean {
  return kind === 'other' || kind === 'refused';
}

function withSqlState(error: StatementRefusedError): Error {
  return new Error(`${error.message} (SQLSTATE ${error.sqlState})`, { cause: error });
}

function streamRow([row]: readonly CheckpointRow[]): StreamRow | undefined {
  if (row === undefined) return undefined;
  const { epoch, lsn, covered_from: coveredFrom, retired, closed } = row;
  return { epoch: Number(epoch), lsn: Number(lsn), coveredFrom, isOver: retired || closed };
}

function lockedStream(found: LockedRow, claims: readonly ClaimInDatabase[]): LockedStream {
  const { epoch, lsn } = found;
  const row = epoch === null || lsn === null ? undefined : streamRow([{ ...found, epoch, lsn }]);
  return { row, epoch: row?.epoch, lsn: row?.lsn ?? 0, claims, isComplete: claims.length < sql.CLAIMS_MAX };
}
