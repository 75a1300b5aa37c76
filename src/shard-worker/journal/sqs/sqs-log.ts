/**
 * The sqs journal as a shard uses it: records in a queue, rows of their streams in the database. Shard thread.
 *
 * A consumer of the queue cannot choose what it receives, so a role that writes reads nothing, and a role that reads takes the row
 * of whatever stream it receives records of.
 *
 * ```text
 * records of a stream ──its row is open────────────────────► taken, under a new epoch
 *                     ├──it has none, and they are the first──► its row is made
 *                     ├──it has none, and they are not──────► set aside, with an alert: never counted
 *                     ├──an acknowledged one before them is missing──► blocked
 *                     ├──retired, records above its end──────► opened again
 *                     └──retired, nothing above its end──────► counted already
 * ```
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { LogFields } from '../../../core/logger.js';
import { Turns } from '../../../core/turns.js';
import { END_LIFE, SHOW_LIFE_WITHOUT_ROW } from '../../../db/log-statements.js';
import { orUnavailable, type RunStatement, type ShardConnection } from '../../../db/shard-connection.js';
import * as sqs from '../../../db/sqs-statements.js';
import * as sql from '../../../db/statements.js';
import {
  amountAt,
  DIGEST_BYTES,
  digestStart,
  idempotencyKeyEnd,
  idempotencyKeyStart,
  idempotentRequestEnd,
  incrementEnd,
  isIncrement,
  keyStart,
} from '../../protocol/record-layout.js';
import { emptyRecord, type MessageOrigin } from '../nats/message-format.js';
import type {
  BegunStream,
  LogOwner,
  QueueLog,
  ReceivedRecords,
  ReceivedStream,
  StreamState,
  StreamWriter,
  StreamWriterDeps,
  TakenLogStream,
} from '../stream-log.js';
import { decodeQueueMessage, encodeQueueMessage } from './message-format.js';
import type { Queue, QueueMessage } from './queue.js';
import { deduplicationId, SQS_WRITER_TIMES, SqsWriter, type SqsWriterTimes } from './sqs-writer.js';

const ROLLBACK = { text: sql.ROLL_BACK_TAKING };
/** Nothing fences a writer. */
const NO_APPEND_EPOCH = 'none';
/** Attempts to take a row that other consumers make, take or retire at the same time. */
const ATTEMPTS_MAX = 5;
/** Most groups whose unreadable messages are remembered, so that the log names each once. */
const UNREADABLE_MAX = 1000;
const STREAM_NAME = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/;

/** What the log needs. */
export interface SqsLogDeps {
  /** For what is written. */
  readonly appends: Queue;
  /** For what is received. */
  readonly receives: Queue;
  /** The database, for the writer's questions and signs of life. */
  readonly statements: ShardConnection;
  /** The connection of the flushes, and the turns in which it is used. */
  readonly flushes: ShardConnection;
  readonly flushTurns: Turns;
  readonly clock: Clock;
  /** See {@link SqsWriterDeps}. */
  readonly uptime: () => number;
  readonly times?: SqsWriterTimes;
  readonly owner: LogOwner;
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  readonly log: (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;
}

interface SqsRow {
  readonly epoch: string | null;
  readonly lsn: string;
  readonly covered_from: number;
  readonly retired: boolean;
}

/** A stream whose first message is not acknowledged yet. */
interface Beginning {
  readonly begun: BegunStream;
  readonly hello: Uint8Array;
  /** When the first attempt was sent that may have arrived. */
  unansweredSince: number | undefined;
  /** An attempt got no answer. */
  isInDoubt: boolean;
}

/** One shard's part of the journal. */
export class SqsLog implements QueueLog {
  readonly place = 'SQS';
  readonly store = 'SQS';
  readonly isInDatabase = false;
  readonly groupBytesMax: number;
  readonly #deps: SqsLogDeps;
  readonly #times: SqsWriterTimes;
  readonly #statementTurns = new Turns();
  #beginning: Beginning | undefined;
  /** The stream that this thread writes. */
  #writer: SqsWriter | undefined;
  /** Streams that this thread has begun without a row. */
  readonly #unregistered = new Set<string>();
  readonly #unreadable = new Set<string>();

  constructor(deps: SqsLogDeps) {
    this.#deps = deps;
    this.groupBytesMax = deps.groupBytesMax;
    this.#times = deps.times ?? SQS_WRITER_TIMES;
  }

  get flusher(): string | undefined {
    return this.#deps.owner.flusher;
  }

