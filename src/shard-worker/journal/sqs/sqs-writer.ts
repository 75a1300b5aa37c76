/**
 * The writer of one stream in a queue. Shard thread; one message under way at a time.
 *
 * ```text
 * open ──append──► sent ──answered──► acknowledged ───────────────────────────────► open
 *                   ├──every attempt refused by an answer──► nothing kept ─────────► open
 *                   └──an attempt without an answer──► in doubt: exactly the same message again, under the same id
 *                        └──too long in doubt──► its LSNs are burnt, its outcome is unknown ──► open
 * a message that was under way for an hour, suspension included ──────────────────► over
 * ```
 *
 * LSNs that were sent are never used again, whatever became of their message: the queue swallows a second message of the same
 * id, and says that it has it. So streams have gaps. Each message names the last LSN that was acknowledged before it, so whoever
 * counts it knows that nothing acknowledged is missing below it.
 *
 * Nothing can fence a writer: a copy that was sent late may still come into the queue. Its LSN is below that of later messages, and
 * it is dropped behind them.
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import { Turns } from '../../../core/turns.js';
import type { RecordBytes } from '../journal.js';
import { emptyRecord, type MessageOrigin } from '../nats/message-format.js';
import { StreamBacklog, type IncrementsAfter } from '../stream-backlog.js';
import type { StreamWriter, StreamWriterDeps } from '../stream-log.js';
import { encodeQueueMessage } from './message-format.js';
import type { Queue } from './queue.js';

const BACKOFF_FIRST_MS = 25;
const BACKOFF_MAX_MS = 500;

/** Times of a writer, in seconds, which a simulation shortens. Those of a suspension count. */
export interface SqsWriterTimes {
  /** A message that was under way for so long ends its stream. Much less than the time after which streams are retired. */
  readonly unansweredMaxSeconds: number;
  /**
   * A stream of which nothing was acknowledged for so long is over before anything more is sent: the process slept, and the row
   * may be retired, even gone.
   */
  readonly silentMaxSeconds: number;
  /** An idle stream gets a record at least this often. */
  readonly beatSeconds: number;
}

/** An hour, two days, and half a day, so that an idle stream gets a record a day even where a send fails. */
export const SQS_WRITER_TIMES: SqsWriterTimes = {
  unansweredMaxSeconds: 3600,
  silentMaxSeconds: 172_800,
  beatSeconds: 43_200,
};

/** What the writer needs besides what every writer needs. */
export interface SqsWriterDeps extends StreamWriterDeps {
  readonly queue: Pick<Queue, 'send'>;
  readonly origin: MessageOrigin;
  /** Seconds since some time in the past, those of a suspension included. */
  readonly uptime: () => number;
  readonly times?: SqsWriterTimes | undefined;
}

/** The id under which the queue swallows copies of a message. */
export function deduplicationId(stream: string, firstLsn: Lsn): string {
  return `${stream}:${firstLsn}`;
}

/** The writer of one stream. */
export class SqsWriter implements StreamWriter {
  readonly stream: string;
  readonly appendEpoch: string;
  readonly lostAfterLsn = undefined;
  readonly #deps: SqsWriterDeps;
  readonly #times: SqsWriterTimes;
  readonly #backlog = new StreamBacklog();
  readonly #turns = new Turns();
  #endLsn: Lsn;
  /** Above everything that was sent. */
  #nextLsn: Lsn;
  #sending: { isInDoubt: boolean } | undefined;
  #isOver = false;
  #endedBecause = 'it was left';
  #lastTime: DatabaseTime = 0;
  #answeredAt: number;

