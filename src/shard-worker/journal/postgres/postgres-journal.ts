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
import { OutcomeUnknownError, StatementRefusedError } from '../../../db/database-errors.js';
import * as log from '../../../db/log-statements.js';
import type { ShardConnection } from '../../../db/shard-connection.js';
import { RETIRE_LOG_STREAM, TOUCH_LOG_STREAM } from '../../../db/stream-statements.js';
import type { JournalRecord } from '../journal.js';
import { StreamRows, type FencedStream, type StreamRowsDeps } from '../shared/stream-rows.js';
import type {
  BegunStream,
  LogPosition,
  SharedLog,
  StreamState,
  StreamWriter,
  StreamWriterDeps,
  Survey,
  TakenLogStream,
} from '../stream-log.js';
import { decodeRow, type EncodedGroup, type LogRow } from './postgres-records.js';
import { postgresWriter, type LogOutcome } from './postgres-transport.js';

const UNIQUE_VIOLATION = '23505';

/** The log as a shard needs it; a simulation can put something between the two. */
export type IncrementLog = Pick<PostgresJournal, keyof PostgresJournal>;

/** One shard's statements on the log. */
export class PostgresJournal implements SharedLog {
  readonly place = 'PostgreSQL';
  readonly store = 'increment_log';
  readonly isInDatabase = true;
  readonly groupBytesMax = Number.POSITIVE_INFINITY;
  readonly fates = undefined;
  readonly #rows: StreamRows;
  readonly #appends: ShardConnection;
  /** Under which this thread may append to a stream and retire it. Of the streams that it writes and has adopted. */
  readonly #appendEpochs = new Map<string, string>();
  /** The stream that was begun last. */
  #begun: FencedStream | undefined;

  constructor(deps: StreamRowsDeps) {
    this.#rows = new StreamRows('postgres', deps);
    this.#appends = deps.statements;
  }

  get flusher(): string | undefined {
    return this.#rows.flusher;
  }

  /**
   * Makes the rows of a new stream. Rejects with `database-unavailable`: then they may be there, and the stream must not be
   * written. Whoever flushes ends it.
   */
  async begin(stream: string): Promise<BegunStream> {
    const begun = await this.#rows.begin(stream);
    // Whoever finishes the one before adopts it, and gets another epoch.
    const before = this.#begun;
    if (before !== undefined && this.#appendEpochs.get(before.stream) === before.appendEpoch)
      this.#appendEpochs.delete(before.stream);
    this.#begun = begun;
    this.#noteEpoch(begun);
    return begun;
  }

  makeWriter({ stream, lsn }: BegunStream, deps: StreamWriterDeps): StreamWriter {
    return postgresWriter({ stream, lsn, appendEpoch: this.appendEpochOf(stream) }, this, deps);
  }

  /** Under which this thread may append to a stream that it has begun or adopted. */
  appendEpochOf(stream: string): string {
    const appendEpoch = this.#appendEpochs.get(stream);
    if (appendEpoch === undefined) throw new TypeError('a stream that this thread has neither begun nor adopted');
    return appendEpoch;
  }

  #noteEpoch({ stream, appendEpoch }: FencedStream): void {
    if (appendEpoch === undefined) this.#appendEpochs.delete(stream);
    else this.#appendEpochs.set(stream, appendEpoch);
  }

  /** Appends a group whose first record gets `firstLsn`. */
  append(
    stream: string,
    appendEpoch: string,
    time: DatabaseTime,
    firstLsn: Lsn,
    group: EncodedGroup,
  ): Promise<LogOutcome> {
    const text = group.isIdempotent ? log.APPEND_IDEMPOTENT : log.APPEND;
    const name = group.isIdempotent ? 'append_idempotent' : 'append';
    const values = [stream, appendEpoch, time, firstLsn, ...group.values];
    return this.#rows.inTurn(async () => {
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
  async #confirmed(): Promise<LogOutcome> {
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
    return this.#rows.inTurn(async () => {
      const [row] = await this.#appends.run<{ lsn: string }>({ text: log.LAST_LSN, values: [stream] });
      await this.#appends.run({ text: log.AWAIT_STANDBY });
      return row === undefined ? undefined : Number(row.lsn);
    });
  }

  async ask(stream: string): Promise<StreamState | undefined> {
    const row = await this.#rows.ask(stream);
    return row?.isOpen === true ? row : undefined;
  }

  sendHeartbeats(streams: readonly string[]): Promise<void> {
    return this.#rows.sendHeartbeats(streams);
  }

  endHeartbeats(ids: readonly string[]): Promise<void> {
    return this.#rows.endHeartbeats(ids);
  }

  advanceAcceptedThrough(stream: string, appendEpoch: string, time: DatabaseTime): Promise<boolean> {
    return this.#rows.advanceAcceptedThrough(stream, appendEpoch, time);
  }

  async survey(): Promise<Survey> {
    const survey = await this.#rows.survey();
    const open = new Set(survey.streams.map(({ stream }) => stream));
    for (const stream of this.#appendEpochs.keys()) if (!open.has(stream)) this.#appendEpochs.delete(stream);
    return survey;
  }

  /** Records above positions in their streams, in order; at most `recordsMax` of each stream. */
  async read(
    positions: readonly LogPosition[],
    recordsMax: number,
  ): Promise<ReadonlyMap<string, readonly JournalRecord[]>> {
    const streams = positions.map(({ stream }) => stream);
    const values = [streams, positions.map(({ lsn }) => lsn), recordsMax];
    const records = new Map<string, JournalRecord[]>(streams.map((stream) => [stream, []]));
    for (const row of await this.#rows.run<LogRow>(log.READ_LOG, values)) records.get(row.stream)?.push(decodeRow(row));
    return records;
  }

  async take(stream: string, epoch: number, adopt: boolean): Promise<TakenLogStream | undefined> {
    if (!adopt) {
      const taken = await this.#rows.takeFlushes(stream, epoch);
      return taken && { ...taken, isAdopted: false };
    }
    const adopted = await this.#rows.adopt(stream, epoch);
    if (adopted === undefined) return undefined;
    this.#noteEpoch(adopted);
    return { ...adopted, isAdopted: adopted.appendEpoch !== undefined };
  }

  touch(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#rows.isApplied(TOUCH_LOG_STREAM, [stream, at.epoch, at.lsn]);
  }

  release(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#rows.release(stream, at);
  }

  retire(stream: string, at: Checkpoint): Promise<boolean> {
    const appendEpoch = this.#appendEpochs.get(stream);
    // A look at all streams has found that others have ended it.
    return appendEpoch === undefined ? Promise.resolve(false) : this.retireUnder(appendEpoch, stream, at);
  }

  /** As {@link PostgresJournal.retire}, with the epoch under which whoever retires it may append. */
  retireUnder(appendEpoch: string, stream: string, at: Checkpoint): Promise<boolean> {
    return this.#rows.isApplied(RETIRE_LOG_STREAM, [stream, at.epoch, at.lsn, appendEpoch]);
  }

  committed(): void {
    // What is counted leaves `increment_log` by itself, once it has been kept for long enough.
  }

  close(): Promise<void> {
    return this.#rows.close();
  }
}

function failedAppend(error: unknown): LogOutcome {
  if (error instanceof StatementRefusedError)
    return error.sqlState === UNIQUE_VIOLATION ? { kind: 'present' } : { kind: 'refused', error };
  if (error instanceof OutcomeUnknownError) return { kind: 'unknown', error };
  if (error instanceof CounterError && error.code === 'database-unavailable') return { kind: 'refused', error };
  throw error;
}
