/**
 * The postgres journal as a shard uses it: the statements on `increment_log`, its streams and their owners. Shard thread.
 *
 * Appends, signs of life and reads of the log have a connection of their own, so that they never wait behind a flush. What locks
 * the row of a stream uses the connection of the flushes: it may have to wait for one.
 *
 * A failure of a statement other than an append is CounterError `database-unavailable`: such a statement can be repeated, or
 * what it was for can be looked up. An append that failed resolves to what is known of it.
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { CounterError } from '../../../core/errors.js';
import { Turns } from '../../../core/turns.js';
import { OutcomeUnknownError, StatementRefusedError } from '../../../db/database-errors.js';
import * as log from '../../../db/log-statements.js';
import { orUnavailable, type RunStatement, type ShardConnection } from '../../../db/shard-connection.js';
import * as sql from '../../../db/statements.js';
import type { JournalRecord } from '../journal.js';
import type {
  BegunStream,
  LogOwner,
  LogPosition,
  SharedLog,
  StreamState,
  StreamSurvey,
  StreamWriter,
  StreamWriterDeps,
  Survey,
  TakenLogStream,
} from '../stream-log.js';
import { decodeRow, type EncodedGroup, type LogRow } from './log-records.js';
import { LogWriter, type AppendOutcome } from './log-writer.js';

const UNIQUE_VIOLATION = '23505';
const ROLLBACK = { text: sql.ROLL_BACK_TAKING };

interface Row {
  readonly epoch: string;
  readonly lsn: string;
  readonly covered_from: number;
  readonly append_epoch: string | null;
}

interface SurveyRow {
  readonly stream: string;
  readonly epoch: string;
  readonly lsn: string;
  readonly owner: string | null;
  readonly node: string;
  readonly shard: number;
  readonly is_owned: boolean;
  readonly is_written: boolean;
  readonly self_flushed: boolean;
  readonly flushers: number;
}

/** The log as a shard needs it; a simulation can put something between the two. */
export type IncrementLog = Pick<PostgresIncrementLog, keyof PostgresIncrementLog>;

/** One shard's statements on the log. */
export class PostgresIncrementLog implements SharedLog {
  readonly place = 'PostgreSQL';
  readonly store = 'increment_log';
  readonly isInDatabase = true;
  readonly #appends: ShardConnection;
  readonly #appendTurns = new Turns();
  readonly #flushes: ShardConnection;
  readonly #flushTurns: Turns;
  readonly #owner: LogOwner;

  /** `flushes` and `flushTurns`: the connection of the flushes, and the turns in which it is used. */
  constructor(appends: ShardConnection, flushes: ShardConnection, flushTurns: Turns, owner: LogOwner) {
    this.#appends = appends;
    this.#flushes = flushes;
    this.#flushTurns = flushTurns;
    this.#owner = owner;
  }

  /** The id of this thread as one that flushes. */
  get flusher(): string | undefined {
    return this.#owner.flusher;
  }

  /**
   * Makes the rows of a new stream. Rejects with `database-unavailable`: then they may be there, and the stream must not be
   * written. Whoever flushes ends it.
   */
  begin(stream: string): Promise<BegunStream> {
    const { node, shard, flusher } = this.#owner;
    const begin = async (run: RunStatement): Promise<BegunStream> => {
      await run({ text: sql.BEGIN_TAKING });
      await run({ text: sql.LOCK_PRUNED_BEFORE });
      const values = [stream, node, shard, flusher ?? null];
      const [row] = await run<Row & { database_time: number }>({ text: log.BEGIN_STREAM, values });
      if (row === undefined || row.append_epoch === null)
        throw new TypeError('a statement that always has a row had none');
      await run({ text: sql.COMMIT_TAKING });
      return { ...takenStream(stream, row), appendEpoch: row.append_epoch, time: row.database_time };
    };
    return this.#inAppendTurn(() => this.#appends.transaction(begin, ROLLBACK));
  }

  makeWriter(begun: BegunStream, deps: StreamWriterDeps): StreamWriter {
    return new LogWriter(begun, { ...deps, incrementLog: this });
  }

