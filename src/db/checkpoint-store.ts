/**
 * Checkpoints and flushes of the streams of one shard, over its connection. Shard thread; one call at a time.
 *
 * Every call may fail in the three ways of `shard-connection.ts`. Where the outcome is unknown only the row itself tells
 * (see `readBack`).
 */
import { CounterError } from '../core/errors.js';
import type { DatabaseTarget, Statement } from './connection.js';
import { OutcomeUnknownError, StatementRefusedError } from './database-errors.js';
import { flushSeconds, flushStatement, USUAL_FLUSH_SECONDS, type FlushRequest } from './flush-request.js';
import { ShardConnection, type ShardConnectionOptions } from './shard-connection.js';
import { RESET_TIMEOUTS, SET_TIMEOUTS } from './session-statements.js';
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
const QUERY_CANCELED = '57014';
const ALLOWANCE_MAX = 64;

/** See the file's head. */
export class CheckpointStore {
  readonly #connection: ShardConnection;
  /** What a flush may take, in multiples of what flushes of its size may take. */
  #allowance = 1;

  constructor(target: DatabaseTarget, options: ShardConnectionOptions) {
    this.#connection = new ShardConnection(target, options);
  }

  /** The id of the database: a UUID made with its schema. Refused (42P01) where the schema is not there yet. */
  async databaseId(): Promise<string> {
    const [row] = await this.#connection.run<{ database_id: string }>({ text: sql.DATABASE_ID });
    if (row === undefined) throw new CounterError('database-unavailable', 'The database has no schema of ours yet.');
    return row.database_id;
  }

  /** Makes the checkpoint row at (0, 0) where it is not there. A memory journal's stream ends those of its shard before. */
  async ensureStream(stream: string, { node, shard, journal }: StreamAttributes): Promise<void> {
    await this.#connection.run({ text: sql.ENSURE_CHECKPOINT, values: [stream, node, shard, journal] });
    if (journal === 'memory')
      await this.#connection.run({ text: sql.RETIRE_PREDECESSORS, values: [stream, node, shard] });
  }

  /** The row and its claims. Undefined where there is none. */
  async readClaims(stream: string): Promise<ClaimedCheckpoint | undefined> {
    // In this order, each with a snapshot of its own: a claim that commits in between raises the epoch that was read.
    const row = await this.readBack(stream);
    if (row === undefined) return undefined;
    const rows = await this.#connection.run<ClaimRow>({ text: sql.READ_CLAIMS, values: [stream, row.epoch] });
    const claims = rows.map(({ claim, lsn }) => ({ id: claim, lsn: Number(lsn) }));
    return { ...row, claims, isComplete: claims.length < sql.CLAIMS_MAX };
  }