  /** `endLsn`: of the first message, which is acknowledged. */
  constructor(stream: string, appendEpoch: string, endLsn: Lsn, deps: SqsWriterDeps) {
    this.stream = stream;
    this.appendEpoch = appendEpoch;
    this.#endLsn = endLsn;
    this.#nextLsn = endLsn + 1;
    this.#deps = deps;
    this.#times = deps.times ?? SQS_WRITER_TIMES;
    this.#answeredAt = deps.uptime();
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  /** The time that the last acknowledged message carries. */
  get lastTime(): DatabaseTime {
    return this.#lastTime;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  get endedBecause(): string {
    return this.#endedBecause;
  }

  get isAppending(): boolean {
    return this.#sending !== undefined;
  }

  get isInDoubt(): boolean {
    return this.#sending?.isInDoubt === true;
  }

  get isBeatDue(): boolean {
    return this.#deps.uptime() - this.#answeredAt >= this.#times.beatSeconds;
  }

  get bytes(): number {
    return this.#backlog.bytes;
  }

  get oldestAcceptedAtMs(): number {
    return this.#backlog.oldestAcceptedAtMs;
  }

  incrementsAfter(lsn: Lsn): IncrementsAfter {
    return this.#backlog.incrementsAfter(lsn);
  }

  noteCheckpoint(lsn: Lsn): void {
    this.#backlog.noteCheckpoint(lsn);
  }

  end(because: string): void {
    if (!this.#isOver) this.#endedBecause = because;
    this.#isOver = true;
  }

  append(group: readonly RecordBytes[], time: DatabaseTime): Promise<Lsn> {
    return this.#turns.run(() => this.#append(group, time, false));
  }

  beat(time: DatabaseTime): Promise<Lsn> {
    return this.append([emptyRecord(this.#deps.clock.now())], time);
  }

  /** Sends the last record of the stream, after the group under way. Resolves to whether it is acknowledged. */
  close(time: DatabaseTime): Promise<boolean> {
    return this.#turns.run(async () => {
      if (this.#isOver) return false;
      try {
        await this.#append([emptyRecord(this.#deps.clock.now())], time, true);
        return true;
      } catch (error) {
        if (!(error instanceof JournalError)) throw error;
        return false;
      } finally {
        this.end('it was ended');
      }
    });
  }

  async #append(group: readonly RecordBytes[], time: DatabaseTime, isClose: boolean): Promise<Lsn> {
    if (this.#deps.uptime() - this.#answeredAt >= this.#times.silentMaxSeconds)
      this.end('nothing of it was acknowledged for two days');
    if (this.#isOver) throw new JournalError('journal-fenced', 'The stream is over.');
    const firstLsn = this.#nextLsn;
    this.#nextLsn += group.length;
    const facts = { ...this.#deps.origin, firstLsn, previousLsn: this.#endLsn, time, isClose };
    this.#sending = { isInDoubt: false };
    try {
      await this.#settle(this.#sending, deduplicationId(this.stream, firstLsn), encodeQueueMessage(group, facts));
    } finally {
      this.#sending = undefined;
    }
    this.#lastTime = time;
    this.#answeredAt = this.#deps.uptime();
    const now = this.#deps.clock.monotonic();
    for (const [index, record] of group.entries()) this.#backlog.add(firstLsn + index, record, now);
    this.#endLsn = firstLsn + group.length - 1;
    return this.#endLsn;
  }

  /** Settles where the queue has the message. Otherwise it rejects, and no later answer counts. */
  async #settle(sending: { isInDoubt: boolean }, id: string, data: Uint8Array): Promise<void> {
    const { clock, doubtMaxMs, queue, unavailable, uptime } = this.#deps;
    const until = clock.monotonic() + doubtMaxMs;
    const sentAt = uptime();
    const isTooLate = (): boolean => uptime() - sentAt >= this.#times.unansweredMaxSeconds;
    for (let backoffMs = BACKOFF_FIRST_MS; ; backoffMs = Math.min(2 * backoffMs, BACKOFF_MAX_MS)) {
      const outcome = await queue.send(this.stream, id, data);
      if (isTooLate()) throw this.#endUnanswered();
      if (outcome.kind === 'sent') return;
      if (outcome.kind === 'unknown') sending.isInDoubt = true;
      const mustWait = sending.isInDoubt || (outcome.kind === 'refused' && outcome.isThrottled);
      if (sending.isInDoubt) unavailable(outcome.error);
      if (mustWait && clock.monotonic() + backoffMs < until) {
        await new Promise<void>((resolve) => {
          clock.schedule(backoffMs, resolve);
        });
        // A process that was suspended sends nothing late.
        if (isTooLate()) throw this.#endUnanswered();
        if (clock.monotonic() < until) continue;
      }
      if (sending.isInDoubt) throw unknownOutcome(this.stream);
      unavailable(outcome.error);
      throw new JournalError('journal-unavailable', 'SQS does not take the journal now.', { cause: outcome.error });
    }
  }

  #endUnanswered(): JournalError {
    this.end('a message of it was under way for an hour');
    return unknownOutcome(this.stream);
  }
}

function unknownOutcome(stream: string): JournalError {
  return new JournalError('journal-failed', `SQS did not say whether it has a group of stream ${stream}.`);
}
