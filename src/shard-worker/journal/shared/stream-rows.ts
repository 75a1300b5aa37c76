/**
 * The rows of streams of a shared journal: their writers, flushers and heartbeats. Shard thread.
 *
 * Questions and heartbeats have a connection of their own, so that they never wait for a flush. Statements that lock the row of
 * a stream use the connection of the flushes, because they may have to wait for one.
 *
 * Every failure is CounterError `database-unavailable`: the caller can repeat the statement, or look up its outcome.
 */
import type { Checkpoint, DatabaseTime } from '../../../core/checkpoint.js';
import { CounterError } from '../../../core/errors.js';
import { Turns } from '../../../core/turns.js';
import { orUnavailable, type RunStatement, type ShardConnection } from '../../../db/shard-connection.js';
import * as sql from '../../../db/statements.js';
import * as streams from '../../../db/stream-statements.js';
import type { BegunStream, LogOwner, OwnedLogStream, StreamState, StreamSurvey } from '../stream-log.js';
import type { MessageOrigin } from './message-format.js';

const ROLLBACK = { text: sql.ROLL_BACK_TAKING };

/** The kinds of shared journals. */
export type SharedJournalKind = 'postgres' | 'nats' | 'sqs';

/** Collaborators of the rows. */
export interface StreamRowsDeps {
  /** For questions, heartbeats and surveys. */
  readonly statements: ShardConnection;
  /** The connection of the flushes, and the turns of its users. */
  readonly flushes: ShardConnection;
  readonly flushTurns: Turns;
  readonly owner: LogOwner;
}

/** What has the records of a journal outside of the database. */
export interface RowStore {
  /** Another one where a broker is made anew. */
  readonly store: { readonly id: string };
  /** For an operator. */
  readonly address: string;
}

/** The columns of a checkpoint row. */
export interface StreamRow {
  /** Null: there is no row. */
  readonly epoch: string | null;
  readonly lsn: string;
  readonly covered_from: number;
  readonly retired: boolean;
}

interface FencedRow {
  /** The epoch under which its owner may append and retire. Null: no row fences its writer. */
  readonly append_epoch: string | null;
}

/** A stream of the database's own journal, with the epoch under which this thread may append and retire. */
export interface FencedStream extends OwnedLogStream {
  readonly appendEpoch: string | undefined;
}

interface TimedRow extends StreamRow {
  readonly database_time: number;
}

/** The row of a stream. */
export interface AskedStream extends StreamState {
  readonly isOpen: boolean;
}

/** The row of a stream that is not retired. */
export interface SurveyedStream extends StreamSurvey {
  /** Since the last heartbeat of its writer; undefined: there is none. */
  readonly silentMs: number | undefined;
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
  readonly silent_ms: number | null;
  readonly self_flushed: boolean;
  readonly flushers: number;
}

/** The rows of one kind of journal, for one shard. */
export class StreamRows {
  readonly #kind: SharedJournalKind;
  readonly #deps: StreamRowsDeps;
  readonly #stored: RowStore | undefined;
  readonly #turns = new Turns();
  /** Streams that this thread has begun without a row. */
  readonly #unregistered = new Set<string>();

  /** `stored`: undefined for the journal in the database. */
  constructor(kind: SharedJournalKind, deps: StreamRowsDeps, stored?: RowStore) {
    this.#kind = kind;
    this.#deps = deps;
    this.#stored = stored;
  }

  /** The id under which this thread flushes. */
  get flusher(): string | undefined {
    return this.#deps.owner.flusher;
  }