  /**
   * Takes the stream over from whoever held it at `epoch`, who is fenced from then on. The last of `claims` is the one that
   * is made, those before it are written down with it. Undefined where the row is not at (epoch, lsn).
   */
  async claim(stream: string, epoch: number, lsn: number, claims: readonly Claim[]): Promise<Checkpoint | undefined> {
    const values = [stream, epoch, claims.map(({ id }) => id), claims.map((claim) => claim.lsn), lsn];
    return checkpoint(await this.#connection.run<CheckpointRow>({ text: sql.RAISE_EPOCH, values }));
  }

  /** The row as it is once every flush that was under way has ended. Undefined where there is none. */
  async readBack(stream: string): Promise<Checkpoint | undefined> {
    return checkpoint(await this.#connection.run<CheckpointRow>({ text: sql.READ_BACK, values: [stream] }));
  }

  /** Adds the sums and moves the checkpoint, both or neither. */
  async flush(request: FlushRequest): Promise<FlushResult> {
    const statement = flushStatement(request);
    const seconds = flushSeconds(request, this.#allowance);
    const needsLongTimeout = seconds > USUAL_FLUSH_SECONDS;
    const [row] = needsLongTimeout ? await this.#runWithTimeout(statement, seconds) : await this.#runFlush(statement);
    if (row === undefined) throw new OutcomeUnknownError('a flush was answered without its row');
    this.#connection.noticeFlushed();
    return { fenced: row.fenced, claimed: row.claimed, keys: row.keys, unclaimed: row.unclaimed ?? [] };
  }

  async #runWithTimeout(statement: Statement, seconds: number): Promise<FlushRow[]> {
    const limits = [`${seconds}s`, `${seconds + USUAL_FLUSH_SECONDS}s`];
    await this.#connection.run({ text: SET_TIMEOUTS, values: limits });
    try {
      return await this.#runFlush({ ...statement, timeoutMs: 1000 * (seconds + REPLY_SECONDS) });
    } finally {
      await this.#restoreTimeouts();
    }
  }

  /** A flush that took too long gets twice as long the next time, and half as long again once one has succeeded. */
  async #runFlush(statement: Statement): Promise<FlushRow[]> {
    try {
      const rows = await this.#connection.run<FlushRow>(statement);
      this.#allowance = Math.max(1, this.#allowance / 2);
      return rows;
    } catch (error) {
      const wasCanceled = error instanceof StatementRefusedError && error.sqlState === QUERY_CANCELED;
      if (wasCanceled) this.#allowance = Math.min(2 * this.#allowance, ALLOWANCE_MAX);
      throw error;
    }
  }

  /** Back to the session's usual limits; a connection that does not take them is not used again. */
  async #restoreTimeouts(): Promise<void> {
    if (!this.#connection.isOpen) return;
    try {
      await this.#connection.run({ text: RESET_TIMEOUTS });
    } catch {
      this.#connection.drop();
    }
  }

  /** The digests that tokens were claimed with; a token that is not claimed is absent. */
  async readDigests(tokens: readonly string[]): Promise<ReadonlyMap<string, Buffer>> {
    const rows = await this.#connection.run<{ token: string; digest: Buffer }>({
      text: sql.READ_DIGESTS,
      values: [tokens],
    });
    return new Map(rows.map(({ token, digest }) => [token, digest]));
  }

  /**
   * Looks whether the row is at (epoch, lsn); false where it is not. An idle owner gives a time (ms since 1970) before which
   * everything that it accepted is committed.
   */
  async touch(stream: string, epoch: number, lsn: number, acceptedThroughMs: number | undefined): Promise<boolean> {
    const acceptedThrough = acceptedThroughMs === undefined ? null : new Date(acceptedThroughMs);
    const rows = await this.#connection.run({
      text: sql.TOUCH_CHECKPOINT,
      values: [stream, epoch, lsn, acceptedThrough],
    });
    return rows.length === 1;
  }

  /** Ends the stream for ever. False: the row is not at (epoch, lsn). Idempotent. */
  async retire(stream: string, epoch: number, lsn: number): Promise<boolean> {
    const rows = await this.#connection.run({ text: sql.RETIRE_STREAM, values: [stream, epoch, lsn] });
    return rows.length === 1;
  }

  /**
   * Tries the sums without committing them, to find the row that PostgreSQL refuses: undefined where it takes them all.
   * Rejects where the try itself failed.
   */
  async probe(keys: Buffer, amounts: Buffer): Promise<StatementRefusedError | undefined> {
    await this.#connection.run({ text: 'begin' });
    let refusal: StatementRefusedError | undefined;
    try {
      await this.#connection.run({ text: sql.PROBE, values: [keys, amounts] });
    } catch (error) {
      if (!(error instanceof StatementRefusedError) || error.kind !== 'poison') {
        this.#connection.drop();
        throw error;
      }
      refusal = error;
    }
    await this.#connection.run({ text: 'rollback' });
    return refusal;
  }

  /** Opens the connection now, for example to learn whether the database is there. */
  async connect(): Promise<void> {
    await this.#connection.open();
  }

  /** Closes the connection; no call may follow. */
  async close(): Promise<void> {
    await this.#connection.close();
  }
}

function checkpoint([row]: readonly CheckpointRow[]): Checkpoint | undefined {
  return row === undefined ? undefined : { epoch: Number(row.epoch), lsn: Number(row.lsn), retired: row.retired };
}
