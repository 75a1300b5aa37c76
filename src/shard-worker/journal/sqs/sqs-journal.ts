/**
 * The sqs journal: records in a queue, rows of their streams in the database. Shard thread.
 *
 * A consumer cannot choose what it receives. So a role that writes reads nothing, and a role that reads takes the row of each
 * stream that it receives records of.
 *
 * ```text
 * records of a stream ──its row is open────────────────────► taken, under a new epoch
 *                     ├──no row, first records────────────────► its row is made
 *                     ├──no row, later records────────────────► set aside, with an alert: never counted
 *                     ├──an acknowledged record before them is missing──► blocked; then set aside, and the row is retired
 *                     ├──retired, records above its end──────► opened again
 *                     └──retired, nothing above its end──────► counted already
 * ```
 */
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { LogFields } from '../../../core/logger.js';
import type { RunStatement } from '../../../db/shard-connection.js';
import * as sql from '../../../db/statements.js';
import * as streams from '../../../db/stream-statements.js';
import { emptyRecord } from '../shared/message-format.js';
import type { SharedStreamWriter } from '../shared/shared-stream-writer.js';
import { lockedRow, StreamRows, ownedStream, type StreamRow, type StreamRowsDeps } from '../shared/stream-rows.js';
import type {
  BegunStream,
  QueueLog,
  ReceivedRecords,
  ReceivedStream,
  StreamState,
  StreamWriter,
  StreamWriterDeps,
} from '../stream-log.js';
import { setMessagesAside } from './aside-rows.js';
import { MessageReader } from './message-reader.js';
import type { Queue } from './queue.js';
import { encodeQueueMessage } from './sqs-message.js';
import { deduplicationId, SQS_WRITER_TIMES, sqsWriter, type SqsWriterTimes } from './sqs-transport.js';

const ROLLBACK = { text: sql.ROLL_BACK_TAKING };
/** Attempts to take a row that other consumers change at the same time. */
const ATTEMPTS_MAX = 5;

/** Collaborators and limits of the journal. */
export interface SqsJournalDeps extends StreamRowsDeps {
  /** For sends. */
  readonly appends: Queue;
  /** For receives. */
  readonly receives: Queue;
  readonly clock: Clock;
  readonly times?: SqsWriterTimes;
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  readonly log: (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;
}

/** A stream whose opening record is not acknowledged yet. */
interface Beginning {
  readonly begun: BegunStream;
  readonly opening: Uint8Array;
  /** When the first attempt in doubt was sent. */
  unansweredSince: number | undefined;
  /** An attempt got no answer. */
  isInDoubt: boolean;
}

/** The sqs journal of one shard. */
export class SqsJournal implements QueueLog {
  readonly place = 'SQS';
  readonly store = 'SQS';
  readonly isInDatabase = false;
  /** Nothing fences a writer in a queue, and readers report missing records. */
  readonly fates = undefined;
  readonly groupBytesMax: number;
  readonly #deps: SqsJournalDeps;
  readonly #times: SqsWriterTimes;
  readonly #rows: StreamRows;
  #beginning: Beginning | undefined;
  /** The stream that this thread writes. */
  #writer: SharedStreamWriter | undefined;
  readonly #reader: MessageReader;

  constructor(deps: SqsJournalDeps) {
    this.#deps = deps;
    this.groupBytesMax = deps.groupBytesMax;
    this.#times = deps.times ?? SQS_WRITER_TIMES;
    this.#rows = new StreamRows('sqs', deps, deps.receives);
    this.#reader = new MessageReader(deps, this.#rows);
  }

  get flusher(): string | undefined {
    return this.#rows.flusher;
  }

