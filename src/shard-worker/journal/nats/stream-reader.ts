/**
 * Reads one stream of a broker for its flusher. Shard thread.
 *
 * The reader skips records that were read or flushed before, and copies of them. A fence names the last LSN before it, so a reader that
 * has not got that far finds a gap, not an end. It continues behind a fence: a broker that
 * accepted two messages with one expectation may have stored a record there. It stops at a gap, and at an unreadable message.
 *
 * It begins near the checkpoint, because many committed records may be kept. An LSN always has the same bytes, so the beginning
 * does not change what is counted. The skipped messages are read later. Until then nothing is purged and the stream does not
 * end: they may contain a fence, or, in a broker as above, a record that is not counted yet. After such a record, or a gap, the
 * reader begins again with the first message.
 *
 * A broker that has lost its last messages gives their sequences to later ones. So after a failure, and a second after the last
 * read was sent, the reader first checks its last message. If that is missing, it begins again with the first message.
 *
 * ```text
 * to end a stream: read to the end ──► send a fence, expecting the last message that was read ──► read on; again after a record
 *                  ──► the last message that was read is a fence, by any process: nothing follows
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
/** Most skipped messages that one read looks at. */
const LEFT_OUT_MESSAGES_MAX = 128;
/** The search for a beginning ends this near to the checkpoint, in sequences of the broker, or after this many messages. */
const NEAR_SEQUENCES = 64;
const SEARCH_MESSAGES_MAX = 50;
/** Most fences that one read sends. A record that arrives first makes another fence necessary. */
const FENCES_MAX = 2;

/** Collaborators of a reader. */
export interface StreamReaderDeps {
  readonly broker: Pick<Broker, 'publish' | 'read' | 'last'>;
  readonly purges: Pick<PurgeSchedule, 'noteMessage' | 'noteFence' | 'hold' | 'release' | 'clear'>;
  readonly clock: Pick<Clock, 'uptime'>;
  /** This long after a read was sent the broker may have restarted. */
  readonly confirmAfterMs: number;
  /** A message cannot be read: later messages are not counted. */
  readonly unreadable: (sequence: number, error: JournalError) => void;
  /** A fence was refused. Each later read tries again. */
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
  /** The last LSN of the last message; 0: it is a fence. */
  #lastLsn: Lsn = 0;
  #recordSequence = 0;
  #fenceSequence = 0;
  /** The beginning is known. */
  #isPlaced: boolean;
  /** The skipped messages, by sequence; `to` is exclusive. */
  #leftOut: { from: number; readonly to: number } | undefined;
  #isBlocked = false;
  #missingLsn: Lsn | undefined;
  /** When the last answered read was sent, and whether a read has failed since. */
  #confirmedAt: number;
  #isUnsure = false;

  /** Reads records above `lsn`, which is committed. */
  constructor(stream: string, lsn: Lsn, ends: boolean, deps: StreamReaderDeps) {
    this.stream = stream;
    this.ends = ends;
    this.#lsn = lsn;
    this.#isPlaced = lsn === 0;
    this.#deps = deps;
    this.#confirmedAt = deps.clock.uptime();
  }

  /** The last LSN that was read. */
  get lsn(): Lsn {
    return this.#lsn;
  }

  /** The last LSN before a fence, where records up to there are missing. */
  get missingLsn(): Lsn | undefined {
    return this.#missingLsn;
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
   * The next records, about `recordsMax`; fewer where the subject ends. Rejects as the broker does. A refused fence delays no
   * record: where the broker is full, their commit makes room.
   */
  async read(recordsMax: number): Promise<readonly JournalRecord[]> {
    const { clock, confirmAfterMs } = this.#deps;
    const now = clock.uptime();
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

  /** False where the broker may have lost messages, or refuses a fence. Sends no fence after `fenceUntil`. */
  async #readInto(records: JournalRecord[], recordsMax: number, fenceUntil: number): Promise<boolean> {
    let fences = 0;
    while (!this.#isBlocked && records.length < recordsMax) {
      const messages = await this.#deps.broker.read(this.stream, this.#lastSequence + 1, MESSAGES_MAX);
      const isTaken = messages.every((message) => this.#take(message, records));
      if (!isTaken || messages.length === MESSAGES_MAX) continue;
      const mustFence = this.ends && !this.isFenced && fences < FENCES_MAX;
      if (mustFence) {
        fences += 1;
        if (this.#deps.clock.uptime() >= fenceUntil) return false;
        if (!(await this.#isFenceSent())) return false;
      } else if (this.#leftOut === undefined || (await this.#readLeftOut(this.#leftOut))) {
        break;
      }
    }
    return fences < FENCES_MAX;
  }

  /** Begins again where the last message is missing. */
  async #confirm(): Promise<void> {
    if (this.#lastSequence === 0 || this.#isBlocked) return;
    // A placed reader has no last message before its first read.
    if (this.#recordSequence === 0 && this.#fenceSequence === 0) return;
    const [message] = await this.#deps.broker.read(this.stream, this.#lastSequence, 1);
    if (message?.sequence === this.#lastSequence && lastLsnOf(message) === this.#lastLsn) return;
    this.#beginAgain();
  }

  /** Searches for a first message near the checkpoint. */
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

  /** Whether all records of a message are committed. False for other messages. */
  #isCommitted({ data }: BrokerMessage): boolean {
    const group = isFence(data) ? undefined : decodedOr(data, () => undefined);
    return group !== undefined && group.lastLsn <= this.#lsn;
  }

  /** Reads some of the skipped messages. False where the reader begins again. */
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

  /** Begins again with the first message. */
  #beginAgain(): false {
    this.#leftOut = undefined;
    this.#lastSequence = 0;
    this.#recordSequence = 0;
    this.#fenceSequence = 0;
    this.#deps.purges.clear();
    return false;
  }

  /** Sends a fence. False where nothing has changed. A later read decides whether it was stored. */
  async #isFenceSent(): Promise<boolean> {
    const outcome = await this.#deps.broker.publish(this.stream, FENCE, this.#lastSequence, this.#lsn);
    if (outcome.kind === 'published' || outcome.kind === 'mismatch') return true;
    if (outcome.kind !== 'reconnected') this.#deps.unfenced(outcome.error);
    return false;
  }

  /** Takes the records of a message. False where the reader stops at it. */
  #take(message: BrokerMessage, records: JournalRecord[]): boolean {
    const { sequence, data, endLsn = 0 } = message;
    const { purges, unreadable } = this.#deps;
    if (isFence(data)) {
      if (endLsn > this.#lsn) {
        if (this.#leftOut !== undefined) return this.#beginAgain();
        // Records before it are missing: the database has gone back, and they were removed.
        this.#isBlocked = true;
        this.#missingLsn = endLsn;
        return false;
      }
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
    // The flusher sees the gap.
    this.#isBlocked = isGap;
    if (isGap) return false;
    purges.noteMessage(group.lastLsn, sequence);
    this.#lsn = group.lastLsn;
    return true;
  }
}

/** 0 for a fence, and for an unreadable message. */
function lastLsnOf({ data }: BrokerMessage): Lsn {
  return isFence(data) ? 0 : (decodedOr(data, () => undefined)?.lastLsn ?? 0);
}
