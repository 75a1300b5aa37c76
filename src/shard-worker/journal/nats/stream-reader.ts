/**
 * Reads one stream of a broker for whoever flushes it. Shard thread.
 *
 * Records that were read or flushed before are left out, and so are copies of them. Reading goes on behind a fence: a broker that
 * accepted two messages with one expectation may have stored a record there. It stops at a gap, and at what cannot be read.
 *
 * It begins near the checkpoint: committed records stay for a while, and may be many. An LSN always has the same bytes, so where
 * reading begins does not change what is counted. What was left out is read later, and until then nothing is purged and the stream
 * does not end: there may be a fence, or, in a broker as above, a record that is not counted yet. Such a record, or a gap, makes
 * the reader begin again with the first message.
 *
 * A broker that has lost its last messages gives their sequences to later ones. After a failure, and a second after the last read was
 * sent, the reader looks first whether its last message is still there, and begins again with the first message where it is not.
 *
 * ```text
 * to end a stream: read to the end ──► a fence, expecting the last message that was read ──► read on, and again if a record came
 *                  ──► a fence, anyone's, is the last message that was read: nothing follows
 * ```
 */
import type { Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import type { JournalError } from '../../../core/errors.js';
import type { JournalRecord } from '../journal.js';
import type { Broker, BrokerMessage } from './broker.js';
import { decodedOr } from '../shared/message-format.js';
import { FENCE, isFence } from './nats-message.js';
import type { PurgeSchedule } from './purge-schedule.js';

/** Messages that are read at a time. */
const MESSAGES_MAX = 8;
/** Messages of those that were left out at first, which one read looks at. */
const LEFT_OUT_MESSAGES_MAX = 128;
/** The search for a beginning ends this near to the checkpoint, in sequences of the broker, or after so many messages. */
const NEAR_SEQUENCES = 64;
const SEARCH_MESSAGES_MAX = 50;
/** Most fences that one read publishes: each follows a record that came in between. */
const FENCES_MAX = 2;

/** What the reader needs. */
export interface StreamReaderDeps {
  readonly broker: Pick<Broker, 'publish' | 'read' | 'last'>;
  readonly purges: Pick<PurgeSchedule, 'noteMessage' | 'noteFence' | 'hold' | 'release' | 'clear'>;
  readonly clock: Pick<Clock, 'monotonic'>;
  /** So long after a read was sent the broker may have restarted. */
  readonly confirmAfterMs: number;
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
  /** The last LSN of that message; 0: it is a fence. */
  #lastLsn: Lsn = 0;
  #recordSequence = 0;
  #fenceSequence = 0;
  /** It is known where to begin. */
  #isPlaced: boolean;
  /** Messages that were left out, from one sequence up to another. */
  #leftOut: { from: number; readonly to: number } | undefined;
  #isBlocked = false;
  /** When the last read was sent that was answered, and whether something has failed since. */
  #confirmedAt: number;
  #isUnsure = false;

  /** Reads what is above `lsn`, which is committed. */
  constructor(stream: string, lsn: Lsn, ends: boolean, deps: StreamReaderDeps) {
    this.stream = stream;
    this.ends = ends;
    this.#lsn = lsn;
    this.#isPlaced = lsn === 0;
    this.#deps = deps;
    this.#confirmedAt = deps.clock.monotonic();
  }

  /** The last LSN that was read. */
  get lsn(): Lsn {
    return this.#lsn;
  }

  /** A fence was read, and no record behind it. */
  get isFenced(): boolean {
    return !this.#isBlocked && this.#fenceSequence > this.#recordSequence;
  }

  /** Everything was read, up to a fence with no record behind it. */
  get hasEnded(): boolean {
    return this.isFenced && this.#isPlaced && this.#leftOut === undefined;
  }

  /**
   * The next records, about `recordsMax`; fewer where the subject ends. Rejects as the broker does. A fence that the broker does not
   * take keeps no record back: where a limit is reached, what is read here makes room once it is committed.
   */
  async read(recordsMax: number): Promise<readonly JournalRecord[]> {
    const { clock, confirmAfterMs } = this.#deps;
    const now = clock.monotonic();
    const mustConfirm = this.#isUnsure || now - this.#confirmedAt >= confirmAfterMs;
    const since = mustConfirm ? now : this.#confirmedAt;
    // Until this read has succeeded.
    this.#isUnsure = true;
    if (mustConfirm) await this.#confirm();
    if (!this.#isPlaced) await this.#place();
    const records: JournalRecord[] = [];
    this.#isUnsure = !(await this.#readInto(records, recordsMax, since + confirmAfterMs));
    this.#confirmedAt = now;
    return records;
  }

  /** False where the broker does not have what it had before, as far as this can be seen. No fence is sent after `fenceUntil`. */
  async #readInto(records: JournalRecord[], recordsMax: number, fenceUntil: number): Promise<boolean> {
    let fences = 0;
    while (!this.#isBlocked && records.length < recordsMax) {
      const messages = await this.#deps.broker.read(this.stream, this.#lastSequence + 1, MESSAGES_MAX);
      const isTaken = messages.every((message) => this.#take(message, records));
      if (!isTaken || messages.length === MESSAGES_MAX) continue;
      const mustFence = this.ends && !this.isFenced && fences < FENCES_MAX;
      if (mustFence) {
        fences += 1;
        if (this.#deps.clock.monotonic() >= fenceUntil) return false;
        if (!(await this.#isFenceSent())) return false;
      } else if (this.#leftOut === undefined || (await this.#readLeftOut(this.#leftOut))) {
        break;
      }
    }
    return fences < FENCES_MAX;
  }

  /** Looks whether the last message is still there. */
  async #confirm(): Promise<void> {
    if (this.#lastSequence === 0 || this.#isBlocked) return;
    // Before the first read of a placed reader there is no last message.
    if (this.#recordSequence === 0 && this.#fenceSequence === 0) return;
    const [message] = await this.#deps.broker.read(this.stream, this.#lastSequence, 1);
    if (message?.sequence === this.#lastSequence && lastLsnOf(message) === this.#lastLsn) return;
    this.#beginAgain();
  }

  /** Looks for a message near the checkpoint with which to begin. */
  async #place(): Promise<void> {
    const { broker, purges } = this.#deps;
    const first = (await broker.read(this.stream, 1, MESSAGES_MAX)).at(-1);
    let begin = first?.sequence ?? 0;
    if (first !== undefined && this.#isCommitted(first)) {
      let end = ((await broker.last(this.stream))?.sequence ?? 0) + 1;
      for (let looks = 0; looks < SEARCH_MESSAGES_MAX && end - begin > NEAR_SEQUENCES; looks += 1) {
        const middle = begin + Math.floor((end - begin) / 2);
        const [message] = await broker.read(this.stream, middle, 1);
        if (message !== undefined && message.sequence < end && this.#isCommitted(message)) begin = message.sequence;
        else end = middle;
      }
    }
    if (begin > (first?.sequence ?? 0)) {
      this.#lastSequence = begin - 1;
      this.#leftOut = { from: 1, to: begin };
      purges.hold();
    }
    this.#isPlaced = true;
  }

  /** It holds committed records only. Not known of what is no record. */
  #isCommitted({ data }: BrokerMessage): boolean {
    const group = isFence(data) ? undefined : decodedOr(data, () => undefined);
    return group !== undefined && group.lastLsn <= this.#lsn;
  }

  /** Reads on in what was left out. False where the reader has to begin again. */
  async #readLeftOut(leftOut: { from: number; readonly to: number }): Promise<boolean> {
    const { broker, purges } = this.#deps;
    for (let looked = 0; looked < LEFT_OUT_MESSAGES_MAX; looked += MESSAGES_MAX) {
      const messages = await broker.read(this.stream, leftOut.from, MESSAGES_MAX);
      for (const message of messages) {
        if (message.sequence >= leftOut.to) break;
        if (isFence(message.data)) purges.noteFence(message.sequence);
        else if (!this.#isCommitted(message)) return this.#beginAgain();
      }
      leftOut.from = (messages.at(-1)?.sequence ?? leftOut.to) + 1;
      if (messages.length < MESSAGES_MAX || leftOut.from >= leftOut.to) {
        this.#leftOut = undefined;
        purges.release();
        return true;
      }
    }
    return true;
  }

  /** With the first message. */
  #beginAgain(): false {
    this.#leftOut = undefined;
    this.#lastSequence = 0;
    this.#recordSequence = 0;
    this.#fenceSequence = 0;
    this.#deps.purges.clear();
    return false;
  }

  /** False where there is no news. Whatever its outcome, only what is read afterwards counts. */
  async #isFenceSent(): Promise<boolean> {
    const outcome = await this.#deps.broker.publish(this.stream, FENCE, this.#lastSequence);
    if (outcome.kind === 'published' || outcome.kind === 'mismatch') return true;
    if (outcome.kind !== 'reconnected') this.#deps.unfenced(outcome.error);
    return false;
  }

  /** False where nothing behind it is read now. */
  #take(message: BrokerMessage, records: JournalRecord[]): boolean {
    const { sequence, data } = message;
    const { purges, unreadable } = this.#deps;
    if (isFence(data)) {
      this.#lastSequence = sequence;
      this.#lastLsn = 0;
      this.#fenceSequence = sequence;
      purges.noteFence(sequence);
      return true;
    }
    const group = decodedOr(data, (error) => {
      this.#isBlocked = true;
      unreadable(sequence, error);
    });
    if (group === undefined) return false;
    const isGap = group.firstLsn > this.#lsn + 1;
    if (isGap && this.#leftOut !== undefined) return this.#beginAgain();
    this.#lastSequence = sequence;
    this.#lastLsn = group.lastLsn;
    this.#recordSequence = sequence;
    if (group.lastLsn <= this.#lsn) return true;
    records.push(...group.records.filter(({ lsn }) => lsn > this.#lsn));
    // Whoever counts the records sees the gap.
    this.#isBlocked = isGap;
    if (isGap) return false;
    purges.noteMessage(group.lastLsn, sequence);
    this.#lsn = group.lastLsn;
    return true;
  }
}

/** 0 for a fence, and for what cannot be read. */
function lastLsnOf({ data }: BrokerMessage): Lsn {
  return isFence(data) ? 0 : (decodedOr(data, () => undefined)?.lastLsn ?? 0);
}
