/**
 * How groups come into a queue. Shard thread; one message under way at a time.
 *
 * ```text
 * sent ──answered──► appended
 *       ├──refused──► nothing kept; for want of capacity: the same message again
 *       └──no answer──► in doubt: exactly the same message again, under the same id ──too long──► its LSNs are burnt
 * a message that was under way for an hour, suspension included ──► over
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

/** What the writer of a stream in a queue needs besides what every writer needs. */
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

/** The writer of a stream in a queue. `lsn`: of the last message, which is acknowledged. */
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
    this.#answeredAt = deps.uptime();
  }

  /** Only records show a roll-up that the writer lives: the database being there does not matter. */
  isBeatDue(): boolean {
    return this.#deps.uptime() - this.#answeredAt >= this.#times.beatSeconds;
  }

  get outdatedBecause(): string | undefined {
    const isSilent = this.#deps.uptime() - this.#answeredAt >= this.#times.silentMaxSeconds;
    return isSilent ? 'nothing of it was acknowledged for two days' : undefined;
  }

  advanceAcceptedThrough(writer: SharedStreamWriter, time: DatabaseTime): Promise<boolean> {
    return writer.advanceByRecord(time);
  }

  prepare(group: SentGroup, { stream }: SharedStreamWriter): GroupAttempts {
    const { clock, origin, queue, uptime } = this.#deps;
    const { firstLsn, previousLsn, time, isLast: isClose } = group;
    const id = deduplicationId(stream, firstLsn);
    const data = encodeQueueMessage(group.records, { ...origin, firstLsn, previousLsn, time, isClose });
    const sentAt = uptime();
    let last: AppendOutcome | undefined;
    const tooLate = (): AppendOutcome | undefined => {
      if (uptime() - sentAt < this.#times.unansweredMaxSeconds) return undefined;
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
      this.#answeredAt = uptime();
      return { kind: 'appended' };
    };
    // The stream goes on behind LSNs that are burnt.
    return { isUnsure: false, attempt, giveUp: () => undefined };
  }

  /** By its last record. */
  async close(writer: SharedStreamWriter, appendLast: () => Promise<Lsn>): Promise<boolean> {
    try {
      await appendLast();
      return true;
    } catch (error) {
      if (!(error instanceof JournalError)) throw error;
      return false;
    } finally {
      writer.end('it was ended');
    }
  }
}
