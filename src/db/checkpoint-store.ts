/**
 * Checkpoints and flushes of the streams of one shard, over one connection that is opened when it is needed. Shard
 * thread; one call at a time.
 *
 * Three ways to fail, which the caller must tell apart: CounterError `database-unavailable`, nothing was sent;
 * StatementRefusedError, the server answered and nothing is committed; OutcomeUnknownError, it was sent and the answer
 * was not heard, so that only the row itself tells (see `readBack`). After the last the connection is a new one.
 */
import { CounterError } from '../errors.js';
import {
  connect,
  type ConnectOptions,
  type DatabaseConnection,
  type DatabaseTarget,
  type Statement,
} from './connection.js';
import {
  classifyDatabaseError,
  errorCode,
  isStatementRefused,
  OutcomeUnknownError,
  StatementRefusedError,
} from './database-errors.js';
import { flushSeconds, flushStatement, USUAL_FLUSH_SECONDS, type FlushRequest } from './flush-request.js';
import * as sql from './statements.js';

/** What a stream is besides its name; for operators and adopters. */
export interface StreamAttributes {
  /** The node's id, a UUID. */
  readonly node: string;
  readonly shard: number;
  /** Kind of journal. */
  readonly journal: string;
}

/** A checkpoint row. */
export interface Checkpoint {
  readonly epoch: number;
  readonly lsn: number;
  /** No more records will come; the row is a tombstone. */
  readonly retired: boolean;
}

/** A time that a data directory took a stream over. */
export interface Claim {
  /** A UUID. */
  readonly id: string;
  /** Nothing above this LSN was the same in its journal and in that of the owner before. */
  readonly lsn: number;
}

/** A checkpoint row and who has owned it. */
export interface ClaimedCheckpoint extends Checkpoint {
  /** Oldest first. */
  readonly claims: readonly Claim[];
  /** False where older claims may have been forgotten. */
  readonly isComplete: boolean;
}

/** What a flush did. */
export interface FlushResult {
  /** 1: the checkpoint moved and the sums are committed. 0: it was not at (epoch, fromLsn), and nothing happened. */
  readonly fenced: number;
  /** Tokens that were new. */
  readonly claimed: number;
  /** Counters written. */
  readonly keys: number;
  /** Tokens that were claimed before. */
  readonly unclaimed: readonly string[];
}

/** How the store connects. */
export interface CheckpointStoreOptions {
  readonly applicationName: string;
  readonly connectTimeoutMs?: number;
  readonly queryTimeoutMs?: number;
  /** Instead of {@link connect}. */
  readonly connect?: (target: DatabaseTarget, options: ConnectOptions) => Promise<Session>;
}

/** A connection as the store uses it. */
export type Session = Pick<DatabaseConnection, 'lost' | 'query' | 'close' | 'destroy'>;

interface FlushRow {
  readonly fenced: number;
  readonly claimed: number;
  readonly keys: number;
  readonly unclaimed: readonly string[] | null;
}

interface CheckpointRow {
  readonly epoch: string;
  readonly lsn: string;
  readonly retired: boolean;
}

interface ClaimRow {
  readonly claim: string;
  readonly lsn: string;
}

/** How much longer than the server we wait. */
const REPLY_SECONDS = 10;

/** See the file's head. */
export class CheckpointStore {
  readonly #target: DatabaseTarget;
  readonly #options: CheckpointStoreOptions;
  #connection: Session | undefined;
  #closed = false;

  constructor(target: DatabaseTarget, options: CheckpointStoreOptions) {
    this.#target = target;
    this.#options = options;
  }

  /** The id of the database: a UUID made with its schema. Refused (42P01) where the schema is not there yet. */
  async databaseId(): Promise<string> {
    const [row] = await this.#run<{ database_id: string }>({ text: sql.DATABASE_ID });
    if (row === undefined) throw new CounterError('database-unavailable', 'The database has no schema of ours yet.');
    return row.database_id;
  }

  /** Makes the checkpoint row at (0, 0) where it is not there. */
  async ensureStream(stream: string, { node, shard, journal }: StreamAttributes): Promise<void> {
    await this.#run({ text: sql.ENSURE_CHECKPOINT, values: [stream, node, shard, journal] });
  }

  /** The row and its claims. Undefined where there is none. */
  async readClaims(stream: string): Promise<ClaimedCheckpoint | undefined> {
    // In this order, each with a snapshot of its own: a claim that commits in between raises the epoch that was read.
    const row = await this.readBack(stream);
    if (row === undefined) return undefined;
    const rows = await this.#run<ClaimRow>({ text: sql.READ_CLAIMS, values: [stream, row.epoch] });
    const claims = rows.map(({ claim, lsn }) => ({ id: claim, lsn: Number(lsn) }));
    return { ...row, claims, isComplete: claims.length < sql.CLAIMS_MAX };
  }