  get #storeId(): string | null {
    return this.#stored?.store.id ?? null;
  }

  /** Makes the rows of a new stream of this thread in the postgres journal. */
  async begin(stream: string): Promise<BegunStream & FencedStream> {
    const { node, shard } = this.#deps.owner;
    const values = [stream, node, shard, this.flusher ?? null];
    const row = await this.#make<TimedRow & FencedRow>({ text: streams.BEGIN_STREAM, values });
    if (row === undefined) throw new TypeError('a statement that always has a row had none');
    return { ...fencedStream(stream, row), time: row.database_time, isRegistered: true };
  }

  /**
   * Makes the row of a new stream of this thread in another journal. Where the database is unavailable, calls `unavailable`; a
   * flusher then finds the stream and makes its row.
   */
  async beginElsewhere(
    stream: string,
    sendsHeartbeat: boolean,
    unavailable: (error: unknown) => void,
  ): Promise<BegunStream> {
    try {
      const row = await this.#make(this.#making(stream, this.#deps.owner, this.flusher, sendsHeartbeat));
      if (row !== undefined) return { ...ownedStream(stream, row), time: row.database_time, isRegistered: true };
    } catch (error) {
      if (!(error instanceof CounterError) || error.code !== 'database-unavailable') throw error;
      unavailable(error);
    }
    this.#unregistered.add(stream);
    return { stream, epoch: 0, lsn: 0, coveredFrom: 0, time: 0, isRegistered: false };
  }

  /** Makes the row of a stream that others have begun, without a flusher. False: it has one. */
  async makeFound(stream: string, origin: MessageOrigin): Promise<boolean> {
    return (await this.#make(this.#making(stream, origin, undefined, false))) !== undefined;
  }

  /** As {@link StreamRows.makeFound}, in a transaction of the caller, with this thread as flusher. Undefined: it has one. */
  async makeReceived(run: RunStatement, stream: string, origin: MessageOrigin): Promise<StreamRow | undefined> {
    const [row] = await run<StreamRow>(this.#making(stream, origin, this.flusher, false));
    return row;
  }

  #making(
    stream: string,
    { node, shard }: MessageOrigin,
    flusher: string | undefined,
    sendsHeartbeat: boolean,
  ): { readonly text: string; readonly values: readonly unknown[] } {
    const stored = [this.#storeId, this.#stored?.address ?? null];
    const values = [stream, node, shard, flusher ?? null, this.#kind, sendsHeartbeat, ...stored];
    return { text: streams.MAKE_STREAM, values };
  }

  #make<Row extends TimedRow>(statement: {
    readonly text: string;
    readonly values: readonly unknown[];
  }): Promise<Row | undefined> {
    const make = async (run: RunStatement): Promise<Row | undefined> => (await run<Row>(statement))[0];
    return this.#turns.run(() => orUnavailable(() => taking(this.#deps.statements, make)));
  }

  /** The row of a stream; undefined where there is none. */
  async ask(stream: string): Promise<AskedStream | undefined> {
    const [row] = await this.run<{ lsn: string; epoch: string; open: boolean; database_time: number }>(
      streams.ASK_STREAM,
      [stream],
    );
    return row && { epoch: Number(row.epoch), lsn: Number(row.lsn), time: row.database_time, isOpen: row.open };
  }

  /** As {@link StreamRows.ask}, for the writer: a stream that began without a row counts as open until it has one. */
  async askWritten(stream: string): Promise<AskedStream | undefined> {
    const row = await this.ask(stream);
    if (row === undefined)
      return this.#unregistered.has(stream) ? { epoch: 0, lsn: 0, time: 0, isOpen: true } : undefined;
    this.#unregistered.delete(stream);
    return row;
  }

  /** Heartbeats of this thread, and of the writer of `written`, also before it has a row. */
  async sendHeartbeats(written: readonly string[]): Promise<void> {
    const text = this.#kind === 'postgres' ? streams.SEND_HEARTBEATS : streams.SEND_HEARTBEATS_WITHOUT_ROW;
    await this.run(text, [this.flusher ?? null, written, this.#kind, this.#storeId]);
  }

  /** Ends heartbeats: other threads may take over at once. */
  async endHeartbeats(ids: readonly string[]): Promise<void> {
    await this.run(streams.END_HEARTBEATS, [ids]);
  }

  /** Advances the `accepted_through` of an idle writer. False: the stream is fenced or retired. */
  async advanceAcceptedThrough(stream: string, appendEpoch: string, time: DatabaseTime): Promise<boolean> {
    return (await this.run(streams.ADVANCE_ACCEPTED_THROUGH, [stream, appendEpoch, time])).length === 1;
  }

  /** All streams of the store that are not retired. */
  async survey(): Promise<{ readonly streams: readonly SurveyedStream[]; readonly flushers: number }> {
    const rows = await this.run<SurveyRow>(streams.SURVEY_STREAMS, [this.#kind, this.#storeId]);
    return { streams: rows.map(surveyOf), flushers: rows[0]?.flushers ?? 0 };
  }

  /** Takes the flushes of a stream whose row is at `epoch`. Undefined where another thread has taken it meanwhile. */
  takeFlushes(stream: string, epoch: number): Promise<OwnedLogStream | undefined> {
    return this.takeLocked(async (run) => {
      const row = await this.#takeRow<StreamRow>(run, streams.TAKE_FLUSHES, stream, epoch);
      return row && ownedStream(stream, row);
    });
  }

  /** As {@link StreamRows.takeFlushes}, and fences the writer of a stream in the postgres journal. */
  adopt(stream: string, epoch: number): Promise<FencedStream | undefined> {
    return this.takeLocked(async (run) => {
      await run({ text: streams.LOCK_STREAM, values: [stream] });
      const row = await this.#takeRow<StreamRow & FencedRow>(run, streams.ADOPT_STREAM, stream, epoch);
      return row && fencedStream(stream, row);
    });
  }

  async #takeRow<Row extends StreamRow>(
    run: RunStatement,
    text: string,
    stream: string,
    epoch: number,
  ): Promise<Row | undefined> {
    const found = await lockedRow(run, stream);
    if (found === undefined || found.retired || Number(found.epoch) !== epoch) return undefined;
    const [row] = await run<Row>({ text, values: [stream, this.flusher] });
    if (row === undefined) throw new TypeError('a row that is locked is gone');
    return row;
  }

  /** Takes rows in a transaction with `pruned_before` locked. Rolls it back where `work` resolves to undefined. */
  takeLocked<T>(work: (run: RunStatement) => Promise<T | undefined>): Promise<T | undefined> {
    return this.inFlushTurn(() => taking(this.#deps.flushes, work));
  }

  /** Releases a stream at `at` to the next flusher. */
  release(stream: string, at: Checkpoint): Promise<boolean> {
    return this.isApplied(streams.RELEASE_STREAM, [stream, at.epoch, at.lsn]);
  }

  /** Retires a stream of another journal, flushed to its end. False: its row is not at `at`. Idempotent. */
  retireElsewhere(stream: string, at: Checkpoint): Promise<boolean> {
    return this.isApplied(streams.RETIRE_STREAM_ELSEWHERE, [stream, at.epoch, at.lsn]);
  }

  /** Runs a statement that does not wait for a flush. */
  run<Row extends object>(text: string, values: readonly unknown[]): Promise<Row[]> {
    return this.inTurn(() => this.#deps.statements.run<Row>({ text, values }));
  }

  /** Runs a statement that may wait for a flush. Resolves to whether it changed a row. */
  isApplied(text: string, values: readonly unknown[]): Promise<boolean> {
    return this.inFlushTurn(async () => (await this.#deps.flushes.run({ text, values })).length === 1);
  }

  /** Uses the connection of the statements. */
  inTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#turns.run(() => orUnavailable(statements));
  }

  /** Uses the connection of the flushes. */
  inFlushTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#deps.flushTurns.run(() => orUnavailable(statements));
  }

  /** Closes the connection of the statements; no call may follow. */
  close(): Promise<void> {
    return this.#deps.statements.close();
  }
}

/** Locks the row of a stream; undefined where there is none. */
export async function lockedRow(run: RunStatement, stream: string): Promise<StreamRow | undefined> {
  const [found] = await run<StreamRow>({ text: sql.LOCK_CHECKPOINT, values: [stream] });
  return found === undefined || found.epoch === null ? undefined : found;
}

/** A stream whose row this thread has taken or made. */
export function ownedStream(stream: string, { epoch, lsn, covered_from: coveredFrom }: StreamRow): OwnedLogStream {
  return { stream, epoch: Number(epoch), lsn: Number(lsn), coveredFrom };
}

function fencedStream(stream: string, row: StreamRow & FencedRow): FencedStream {
  return { ...ownedStream(stream, row), appendEpoch: row.append_epoch ?? undefined };
}

function taking<T>(
  connection: ShardConnection,
  work: (run: RunStatement) => Promise<T | undefined>,
): Promise<T | undefined> {
  const transaction = async (run: RunStatement): Promise<T | undefined> => {
    await run({ text: sql.BEGIN_TAKING });
    await run({ text: sql.LOCK_PRUNED_BEFORE });
    const taken = await work(run);
    await run(taken === undefined ? ROLLBACK : { text: sql.COMMIT_TAKING });
    return taken;
  };
  return connection.transaction(transaction, ROLLBACK);
}

function surveyOf(row: SurveyRow): SurveyedStream {
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
    silentMs: row.silent_ms ?? undefined,
  };
}
