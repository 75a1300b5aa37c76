/**
 * Appends groups to a queue. Shard thread; one message under way at a time.
 *
 * ```text
 * sent ──answered──► appended
 *       ├──refused──► nothing kept; for lack of capacity: the same message again
 *       └──no answer──► in doubt: the same message again, under the same id ──too long──► its LSNs are burnt
 * a message that was under way for an hour, suspension included ──► over
 * ```
 *
 * LSNs that were sent are never used again: the queue drops a second message with the same id, and answers as if it had stored
 * it. So streams have gaps. Each message names the last LSN that was acknowledged before it, so a flusher knows that no
 * acknowledged record is missing below it.
 *
 * Nothing can fence a writer: a late copy of a message may still arrive in the queue. Its LSN is below that of later messages,
 * so flushers drop it.
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import type { MessageOrigin } from '../shared/message-format.js';
import {
  SharedStreamWriter,
  type AppendOutcome,
  type AppendTransport,
  type GroupAttempts,
  type SentGroup,
} from '../shared/shared-stream-writer.js';
import type { StreamWriterDeps } from '../stream-log.js';
import type { Queue } from './queue.js';
import { encodeQueueMessage } from './sqs-message.js';

/** Times of a writer, in milliseconds, which a simulation shortens. A suspension counts. */
export interface SqsWriterTimes {
  /** A message that is under way for so long ends its stream. Much less than the time after which streams are retired. */
  readonly unansweredMaxMs: number;
  /**
   * A stream without an acknowledgement for so long ends before anything more is sent: the process was suspended, and the row may
   * be retired or pruned.
   */
  readonly silentMaxMs: number;
  /** An idle stream gets a record at least this often. */
  readonly beatMs: number;
}

/** An hour, two days, and half a day: an idle stream gets a record each day even where one send fails. */
export const SQS_WRITER_TIMES: SqsWriterTimes = {
  unansweredMaxMs: 3_600_000,
  silentMaxMs: 172_800_000,
  beatMs: 43_200_000,
};

/** Collaborators of a writer, in addition to those of every writer. */
export interface SqsWriterDeps extends StreamWriterDeps {
  readonly queue: Pick<Queue, 'send'>;
  readonly origin: MessageOrigin;
  readonly times?: SqsWriterTimes | undefined;
}

/** The id by which the queue recognises copies of a message. */
export function deduplicationId(stream: string, firstLsn: Lsn): string {
  return `${stream}:${firstLsn}`;
}

/** The writer of a stream in a queue. `lsn`: of the last acknowledged message. */
export function sqsWriter(
  end: { readonly stream: string; readonly lsn: Lsn },
  deps: SqsWriterDeps,
): SharedStreamWriter {
  return new SharedStreamWriter(end, new SqsTransport(deps), deps);
}

class SqsTransport implements AppendTransport {
  readonly place = 'SQS';
  readonly burnsLsns = true;
  readonly #deps: SqsWriterDeps;
  readonly #times: SqsWriterTimes;
  #answeredAt: number;

  constructor(deps: SqsWriterDeps) {
    this.#deps = deps;
    this.#times = deps.times ?? SQS_WRITER_TIMES;
    this.#answeredAt = deps.clock.uptime();
  }

  /** Only records prove to a roll-up that the writer lives, whether or not the database is available. */
  isBeatDue(): boolean {
    return this.#deps.clock.uptime() - this.#answeredAt >= this.#times.beatMs;
  }

  get outdatedBecause(): string | undefined {
    const isSilent = this.#deps.clock.uptime() - this.#answeredAt >= this.#times.silentMaxMs;
    return isSilent ? 'SQS has acknowledged no record of it for two days' : undefined;
  }

  advanceAcceptedThrough(writer: SharedStreamWriter, time: DatabaseTime): Promise<boolean> {
    return writer.advanceByRecord(time);
  }

  prepare(group: SentGroup, { stream }: SharedStreamWriter): GroupAttempts {
    const { clock, origin, queue } = this.#deps;
    const { firstLsn, previousLsn, time, isLast: isClose } = group;
    const id = deduplicationId(stream, firstLsn);
    const data = encodeQueueMessage(group.records, { ...origin, firstLsn, previousLsn, time, isClose });
    const sentAt = clock.uptime();
    let last: AppendOutcome | undefined;
    const tooLate = (): AppendOutcome | undefined => {
      if (clock.uptime() - sentAt < this.#times.unansweredMaxMs) return undefined;
      return { kind: 'over', because: 'a message of it was under way for an hour', isAppended: undefined };
    };
    const attempt = async (): Promise<AppendOutcome> => {
      if (last !== undefined) {
        // A process that was suspended sends nothing late.
        const over = tooLate();
        if (over !== undefined) return over;
        if (clock.monotonic() >= group.until) return last;
      }
      const outcome = await queue.send(stream, id, data);
      const over = tooLate();
      if (over !== undefined) return over;
      if (outcome.kind !== 'sent')
        return (last =
          outcome.kind === 'unknown'
            ? outcome
            : { kind: 'refused', error: outcome.error, isPassing: outcome.isThrottled });
      this.#answeredAt = clock.uptime();
      return { kind: 'appended' };
    };
    // The stream continues behind burnt LSNs.
    return { isUnsure: false, attempt, giveUp: () => undefined };
  }

  /** Sends the last record. */
  async close(writer: SharedStreamWriter, appendLast: () => Promise<Lsn>): Promise<boolean> {
    try {
      await appendLast();
      return true;
    } catch (error) {
      if (!(error instanceof JournalError)) throw error;
      return false;
    } finally {
      writer.end('it was closed');
    }
  }
}