  /**
   * Takes the stream over from whoever held it at `epoch`, who is fenced from then on. The last of `claims` is the one that
   * is made, those before it are written down with it. Undefined where the row is not at (epoch, lsn).
   */
  async claim(stream: string, epoch: number, lsn: number, claims: readonly Claim[]): Promise<Checkpoint | undefined> {
    const values = [stream, epoch, claims.map(({ id }) => id), claims.map((claim) => claim.lsn), lsn];
    return checkpoint(await this.#run<CheckpointRow>({ text: sql.RAISE_EPOCH, values }));
  }

  /** The row as it is once every flush that was under way has ended. Undefined where there is none. */
  async readBack(stream: string): Promise<Checkpoint | undefined> {
    return checkpoint(await this.#run<CheckpointRow>({ text: sql.READ_BACK, values: [stream] }));
  }

  /** Adds the sums and moves the checkpoint, both or neither. */
  async flush(request: FlushRequest): Promise<FlushResult> {
    const statement = flushStatement(request);
    const seconds = flushSeconds(request);
    const isLarge = seconds > USUAL_FLUSH_SECONDS;
    if (isLarge) await this.#run({ text: sql.SET_PATIENCE, values: [`${seconds}s`] });
    const timeout = isLarge ? { timeoutMs: 1000 * (seconds + REPLY_SECONDS) } : {};
    const [row] = await this.#run<FlushRow>({ ...statement, ...timeout });
    if (isLarge) this.#restorePatience();
    if (row === undefined) throw new OutcomeUnknownError('a flush was answered without its row');
    return { fenced: row.fenced, claimed: row.claimed, keys: row.keys, unclaimed: row.unclaimed ?? [] };
  }

  /** Back to the session's usual limits; a connection that does not take them is not used again. */
  #restorePatience(): void {
    this.#run({ text: sql.RESET_PATIENCE }).catch(() => {
      this.#drop();
    });
  }

  /** The digests that tokens were claimed with; a token that is not claimed is absent. */
  async readDigests(tokens: readonly string[]): Promise<ReadonlyMap<string, Buffer>> {
    const rows = await this.#run<{ token: string; digest: Buffer }>({ text: sql.READ_DIGESTS, values: [tokens] });
    return new Map(rows.map(({ token, digest }) => [token, digest]));
  }

  /** An idle owner: everything accepted before `acceptedThrough` is committed. False: the row is not at (epoch, lsn). */
  async touch(stream: string, epoch: number, lsn: number, acceptedThrough: Date): Promise<boolean> {
    const rows = await this.#run({ text: sql.TOUCH_CHECKPOINT, values: [stream, epoch, lsn, acceptedThrough] });
    return rows.length === 1;
  }

  /** Ends the stream for ever. False: the row is not at (epoch, lsn). Idempotent. */
  async retire(stream: string, epoch: number, lsn: number): Promise<boolean> {
    const rows = await this.#run({ text: sql.RETIRE_STREAM, values: [stream, epoch, lsn] });
    return rows.length === 1;
  }

  /**
   * Tries the sums without committing them, to find the row that PostgreSQL refuses: undefined where it takes them all.
   * Rejects where the try itself failed.
   */
  async probe(keys: Buffer, amounts: Buffer): Promise<StatementRefusedError | undefined> {
    await this.#run({ text: 'begin' });
    let refusal: StatementRefusedError | undefined;
    try {
      await this.#run({ text: sql.PROBE, values: [keys, amounts] });
    } catch (error) {
      if (!(error instanceof StatementRefusedError) || error.kind !== 'poison') {
        this.#drop();
        throw error;
      }
      refusal = error;
    }
    await this.#run({ text: 'rollback' });
    return refusal;
  }

  /** Opens the connection now, for example to learn whether the database is there. */
  async connect(): Promise<void> {
    await this.#connected();
  }

  /** Closes the connection; no call may follow. */
  async close(): Promise<void> {
    this.#closed = true;
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.close();
  }

  async #run<Row extends object>(statement: Statement): Promise<Row[]> {
    const connection = await this.#connected();
    try {
      return await connection.query<Row>(statement);
    } catch (error) {
      if (isStatementRefused(error)) {
        throw new StatementRefusedError(error.message, errorCode(error), classifyDatabaseError(error), {
          cause: error,
        });
      }
      this.#drop();
      throw new OutcomeUnknownError(`the database connection was lost before the reply: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async #connected(): Promise<Session> {
    this.#refuseIfClosed();
    if (this.#connection !== undefined && !this.#connection.lost) return this.#connection;
    try {
      this.#connection = await (this.#options.connect ?? connect)(this.#target, this.#options);
    } catch (error) {
      this.#connection = undefined;
      throw new CounterError('database-unavailable', 'The database cannot be reached.', { cause: error });
    }
    this.#refuseIfClosed();
    return this.#connection;
  }

  #refuseIfClosed(): void {
    if (!this.#closed) return;
    this.#drop();
    throw new CounterError('database-unavailable', 'The database connection is closed.');
  }

  #drop(): void {
    this.#connection?.destroy();
    this.#connection = undefined;
  }
}

function checkpoint([row]: readonly CheckpointRow[]): Checkpoint | undefined {
  return row === undefined ? undefined : { epoch: Number(row.epoch), lsn: Number(row.lsn), retired: row.retired };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