  /**
   * Makes the row of a new stream, then its first message: LSN 1, without increments. Where the database is unavailable there is no
   * row: whoever receives LSN 1 makes it. Rejects with `journal-unavailable`; the next call then sends the same message again.
   */
  async begin(stream: string): Promise<BegunStream> {
    const beginning = (this.#beginning ??= await this.#prepare(stream));
    const { begun, hello } = beginning;
    const { appends, uptime } = this.#deps;
    const sentAt = (beginning.unansweredSince ??= uptime());
    const isTooLate = (): boolean => uptime() - sentAt >= this.#times.unansweredMaxSeconds;
    // A process that was suspended sends nothing late.
    if (isTooLate()) throw await this.#leaveUnbegun(begun);
    const outcome = await appends.send(begun.stream, deduplicationId(begun.stream, 1), hello);
    if (isTooLate()) throw await this.#leaveUnbegun(begun);
    if (outcome.kind !== 'sent') {
      // The first attempt that may have arrived counts.
      if (outcome.kind === 'refused' && !beginning.isInDoubt) beginning.unansweredSince = undefined;
      else beginning.isInDoubt = true;
      throw new JournalError('journal-unavailable', 'SQS does not take the journal now.', { cause: outcome.error });
    }
    this.#beginning = undefined;
    if (begun.isUnregistered === true) this.#unregistered.add(begun.stream);
    return begun;
  }

  async #prepare(stream: string): Promise<Beginning> {
    const { owner, clock } = this.#deps;
    const begun = await this.#makeOwnRow(stream);
    const facts = { ...owner, firstLsn: 1, previousLsn: 0, time: begun.time, isClose: false };
    return {
      begun,
      hello: encodeQueueMessage([emptyRecord(clock.now())], facts),
      unansweredSince: undefined,
      isInDoubt: false,
    };
  }

