/**
 * The row of the stream that a shard with a journal of its own writes. Shard thread.
 *
 * A new stream's row is made when its first record is to be written, and that record waits for it. Until then idempotent
 * requests are covered by the open row of an earlier stream, where there is one.
 */
import type { DatabaseTime } from '../../../core/checkpoint.js';
import { settledWithin } from '../../../core/clock.js';
import { JournalError } from '../../../core/errors.js';
import type { JournalStreams } from '../../journal/journal.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import type { ShardContext } from '../shard-context.js';
import { isJournalUnavailable, type OwnedStream } from './owned-stream.js';
import type { StreamTaker } from './stream-taker.js';

/** Longest wait of a group for the row of its stream, and its share of ACK_TIMEOUT_MS: the answer must come in time. */
const WAIT_MAX_MS = 2000;
const WAIT_SHARE = 0.5;

/** Takes the row of the own stream, and says what covers idempotent requests. */
export class OwnRow {
  readonly #context: ShardContext;
  readonly #journals: JournalStreams;
  readonly #taker: StreamTaker;
  #taking: Promise<void> | undefined;
  /** The row of another stream no longer covers idempotent requests in the own stream. */
  #isCoverOver = false;
  /** A group has waited for the row in vain. */
  #hasWaited = false;

  constructor(context: ShardContext, journals: JournalStreams, taker: StreamTaker) {
    this.#context = context;
    this.#journals = journals;
    this.#taker = taker;
  }

  /**
   * Waits for the row of a new stream, before a first record is written to it. Undefined where there is nothing to wait for:
   * the row is there, or the database is unavailable.
   */
  open(own: OwnedStream): Promise<void> | undefined {
    if (own.pendingSums.isRegistered || !own.flusher.isDatabaseAvailable) return undefined;
    // Once there is a record, the flusher takes the row as soon as it can.
    return this.#hasWaited && own.journal.endLsn > 0 ? undefined : this.#wait(own);
  }

  async #wait(own: OwnedStream): Promise<void> {
    const { clock, ackTimeoutMs } = this.#context.deps;
    let hasRow = false;
    const taking = this.take(own).then(
      () => {
        hasRow = true;
      },
      (error: unknown) => {
        if (!isDatabaseUnavailable(error) && !isJournalUnavailable(error)) this.#context.fail(error);
        // A disk that refuses the stream refuses its records, too.
        hasRow = isJournalUnavailable(error);
      },
    );
    await settledWithin(taking, Math.min(WAIT_MAX_MS, WAIT_SHARE * ackTimeoutMs), clock);
    this.#hasWaited = !hasRow;
  }

  /** Whether a row is open that covers idempotent requests accepted at `time`. */
  covers({ pendingSums, journal }: OwnedStream, time: DatabaseTime): boolean {
    // A record carries the time of when it is appended.
    if (pendingSums.isRegistered) return time >= pendingSums.coveredFrom;
    const { cover } = journal.ownership();
    return cover !== undefined && !this.#isCoverOver && this.#journals.markOf(cover) === 'open';
  }

  /**
   * Takes the row before others are flushed. A stream that is not stored has no record, and needs no row before its first; but
   * from now on the row that covered it may be over at any time.
   */
  async takeBeforeOthers(own: OwnedStream): Promise<void> {
    if (own.journal.endLsn > 0) await this.take(own);
    else this.#isCoverOver = true;
  }

  /** Takes the row, once for all who ask meanwhile. */
  take(own: OwnedStream): Promise<void> {
    if (own.pendingSums.isRegistered) return Promise.resolve();
    this.#taking ??= this.#take(own).finally(() => {
      this.#taking = undefined;
    });
    return this.#taking;
  }

  async #take({ journal, pendingSums }: OwnedStream): Promise<void> {
    const row = await this.#taker.take(journal);
    // What is not covered must be sorted out before it is found by idempotency key, so the journal is read again.
    if (pendingSums.hasOlderThan(row.coveredFrom) || pendingSums.take(row) !== 'same') {
      throw new JournalError(
        'journal-fenced',
        `Stream ${pendingSums.stream} has idempotent requests that its row does not cover; the shard reads its journal again.`,
      );
    }
  }

  /** Settles when the row is not being taken. Whoever asked for it handles a failure. */
  async settled(): Promise<void> {
    await this.#taking?.catch(() => undefined);
  }
}