  /**
   * Makes the row of a new stream, then sends its opening record. Where the database is unavailable, whoever receives the
   * opening record makes the row. Rejects with `journal-unavailable`; the next call then sends the same message again.
   */
  async begin(stream: string): Promise<BegunStream> {
    const beginning = (this.#beginning ??= await this.#prepare(stream));
    const { begun, opening } = beginning;
    const { appends, clock } = this.#deps;
    const sentAt = (beginning.unansweredSince ??= clock.uptime());
    const isTooLate = (): boolean => clock.uptime() - sentAt >= this.#times.unansweredMaxMs;
    // A process that was suspended sends nothing late.
    if (isTooLate()) throw await this.#leaveUnbegun(begun);
    const outcome = await appends.send(begun.stream, deduplicationId(begun.stream, 1), opening);
    if (isTooLate()) throw await this.#leaveUnbegun(begun);
    if (outcome.kind !== 'sent') {
      // A refused attempt did not arrive.
      if (outcome.kind === 'refused' && !beginning.isInDoubt) beginning.unansweredSince = undefined;
      else beginning.isInDoubt = true;
      throw new JournalError('journal-unavailable', 'SQS accepts no records now.', { cause: outcome.error });
    }
    this.#beginning = undefined;
    return begun;
  }

  async #prepare(stream: string): Promise<Beginning> {
    const { clock, log, owner } = this.#deps;
    const begun = await this.#rows.beginElsewhere(stream, false, (error) => {
      log('debug', { err: error, stream }, 'Database unavailable; beginning a stream without a row');
    });
    const facts = { ...owner, firstLsn: 1, previousLsn: 0, time: begun.time, isClose: false };
    const opening = encodeQueueMessage([emptyRecord(clock.now())], facts);
    return { begun, opening, unansweredSince: undefined, isInDoubt: false };
  }

  /** Retires the row, so that it does not delay the pruning of idempotency keys. A late record opens it again. */
  async #leaveUnbegun({ stream, epoch, lsn, isRegistered }: BegunStream): Promise<JournalError> {
    this.#beginning = undefined;
    try {
      if (isRegistered) await this.retire(stream, { epoch, lsn });
    } catch (error) {
      if (!(error instanceof CounterError)) throw error;
      this.#deps.log('debug', { err: error, stream }, 'Cannot retire a stream without records; it will expire');
    }
    return new JournalError(
      'journal-unavailable',
      'SQS accepted no opening record for an hour; beginning another stream.',
    );
  }

  makeWriter({ stream }: BegunStream, deps: StreamWriterDeps): StreamWriter {
    const { appends, owner } = this.#deps;
    // The LSN of the opening record.
    const end = { stream, lsn: 1 };
    this.#writer = sqsWriter(end, { ...deps, queue: appends, origin: owner, times: this.#times });
    return this.#writer;
  }

  /** Also returns the retired row of a stream that this thread no longer writes. */
  async ask(stream: string): Promise<StreamState | undefined> {
    const row = await this.#rows.askWritten(stream);
    // A late record opens the row of a released stream again.
    const isWritten = this.#writer?.stream === stream && !this.#writer.isOver;
    return row?.isOpen === false && isWritten ? undefined : row;
  }

  sendHeartbeats(written: readonly string[]): Promise<void> {
    return this.#rows.sendHeartbeats(written);
  }

  /** Also sends the last record of the stream that this thread writes, if `ids` has it. */
  async endHeartbeats(ids: readonly string[]): Promise<void> {
    const writer = this.#writer;
    if (writer !== undefined && ids.includes(writer.stream) && !(await writer.close()))
      this.#deps.log(
        'warn',
        { stream: writer.stream },
        'Cannot send the last record of the stream to SQS; the stream will expire',
      );
    await this.#rows.endHeartbeats(ids);
  }

  receive(): Promise<readonly ReceivedRecords[]> {
    return this.#reader.receive();
  }

  async takeReceived(first: ReceivedRecords, lastLsn: Lsn): Promise<ReceivedStream> {
    const { stream, database } = first;
    if (database !== undefined && database !== this.#deps.receives.store.databaseId) return { kind: 'foreign' };
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
      const values = [stream, this.flusher, first.previousLsn];
      const [row] = await this.#rows.inFlushTurn(() =>
        this.#deps.flushes.run<StreamRow>({ text: streams.TAKE_OPEN_STREAM, values }),
      );
      if (row !== undefined) return { kind: 'taken', stream: ownedStream(stream, row), how: 'open' };
      const taken = await this.#rows.takeLocked((run) => this.#takeLocked(run, first, lastLsn));
      if (taken !== undefined) return taken;
    }
    throw new CounterError(
      'database-unavailable',
      `Could not acquire stream ${stream}: other processes keep taking its row.`,
    );
  }

  /** Takes a stream whose row was not open just before. Undefined where it is open now. */
  async #takeLocked(run: RunStatement, first: ReceivedRecords, lastLsn: Lsn): Promise<ReceivedStream | undefined> {
    const { stream } = first;
    const found = await lockedRow(run, stream);
    if (found === undefined) {
      if (first.database === undefined && !this.#deps.receives.store.isAdopted) return { kind: 'foreign' };
      if (first.firstLsn !== 1) return { kind: 'unknown' };
      const made = await this.#rows.makeReceived(run, stream, first);
      return made && { kind: 'taken', stream: ownedStream(stream, made), how: 'made' };
    }
    const lsn = Number(found.lsn);
    if (found.retired && lsn >= lastLsn) return { kind: 'ended', lsn };
    if (first.previousLsn > lsn) return { kind: 'blocked', at: { epoch: Number(found.epoch), lsn } };
    if (!found.retired) return undefined;
    const [row] = await run<StreamRow>({ text: streams.REOPEN_STREAM, values: [stream, this.flusher] });
    return row && { kind: 'taken', stream: ownedStream(stream, row), how: 'reopened' };
  }

  setAside(messages: readonly ReceivedRecords[], at?: Checkpoint): Promise<number | undefined> {
    return this.#rows.inFlushTurn(() =>
      this.#deps.flushes.transaction(async (run) => {
        await run({ text: sql.BEGIN_TAKING });
        const increments = await setMessagesAside(run, messages, at);
        await run(increments === undefined ? ROLLBACK : { text: sql.COMMIT_TAKING });
        return increments;
      }, ROLLBACK),
    );
  }

  extend(receipts: readonly string[]): Promise<void> {
    return this.#deps.receives.extend(receipts);
  }

  release(receipts: readonly string[], seconds?: number): Promise<void> {
    return this.#deps.receives.release([...receipts].reverse(), seconds);
  }

  remove(receipts: readonly string[]): Promise<void> {
    return this.#deps.receives.delete(receipts);
  }

  touch(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#rows.isApplied(streams.LOOK_AT_STREAM, [stream, at.epoch, at.lsn]);
  }

  retire(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#rows.retireElsewhere(stream, at);
  }

  async close(): Promise<void> {
    this.#deps.appends.close();
    this.#deps.receives.close();
    await this.#rows.close();
  }
}
