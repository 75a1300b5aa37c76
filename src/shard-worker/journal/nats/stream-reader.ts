/**
 * Reads one stream of a broker for whoever flushes it. Shard thread.
 *
 * Records that were read or flushed before are left out, and so are copies of them. Reading goes on behind a fence: a broker that
 * accepted two messages with one expectation may have stored a record there. It stops at a gap, and at what cannot be read.
 *
 * ```text
 * to end a stream: read to the end ──► a fence, expecting the last message that was read ──► read on, and again if a record came
 *                  ──► a fence, anyone's, is the last message that was read: nothing follows
 * ```
 */
import type { Lsn } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import type { JournalRecord } from '../journal.js';
import type { Broker, BrokerMessage } from './broker.js';
import { decodeMessage, isFence, type RecordMessage } from './message-format.js';

/** Messages that are read at a time. */
const MESSAGES_MAX = 8;
/** Most fences that one read publishes: each follows a record that came in between. */
const FENCES_MAX = 2;
const FENCE = new Uint8Array(0);

/** What the reader needs. */
export interface StreamReaderDeps {
  readonly broker: Pick<Broker, 'publish' | 'read'>;
  /** A message was read whose last record is `lsn`. */
  readonly found: (lsn: Lsn, sequence: number) => void;
  /** A message that nobody can read: what follows is not counted. */
  readonly unreadable: (sequence: number, error: JournalError) => void;
  /** The stream cannot be ended now. Each later read tries again. */
  readonly unfenced: (error: unknown) => void;
}

/** The reader of one stream. One read at a time. */
export class StreamReader {
  readonly stream: string;
  /** Whether this thread ends the stream. */
  readonly ends: boolean;
  readonly #deps: StreamReaderDeps;
  #lsn: Lsn;
  #lastSequence = 0;
  #recordSequence = 0;
  #fenceSequence = 0;
  #firstFence: number | undefined;
  #isBlocked = false;

  /** Reads what is above `lsn`. */
  constructor(stream: string, lsn: Lsn, ends: boolean, deps: StreamReaderDeps) {
    this.stream = stream;
    this.ends = ends;
    this.#lsn = lsn;
    this.#deps = deps;
  }

  /** The last LSN that was read. */
  get lsn(): Lsn {
    return this.#lsn;
  }

  /** The sequence of the first fence that was read. */
  get firstFence(): number | undefined {
    return this.#firstFence;
  }

  /** Everything was read, up to a fence with no record behind it. */
  get hasEnded(): boolean {
    return !this.#isBlocked && this.#fenceSequence > this.#recordSequence;
  }

  /**
   * The next records, about `recordsMax`; fewer where the subject ends. Rejects as the broker does. A fence that the broker does not
   * take keeps no record back: where a limit is reached, what is read here makes room once it is committed.
   */
  async read(recordsMax: number): Promise<readonly JournalRecord[]> {
    const records: JournalRecord[] = [];
    let fences = 0;
    while (!this.#isBlocked && records.length < recordsMax) {
      const messages = await this.#deps.broker.read(this.stream, this.#lastSequence + 1, MESSAGES_MAX);
      for (const message of messages) {
        this.#take(message, records);
        if (this.#isBlocked) return records;
      }
      if (messages.length === MESSAGES_MAX) continue;
      if (!this.ends || this.hasEnded || fences === FENCES_MAX) break;
      fences += 1;
      if (!(await this.#isFenceSent())) break;
    }
    return records;
  }

  /** False where there is no news. Whatever its outcome, only what is read afterwards counts. */
  async #isFenceSent(): Promise<boolean> {
    const outcome = await this.#deps.broker.publish(this.stream, FENCE, this.#lastSequence);
    if (outcome.kind === 'published' || outcome.kind === 'mismatch') return true;
    this.#deps.unfenced(outcome.error);
    return false;
  }

  #take(message: BrokerMessage, records: JournalRecord[]): void {
    const { sequence, data } = message;
    if (isFence(data)) {
      this.#lastSequence = sequence;
      this.#fenceSequence = sequence;
      this.#firstFence ??= sequence;
      return;
    }
    const group = this.#decode(message);
    if (group === undefined) return;
    this.#lastSequence = sequence;
    this.#recordSequence = sequence;
    this.#deps.found(group.lastLsn, sequence);
    if (group.lastLsn <= this.#lsn) return;
    records.push(...group.records.filter(({ lsn }) => lsn > this.#lsn));
    // Whoever counts the records sees the gap.
    if (group.firstLsn > this.#lsn + 1) this.#isBlocked = true;
    else this.#lsn = group.lastLsn;
  }

  #decode({ sequence, data }: BrokerMessage): RecordMessage | undefined {
    try {
      return decodeMessage(data);
    } catch (error) {
      if (!(error instanceof JournalError)) throw error;
      this.#isBlocked = true;
      this.#deps.unreadable(sequence, error);
      return undefined;
    }
  }
}
