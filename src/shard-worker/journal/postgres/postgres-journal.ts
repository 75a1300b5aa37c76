/**
 * The postgres journal: the statements on `increment_log`, its streams and their owners. Shard thread.
 *
 * Connections and failures are those of `stream-rows.ts`, except that a failed append resolves to its outcome.
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
  StreamFates,
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

/** The journal of a shard; a simulation can wrap it. */
export type IncrementLog = Pick<PostgresJournal, keyof PostgresJournal>;

/** The postgres journal of one shard. */
export class PostgresJournal implements SharedLog {
  readonly place = 'PostgreSQL';
  readonly store = 'increment_log';
  readonly isInDatabase = true;
  readonly gaps = undefined;
  readonly groupBytesMax = Number.POSITIVE_INFINITY;
  readonly fates: StreamFates = { countedTo: (stream) => this.#countedTo(stream) };
  readonly #rows: StreamRows;
  readonly #appends: ShardConnection;
  /** By stream that this thread writes or has adopted: the epoch under which it may append and retire. */
  readonly #appendEpochs = new Map<string, string>();
  /** The latest stream. */
  #begun: FencedStream | undefined;

  constructor(deps: StreamRowsDeps) {
    this.#rows = new StreamRows('postgres', deps);
    this.#appends = deps.statements;
  }

  get flusher(): string | undefined {
    return this.#rows.flusher;
  }

  /**
   * Makes the rows of a new stream. After a rejection they may exist; the stream must not be written, and a flusher retires it.
   */
  async begin(stream: string): Promise<BegunStream> {
    const begun = await this.#rows.begin(stream);
    // Whoever adopts the stream before gets another epoch.
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

  /** The epoch under which this thread may append to a stream that it has begun or adopted. */
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

  /** A synchronous standby may lack records that are found. */
  async #confirmed(): Promise<LogOutcome> {
    try {
      await this.#appends.run({ text: log.AWAIT_STANDBY });
      return { kind: 'present' };
    } catch (error) {
      if (failedAppend(error).kind === 'present') throw error;
      return { kind: 'unknown', error };
    }
  }

  /** The last LSN that the stream ever had; undefined where the stream has no row. */
  lastLsn(stream: string): Promise<Lsn | undefined> {
    return this.#rows.inTurn(async () => {
      const [row] = await this.#appends.run<{ lsn: string }>({ text: log.LAST_LSN, values: [stream] });
      await this.#appends.run({ text: log.AWAIT_STANDBY });
      return row === undefined ? undefined : Number(row.lsn);
    });
  }

  /** Nothing is appended to a stream that is retired, or whose row a failover has undone. */
  async #countedTo(stream: string): Promise<Lsn | undefined> {
    const row = await this.#rows.ask(stream);
    return row?.isOpen === true ? undefined : (row?.lsn ?? 0);
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
    // A survey has found that others retired it.
    return appendEpoch === undefined ? Promise.resolve(false) : this.retireUnder(appendEpoch, stream, at);
  }

  /** As {@link PostgresJournal.retire}, under an append epoch. */
  retireUnder(appendEpoch: string, stream: string, at: Checkpoint): Promise<boolean> {
    return this.#rows.isApplied(RETIRE_LOG_STREAM, [stream, at.epoch, at.lsn, appendEpoch]);
  }

  committed(): void {
    // The pruner removes committed records.
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