  /** Appends a group whose first record gets `firstLsn`. */
  append(
    stream: string,
    appendEpoch: string,
    time: DatabaseTime,
    firstLsn: Lsn,
    group: EncodedGroup,
  ): Promise<AppendOutcome> {
    const text = group.isIdempotent ? log.APPEND_IDEMPOTENT : log.APPEND;
    const name = group.isIdempotent ? 'append_idempotent' : 'append';
    const values = [stream, appendEpoch, time, firstLsn, ...group.values];
    return this.#appendTurns.run(async () => {
      try {
        const [row] = await this.#appends.run<{ fenced: number; appended: number }>({ text, name, values });
        if (row === undefined) throw new TypeError('a statement that always has a row had none');
        if (row.appended === group.records) return { kind: 'appended' };
        return { kind: row.fenced === 0 ? 'fenced' : 'gap' };
      } catch (error) {
        const outcome = failedAppend(error);
        return outcome.kind === 'present' ? this.#confirmed() : outcome;
      }
    });
  }

  /** Records that are there may not be on a synchronous standby yet. */
  async #confirmed(): Promise<AppendOutcome> {
    try {
      await this.#appends.run({ text: log.AWAIT_STANDBY });
      return { kind: 'present' };
    } catch (error) {
      if (failedAppend(error).kind === 'present') throw error;
      return { kind: 'unknown', error };
    }
  }

  /** The last LSN that the stream has ever had; undefined where the database does not know the stream any more. */
  lastLsn(stream: string): Promise<Lsn | undefined> {
    return this.#inAppendTurn(async () => {
      const [row] = await this.#appends.run<{ lsn: string }>({ text: log.LAST_LSN, values: [stream] });
      await this.#appends.run({ text: log.AWAIT_STANDBY });
      return row === undefined ? undefined : Number(row.lsn);
    });
  }

  /** Where the row of an open stream is, and what time it is there; undefined where it is not open. */
  ask(stream: string): Promise<StreamState | undefined> {
    return this.#inAppendTurn(async () => {
      const rows = await this.#appends.run<{ lsn: string; epoch: string; database_time: number }>({
        text: log.ASK_STREAM,
        values: [stream],
      });
      const [row] = rows;
      return row && { epoch: Number(row.epoch), lsn: Number(row.lsn), time: row.database_time };
    });
  }

  /** Signs of life of this thread, and of the writer of `streams`. */
  async showLife(streams: readonly string[]): Promise<void> {
    const values = [this.#owner.flusher ?? null, streams];
    await this.#inAppendTurn(() => this.#appends.run({ text: log.SHOW_LIFE, values }));
  }

  /** The last sign of life: other threads may take over at once. */
  async endLife(ids: readonly string[]): Promise<void> {
    await this.#inAppendTurn(() => this.#appends.run({ text: log.END_LIFE, values: [ids] }));
  }

  /** The word of an idle writer: what it accepted before `time` is in the log. False: the stream has another writer, or has ended. */
  giveWord(stream: string, appendEpoch: string, time: DatabaseTime): Promise<boolean> {
    return this.#inAppendTurn(async () => {
      const rows = await this.#appends.run({ text: log.GIVE_WORD, values: [stream, appendEpoch, time] });
      return rows.length === 1;
    });
  }

  /** Looks at all streams. */
  survey(): Promise<Survey> {
    return this.#inAppendTurn(async () => {
      const rows = await this.#appends.run<SurveyRow>({ text: log.SURVEY_STREAMS });
      return { streams: rows.map(surveyOf), flushers: rows[0]?.flushers ?? 0 };
    });
  }

  /** Records above positions in their streams, in order; at most `recordsMax` of each stream. */
  read(positions: readonly LogPosition[], recordsMax: number): Promise<ReadonlyMap<string, readonly JournalRecord[]>> {
    return this.#inAppendTurn(async () => {
      const streams = positions.map(({ stream }) => stream);
      const values = [streams, positions.map(({ lsn }) => lsn), recordsMax];
      const records = new Map<string, JournalRecord[]>(streams.map((stream) => [stream, []]));
      for (const row of await this.#appends.run<LogRow>({ text: log.READ_LOG, values }))
        records.get(row.stream)?.push(decodeRow(row));
      return records;
    });
  }

  /**
   * Takes the flushes of a stream whose row is at `epoch`, and the appends, too, with `adopt`: its writer is gone. Undefined where
   * another thread has taken it meanwhile. Rejects with `database-unavailable`: it may be taken.
   */
  take(stream: string, epoch: number, adopt: boolean): Promise<TakenLogStream | undefined> {
    const take = async (run: RunStatement): Promise<TakenLogStream | undefined> => {
      await run({ text: sql.BEGIN_TAKING });
      await run({ text: sql.LOCK_PRUNED_BEFORE });
      if (adopt) await run({ text: log.LOCK_STREAM, values: [stream] });
      const [found] = await run<{ epoch: string | null; retired: boolean }>({
        text: sql.LOCK_CHECKPOINT,
        values: [stream],
      });
      if (found === undefined || found.epoch === null || Number(found.epoch) !== epoch || found.retired) {
        await run(ROLLBACK);
        return undefined;
      }
      const text = adopt ? log.ADOPT_STREAM : log.TAKE_FLUSHES;
      const [row] = await run<Row>({ text, values: [stream, this.#owner.flusher] });
      if (row === undefined) throw new TypeError('a row that is locked is gone');
      await run({ text: sql.COMMIT_TAKING });
      return takenStream(stream, row);
    };
    return this.#inFlushTurn(() => this.#flushes.transaction(take, ROLLBACK));
  }

  /** Looks whether the row of a stream that another process writes is at `at`, and passes its writer's word on. */
  touch(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#isApplied(log.TOUCH_STREAM, [stream, at.epoch, at.lsn]);
  }

  /** Leaves a stream at `at` to whoever flushes it next. */
  release(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#isApplied(log.RELEASE_STREAM, [stream, at.epoch, at.lsn]);
  }

  /** Ends a stream that is flushed to the end of its log. False: its row is not at `at`, or the log goes on. Idempotent. */
  retire(stream: string, at: Checkpoint, appendEpoch: string): Promise<boolean> {
    return this.#isApplied(log.RETIRE_LOG_STREAM, [stream, at.epoch, at.lsn, appendEpoch]);
  }

  /** Closes the connection of the appends; no call may follow. */
  close(): Promise<void> {
    return this.#appends.close();
  }

  #isApplied(text: string, values: readonly unknown[]): Promise<boolean> {
    return this.#inFlushTurn(async () => (await this.#flushes.run({ text, values })).length === 1);
  }

  #inAppendTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#appendTurns.run(() => orUnavailable(statements));
  }

  #inFlushTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#flushTurns.run(() => orUnavailable(statements));
  }
}

function takenStream(stream: string, { epoch, lsn, covered_from, append_epoch }: Row): TakenLogStream {
  return {
    stream,
    epoch: Number(epoch),
    lsn: Number(lsn),
    coveredFrom: covered_from,
    appendEpoch: append_epoch ?? undefined,
  };
}

function surveyOf(row: SurveyRow): StreamSurvey {
  return {
    stream: row.stream,
    epoch: Number(row.epoch),
    lsn: Number(row.lsn),
    owner: row.owner ?? undefined,
    node: row.node,
    shard: row.shard,
    isOwned: row.is_owned,
    isWritten: row.is_written,
    isSelfFlushed: row.self_flushed,
  };
}

function failedAppend(error: unknown): AppendOutcome {
  if (error instanceof StatementRefusedError)
    return error.sqlState === UNIQUE_VIOLATION ? { kind: 'present' } : { kind: 'refused', error };
  if (error instanceof OutcomeUnknownError) return { kind: 'unknown', error };
  if (error instanceof CounterError && error.code === 'database-unavailable') return { kind: 'refused', error };
  throw error;
}