  async #makeOwnRow(stream: string): Promise<BegunStream> {
    const { owner, log } = this.#deps;
    try {
      const row = await this.#inStatementTurn(() =>
        this.#deps.statements.transaction(async (run) => {
          await run({ text: sql.BEGIN_TAKING });
          await run({ text: sql.LOCK_PRUNED_BEFORE });
          const made = await makeRow(run, stream, owner, undefined);
          await run({ text: sql.COMMIT_TAKING });
          return made;
        }, ROLLBACK),
      );
      if (row !== undefined)
        return { ...takenStream(stream, row), appendEpoch: NO_APPEND_EPOCH, time: row.database_time };
    } catch (error) {
      if (!(error instanceof CounterError) || error.code !== 'database-unavailable') throw error;
      log('debug', { err: error, stream }, 'Beginning a stream without its row');
    }
    return {
      stream,
      epoch: 0,
      lsn: 0,
      coveredFrom: 0,
      appendEpoch: NO_APPEND_EPOCH,
      time: 0,
      isUnregistered: true,
    };
  }

  /** The row of a stream without records holds the pruning of idempotency keys up for nothing. A late record opens it again. */
  async #leaveUnbegun({ stream, epoch, lsn, isUnregistered }: BegunStream): Promise<JournalError> {
    this.#beginning = undefined;
    try {
      if (isUnregistered !== true) await this.retire(stream, { epoch, lsn });
    } catch (error) {
      if (!(error instanceof CounterError)) throw error;
      this.#deps.log('debug', { err: error, stream }, 'Cannot retire a stream that has not begun; it expires');
    }
    const what = 'SQS did not take a new stream for an hour; beginning another one.';
    return new JournalError('journal-unavailable', what);
  }

  makeWriter({ stream }: BegunStream, deps: StreamWriterDeps): StreamWriter {
    const { appends, owner, uptime } = this.#deps;
    // The first message is LSN 1.
    const own = { queue: appends, origin: owner, uptime, times: this.#times };
    this.#writer = new SqsWriter(stream, NO_APPEND_EPOCH, 1, { ...deps, ...own });
    return this.#writer;
  }

  /** Also where the row of a stream is that this thread writes no more, and that is retired. */
  async ask(stream: string): Promise<StreamState | undefined> {
    return this.#inStatementTurn(async () => {
      const [row] = await this.#deps.statements.run<{
        lsn: string;
        epoch: string;
        open: boolean;
        database_time: number;
      }>({ text: sqs.ASK_SQS_STREAM, values: [stream] });
      if (row === undefined) return this.#unregistered.has(stream) ? { epoch: 0, lsn: 0, time: 0 } : undefined;
      this.#unregistered.delete(stream);
      // A stream that was left has ended for its writer, not for its records: a late one opens its row again.
      const isWritten = this.#writer?.stream === stream && !this.#writer.isOver;
      if (!row.open && isWritten) return undefined;
      return { epoch: Number(row.epoch), lsn: Number(row.lsn), time: row.database_time };
    });
  }

  async showLife(streams: readonly string[]): Promise<void> {
    const values = [this.#deps.owner.flusher ?? null, streams];
    await this.#inStatementTurn(() => this.#deps.statements.run({ text: SHOW_LIFE_WITHOUT_ROW, values }));
  }

  /** Also sends the last record of the stream of `ids` that this thread writes. */
  async endLife(ids: readonly string[]): Promise<void> {
    const writer = this.#writer;
    if (writer !== undefined && ids.includes(writer.stream) && !(await writer.close(writer.lastTime)))
      this.#deps.log('warn', { stream: writer.stream }, 'Cannot say in SQS that the stream has ended; it expires');
    await this.#inStatementTurn(() => this.#deps.statements.run({ text: END_LIFE, values: [ids] }));
  }

  /** A record without increments carries the word. */
  async giveWord(stream: string, _: string, time: DatabaseTime): Promise<boolean> {
    const writer = this.#writer;
    if (writer?.stream !== stream || writer.isOver) return false;
    if (time <= writer.lastTime) return true;
    try {
      await writer.beat(time);
      return true;
    } catch (error) {
      if (!writer.isOver && !(error instanceof JournalError && error.code === 'journal-failed')) throw error;
      return !writer.isOver;
    }
  }

  async receive(): Promise<readonly ReceivedRecords[]> {
    const messages = await this.#deps.receives.receive();
    return messages.flatMap((message) => this.#decoded(message) ?? []);
  }

  /** A message that cannot be read is received again and again, and what follows it in its group is not received. */
  #decoded(message: QueueMessage): ReceivedRecords | undefined {
    const { stream, data, receipt } = message;
    try {
      if (data === undefined || !STREAM_NAME.test(stream))
        throw new JournalError('journal-corrupt', 'A message cannot be read: it was not written by this journal.');
      return { ...decodeQueueMessage(data), stream, receipt };
    } catch (error) {
      if (!(error instanceof JournalError)) throw error;
      if (this.#unreadable.has(stream)) return undefined;
      if (this.#unreadable.size < UNREADABLE_MAX) this.#unreadable.add(stream);
      const what = `Group ${stream} of the queue has a message that cannot be read; what follows it is not counted`;
      this.#deps.log('error', { stream, err: error }, what);
      return undefined;
    }
  }

  async takeReceived(first: ReceivedRecords, lastLsn: Lsn): Promise<ReceivedStream> {
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
      const taken = await this.#inFlushTurn(async () => {
        const { flushes } = this.#deps;
        const values = [first.stream, this.flusher ?? null, first.previousLsn];
        const [row] = await flushes.run<SqsRow>({ text: sqs.TAKE_SQS_STREAM, values });
        if (row !== undefined) return { kind: 'taken', stream: takenStream(first.stream, row), how: 'open' } as const;
        return flushes.transaction((run) => this.#takeLocked(run, first, lastLsn), ROLLBACK);
      });
      if (taken !== undefined) return taken;
    }
    throw new CounterError('database-unavailable', `Other processes keep taking the row of stream ${first.stream}.`);
  }

  /** Takes a stream whose row was not open a moment ago. Undefined where it is now. */
  async #takeLocked(run: RunStatement, first: ReceivedRecords, lastLsn: Lsn): Promise<ReceivedStream | undefined> {
    const { stream } = first;
    await run({ text: sql.BEGIN_TAKING });
    await run({ text: sql.LOCK_PRUNED_BEFORE });
    const [found] = await run<SqsRow>({ text: sql.LOCK_CHECKPOINT, values: [stream] });
    let taken: ReceivedStream | undefined;
    if (found === undefined || found.epoch === null) {
      if (first.firstLsn !== 1) taken = { kind: 'unknown' };
      else {
        const made = await makeRow(run, stream, first, this.flusher);
        if (made !== undefined) taken = { kind: 'taken', stream: takenStream(stream, made), how: 'made' };
      }
    } else {
      const lsn = Number(found.lsn);
      if (found.retired && lsn >= lastLsn) taken = { kind: 'ended', lsn };
      else if (first.previousLsn > lsn) taken = { kind: 'blocked', at: { epoch: Number(found.epoch), lsn } };
      else if (found.retired) {
        const values = [stream, this.flusher ?? null];
        const [row] = await run<SqsRow>({ text: sqs.REOPEN_SQS_STREAM, values });
        if (row === undefined) throw new TypeError('a row that is locked is gone');
        taken = { kind: 'taken', stream: takenStream(stream, row), how: 'reopened' };
      }
    }
    await run(taken?.kind === 'taken' ? { text: sql.COMMIT_TAKING } : ROLLBACK);
    return taken;
  }

  async setAside({ stream, records }: ReceivedRecords): Promise<number | undefined> {
    const rows = new AsideRows();
    for (const { lsn, entries } of records) rows.add(lsn, entries);
    if (rows.keys.length === 0) return 0;
    const time = records.at(-1)?.databaseTime ?? 0;
    return this.#inFlushTurn(() =>
      this.#deps.flushes.transaction(async (run) => {
        await run({ text: sql.BEGIN_TAKING });
        await run({ text: sqs.LOCK_SET_ASIDE, values: [stream] });
        const values = [stream, rows.keys, rows.amounts, rows.lsns, rows.idempotencyKeys, rows.digests, time];
        const inserted = await run({ text: sqs.SET_STREAM_ASIDE, values });
        const isKept =
          inserted.length > 0 || (await run({ text: sqs.IS_SET_ASIDE, values: [stream, rows.lsns] })).length > 0;
        await run({ text: sql.COMMIT_TAKING });
        return isKept ? inserted.length : undefined;
      }, ROLLBACK),
    );
  }

  hold(receipts: readonly string[]): Promise<void> {
    return this.#deps.receives.extend(receipts);
  }

  letGo(receipts: readonly string[], seconds?: number): Promise<void> {
    return this.#deps.receives.release([...receipts].reverse(), seconds);
  }

  remove(receipts: readonly string[]): Promise<void> {
    return this.#deps.receives.delete(receipts);
  }

  touch(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#isApplied(sqs.LOOK_AT_SQS_STREAM, [stream, at.epoch, at.lsn]);
  }

  /** Ends a stream whose last record is committed. */
  retire(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#isApplied(sqs.RETIRE_SQS_STREAM, [stream, at.epoch, at.lsn]);
  }

  async close(): Promise<void> {
    this.#deps.appends.close();
    this.#deps.receives.close();
    await this.#deps.statements.close();
  }

  #isApplied(text: string, values: readonly unknown[]): Promise<boolean> {
    return this.#inFlushTurn(async () => (await this.#deps.flushes.run({ text, values })).length === 1);
  }

  #inStatementTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#statementTurns.run(() => orUnavailable(statements));
  }

  #inFlushTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#deps.flushTurns.run(() => orUnavailable(statements));
  }
}

