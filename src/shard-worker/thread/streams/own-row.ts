/**
 * The row of the stream that a shard with a journal of its own writes. Shard thread.
 *
 * A new stream's row is made before its first record, which waits for it. Until then the open row of an earlier stream, if
 * there is one, covers idempotent requests.
 */
import type { DatabaseTime } from '../../../core/checkpoint.js';
import { settledWithin } from '../../../core/clock.js';
import { JournalError } from '../../../core/errors.js';
import type { JournalStreams } from '../../journal/journal.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import type { ShardContext } from '../shard-context.js';
import { isJournalUnavailable, type OwnedStream } from './owned-stream.js';
import type { StreamTaker } from './stream-taker.js';

/** Longest wait of a group for the row of its stream, and its share of ACK_TIMEOUT_MS. */
const WAIT_MAX_MS = 2000;
const WAIT_SHARE = 0.5;

/** Takes the row of the own stream, and decides whether idempotent requests are covered. */
export class OwnRow {
  readonly #context: ShardContext;
  readonly #journals: JournalStreams;
  readonly #taker: StreamTaker;
  #taking: Promise<void> | undefined;
  /** The row of the earlier stream no longer covers idempotent requests in the own stream. */
  #isCoverOver = false;
  /** A group has waited for the row in vain. */
  #hasWaited = false;

  constructor(context: ShardContext, journals: JournalStreams, taker: StreamTaker) {
    this.#context = context;
    this.#journals = journals;
    this.#taker = taker;
  }

  /**
   * Waits for the row of a new stream before its first record. Undefined without a need to wait: the row is there, or the
   * database is unavailable.
   */
  open(own: OwnedStream): Promise<void> | undefined {
    if (own.pendingSums.isRegistered || !own.flusher.isDatabaseAvailable) return undefined;
    // After the first record, the flusher takes the row as soon as it can.
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
        // A disk that refuses the stream also refuses its records.
        hasRow = isJournalUnavailable(error);
      },
    );
    await settledWithin(taking, Math.min(WAIT_MAX_MS, WAIT_SHARE * ackTimeoutMs), clock);
    this.#hasWaited = !hasRow;
  }

  /** Whether a row is open that covers idempotent requests accepted at `time`. */
  covers({ pendingSums, journal }: OwnedStream, time: DatabaseTime): boolean {
    // A record carries the time of its append.
    if (pendingSums.isRegistered) return time >= pendingSums.coveredFrom;
    const { cover } = journal.ownership();
    return cover !== undefined && !this.#isCoverOver && this.#journals.markOf(cover) === 'open';
  }

  /**
   * Takes the row before other streams are flushed. A stream without records needs no row yet, but the row that covered it may
   * be retired from now on.
   */
  async takeBeforeOthers(own: OwnedStream): Promise<void> {
    if (own.journal.endLsn > 0) await this.take(own);
    else this.#isCoverOver = true;
  }

  /** Takes the row, once for all current callers. */
  take(own: OwnedStream): Promise<void> {
    if (own.pendingSums.isRegistered) return Promise.resolve();
    this.#taking ??= this.#take(own).finally(() => {
      this.#taking = undefined;
    });
    return this.#taking;
  }

  async #take({ journal, pendingSums }: OwnedStream): Promise<void> {
    const row = await this.#taker.take(journal);
    // Uncovered requests must be set aside before they are found by idempotency key, so the journal is read again.
    if (pendingSums.hasOlderThan(row.coveredFrom) || pendingSums.take(row) !== 'same') {
      throw new JournalError(
        'journal-fenced',
        `Stream ${pendingSums.stream} has idempotent requests that its row does not cover; reading its journal again.`,
      );
    }
  }

  /** Settles when the row is not being taken. The caller of {@link take} handles a failure. */
  async settled(): Promise<void> {
    await this.#taking?.catch(() => undefined);
  }
}