/** Undefined where the stream has a row. */
async function makeRow(
  run: RunStatement,
  stream: string,
  { node, shard }: MessageOrigin,
  flusher: string | undefined,
): Promise<(SqsRow & { readonly database_time: number }) | undefined> {
  const values = [stream, node, shard, flusher ?? null];
  const [row] = await run<SqsRow & { readonly database_time: number }>({ text: sqs.MAKE_SQS_STREAM, values });
  return row;
}

function takenStream(stream: string, row: SqsRow): TakenLogStream {
  const { epoch, lsn, covered_from: coveredFrom } = row;
  return { stream, epoch: Number(epoch), lsn: Number(lsn), coveredFrom, appendEpoch: undefined };
}

/** Increments of records as columns. */
class AsideRows {
  readonly keys: Buffer[] = [];
  readonly amounts: string[] = [];
  readonly lsns: Lsn[] = [];
  readonly idempotencyKeys: (string | null)[] = [];
  readonly digests: (Buffer | null)[] = [];

  add(lsn: Lsn, entries: Uint8Array): void {
    const bytes = Buffer.from(entries.buffer, entries.byteOffset, entries.byteLength);
    const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
    for (let at = 0; at < bytes.length;) {
      if (isIncrement(view, at)) at = this.#addIncrement(lsn, bytes, view, at, null, null);
      else {
        const idempotencyKey = bytes.toString('latin1', idempotencyKeyStart(at), idempotencyKeyEnd(view, at));
        const digest = bytes.subarray(digestStart(at), digestStart(at) + DIGEST_BYTES);
        const end = idempotentRequestEnd(view, at);
        for (at = idempotencyKeyEnd(view, at); at < end;)
          at = this.#addIncrement(lsn, bytes, view, at, idempotencyKey, digest);
      }
    }
  }

  #addIncrement(
    lsn: Lsn,
    bytes: Buffer,
    view: DataView,
    at: number,
    idempotencyKey: string | null,
    digest: Buffer | null,
  ): number {
    const end = incrementEnd(view, at);
    this.keys.push(bytes.subarray(keyStart(at), end));
    this.amounts.push(String(amountAt(view, at)));
    this.lsns.push(lsn);
    this.idempotencyKeys.push(idempotencyKey);
    this.digests.push(digest);
    return end;
  }
}
