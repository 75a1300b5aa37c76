/**
 * The writer of one stream in a broker. Shard thread; one publish at a time.
 *
 * ```text
 * open ──append──► sent ──published──────────────────────────────────────────────► open
 *                   ├──refused, never in doubt──► nothing kept ──────────────────► open
 *                   ├──no answer──► in doubt: exactly the same message again, with the same expectation
 *                   └──another last message than expected──► read on from the last acknowledged record:
 *                        ├──a fence, or that record is gone from before others──► over
 *                        ├──this group──► acknowledged ──────────────────────────► open
 *                        ├──not even that record──► look again ──still so after a while──► over: it is gone
 *                        └──neither──► the same message again, expecting the last message that was read
 * too long in doubt ─────────────────────────────────────────────────────────────► over
 * ```
 *
 * A broker that has lost its last messages gives their sequences to later ones. So a sequence is expected only while the message
 * behind it cannot have changed: after an attempt that was not acknowledged, and a second after the request was sent whose answer
 * confirmed it, the shard looks first whether its last acknowledged record is still there. A broker that loses power is away for
 * longer than a second, or an attempt fails meanwhile.
 *
 * An LSN always has the same bytes, and nothing is sent before the group under way is settled: only then does "a record with this
 * LSN is there" mean that it is this very group. Only what is read decides, never what one read lacks: another server of the
 * broker may be behind.
 *
 * A stream that is over has answered its last group: found behind the last acknowledged record without a gap, it is
 * acknowledged; sent and not found, its outcome is unknown, because a late copy may follow; never sent, nothing is kept.
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import { Turns } from '../../../core/turns.js';
import type { RecordBytes } from '../journal.js';
import type { StreamWriter, StreamWriterDeps } from '../stream-log.js';
import { StreamBacklog, type IncrementsAfter } from '../stream-backlog.js';
import type { Broker, BrokerMessage } from './broker.js';
import { decodedOr, decodeMessage, emptyRecord, encodeMessage, isFence, type MessageOrigin } from './message-format.js';

const BACKOFF_FIRST_MS = 25;
const BACKOFF_MAX_MS = 500;
/** So many looks in a row, over 375 ms or more, that lack even the last acknowledged record: it is lost. */
const EMPTY_LOOKS_MIN = 5;
/** Messages that are read at a time behind the last acknowledged record. There are seldom more than two. */
const LOOK_MESSAGES = 16;

/** What the writer needs besides what every writer needs. */
export interface NatsWriterDeps extends StreamWriterDeps {
  readonly broker: Pick<Broker, 'publish' | 'read'>;
  readonly origin: MessageOrigin;
  /** So long after a request that was answered the broker may have restarted. */
  readonly confirmAfterMs: number;
  /** A message is stored whose last record is `lsn`. */
  readonly stored?: (lsn: Lsn, sequence: number) => void;
}

/** Where the writer of a stream goes on. */
export interface WrittenEnd {
  readonly stream: string;
  readonly appendEpoch: string;
  /** The last acknowledged record; 0: none. */
  readonly lsn: Lsn;
  /** The sequence of its message; 0: none. */
  readonly sequence: number;
  /** When the request was sent whose answer says so, on the monotonic clock. */
  readonly confirmedAt: number;
}

/** What a look behind the last acknowledged record has found. */
interface Sight {
  /** The last LSN that is there without a gap. */
  readonly lsn: Lsn;
  /** The sequence of the message that holds it. */
  readonly lsnSequence: number;
  /** The sequence of the last message; 0: the subject is empty. */
  readonly lastSequence: number;
  readonly isFenced: boolean;
  /** The last acknowledged record is not there. */
  readonly isGone: boolean;
  /** There is another group where the one that was sent would be. */
  readonly isForeign: boolean;
  /** The first record that was found is behind a fence. */
  readonly isBehindFence: boolean;
}

/** A message that is sent until its outcome is known. */
interface Sending {
  readonly data: Uint8Array;
  readonly lastLsn: Lsn;
  expected: number;
  /** An attempt may have reached the broker. */
  isSent: boolean;
  /** An attempt got no answer. */
  isInDoubt: boolean;
  /** The last message may be another one: look before sending. */
  mustLook: boolean;
  /** A pause has passed since the last attempt. */
  hasWaited: boolean;
  /** So many looks in a row have found nothing from the last acknowledged record on. */
  emptyLooks: number;
}

/** The writer of one stream. */
export class NatsWriter implements StreamWriter {
  readonly stream: string;
  readonly appendEpoch: string;
  readonly #deps: NatsWriterDeps;
  readonly #backlog = new StreamBacklog();
  readonly #turns = new Turns();
  #endLsn: Lsn;
  /** Of the message of the last acknowledged record. */
  #endSequence: number;
  #sending: Sending | undefined;
  /** When the request was sent that last confirmed that record, and whether an attempt has failed since. */
  #confirmedAt: number;
  #isUnsure = false;
  #isOver = false;
  #endedBecause = 'it was left';
  #checkpointLsn: Lsn = 0;
  #lastTime: DatabaseTime = 0;
  #lostAfterLsn: Lsn | undefined;

  constructor(end: WrittenEnd, deps: NatsWriterDeps) {
    this.stream = end.stream;
    this.appendEpoch = end.appendEpoch;
    this.#endLsn = end.lsn;
    this.#endSequence = end.sequence;
    this.#deps = deps;
    this.#confirmedAt = end.confirmedAt;
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  /** The sequence of the message of the last acknowledged record; 0: none. */
  get endSequence(): number {
    return this.#endSequence;
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
    return this.#sending !== undefined && (this.#sending.isInDoubt || this.#sending.mustLook);
  }

  get bytes(): number {
    return this.#backlog.bytes;
  }

  get oldestAcceptedAtMs(): number {
    return this.#backlog.oldestAcceptedAtMs;
  }

  get lostAfterLsn(): Lsn | undefined {
    return this.#lostAfterLsn;
  }

  incrementsAfter(lsn: Lsn): IncrementsAfter {
    return this.#backlog.incrementsAfter(lsn);
  }

  noteCheckpoint(lsn: Lsn): void {
    this.#checkpointLsn = Math.max(this.#checkpointLsn, lsn);
    this.#backlog.noteCheckpoint(lsn);
  }

  end(because: string): void {
    if (!this.#isOver) this.#endedBecause = because;
    this.#isOver = true;
  }

  append(group: readonly RecordBytes[], time: DatabaseTime): Promise<Lsn> {
    return this.#turns.run(() => this.#append(group, time));
  }

  beat(time: DatabaseTime): Promise<Lsn> {
    return this.append([emptyRecord(this.#deps.clock.now())], time);
  }

  /**
   * Ends the stream with a fence. Resolves to whether it is behind the last acknowledged record; otherwise whoever takes the stream
   * ends it.
   */
  fence(): Promise<boolean> {
    return this.#turns.run(async () => {
      if (this.#isOver) return false;
      this.end('it was ended');
      const outcome = await this.#deps.broker.publish(this.stream, new Uint8Array(0), this.#endSequence);
      return outcome.kind === 'published';
    });
  }

  async #append(group: readonly RecordBytes[], time: DatabaseTime): Promise<Lsn> {
    if (this.#isOver) throw new JournalError('journal-fenced', 'The stream is over.');
    const sending: Sending = {
      data: encodeMessage(group, this.#endLsn + 1, time, this.#deps.origin),
      lastLsn: this.#endLsn + group.length,
      expected: this.#endSequence,
      isSent: false,
      isInDoubt: false,
      mustLook: false,
      hasWaited: false,
      emptyLooks: 0,
    };
    this.#sending = sending;
    try {
      await this.#settle(sending);
    } finally {
      this.#sending = undefined;
    }
    this.#lastTime = time;
    const now = this.#deps.clock.monotonic();
    for (const record of group) {
      this.#endLsn += 1;
      this.#backlog.add(this.#endLsn, record, now);
    }
    this.#deps.stored?.(this.#endLsn, this.#endSequence);
    return this.#endLsn;
  }

  get #mustConfirm(): boolean {
    const { clock, confirmAfterMs } = this.#deps;
    return this.#isUnsure || clock.monotonic() - this.#confirmedAt >= confirmAfterMs;
  }

  /** Settles where the message is stored. */
  async #settle(sending: Sending): Promise<void> {
    const { clock, doubtMaxMs } = this.#deps;
    const until = clock.monotonic() + doubtMaxMs;
    for (let backoffMs = BACKOFF_FIRST_MS; ;) {
      const before = sending.expected;
      // Also where this thread slept since it looked.
      sending.mustLook ||= this.#mustConfirm;
      const isStored = sending.mustLook ? await this.#look(sending) : await this.#send(sending);
      if (isStored === true) return;
      // There is nothing to wait for where the broker has just said what to do next.
      const isNews =
        isStored === 'again' &&
        (!sending.isSent || sending.mustLook || sending.hasWaited || sending.expected !== before);
      const isLost = sending.emptyLooks >= EMPTY_LOOKS_MIN;
      // Nothing of this group can come late.
      if (isLost && !sending.isSent) {
        this.#endLost(this.#checkpointLsn);
        throw notSent();
      }
      if (clock.monotonic() + (isNews ? 0 : backoffMs) >= until) {
        // The last record is there, and the answers take so long that nothing could be sent by them.
        if (!sending.isSent && sending.emptyLooks === 0) throw this.#tooSlow();
        if (isLost) this.#endLost(this.#checkpointLsn);
        else this.end('a group of it was in doubt for too long');
        throw this.#overError(sending);
      }
      if (isNews) continue;
      await new Promise<void>((resolve) => {
        clock.schedule(backoffMs, resolve);
      });
      sending.hasWaited = true;
      backoffMs = Math.min(2 * backoffMs, BACKOFF_MAX_MS);
    }
  }

  /** True where the message is stored. Throws where it is certain that it is not. */
  async #send(sending: Sending): Promise<boolean | 'again'> {
    const { broker, clock, unavailable } = this.#deps;
    const sentAt = clock.monotonic();
    sending.hasWaited = false;
    const outcome = await broker.publish(this.stream, sending.data, sending.expected);
    if (outcome.kind === 'published') {
      this.#endSequence = outcome.sequence;
      this.#isUnsure = false;
      this.#confirmedAt = sentAt;
      return true;
    }
    this.#isUnsure = true;
    if (outcome.kind === 'mismatch' || outcome.kind === 'reconnected') {
      sending.isSent ||= outcome.kind === 'mismatch';
      sending.mustLook = true;
      return 'again';
    }
    unavailable(outcome.error);
    if (outcome.kind === 'refused' && !sending.isSent) throw unavailableNow(outcome.error);
    sending.mustLook = true;
    if (outcome.kind === 'unknown') {
      sending.isSent = true;
      sending.isInDoubt = true;
    }
    return false;
  }

  /** True where the message is stored; `again` where it is to be sent again at once. Throws where the stream is over. */
  async #look(sending: Sending): Promise<boolean | 'again'> {
    // An attempt was not answered with success: it is settled only by what is found.
    sending.isInDoubt = sending.isSent;
    const askedAt = this.#deps.clock.monotonic();
    let sight: Sight;
    try {
      sight = await this.#see(sending);
    } catch (error) {
      if (!(error instanceof JournalError) || error.code !== 'journal-unavailable') throw error;
      this.#deps.unavailable(error);
      this.#isUnsure = true;
      if (!sending.isSent) throw unavailableNow(error);
      sending.emptyLooks = 0;
      return false;
    }
    // Behind a fence, and without the record before it, it is no more than a copy that came too late: readers find a gap there.
    const isCopy = sight.isGone && sight.isBehindFence;
    const isFound = sight.lsn >= sending.lastLsn && !sight.isForeign && !isCopy;
    // What one read lacks is no proof, since another server of the broker may be behind.
    const isEmpty = sight.isGone && sight.lastSequence < this.#endSequence;
    sending.emptyLooks = isEmpty ? sending.emptyLooks + 1 : 0;
    if (isEmpty) return false;
    if (sight.isFenced) this.end('another server has ended it');
    else if (sight.isForeign) this.end('it has records that this process did not write');
    else if (sight.isGone && !isFound)
      this.#endLost(Math.max(this.#checkpointLsn, sight.lsn > this.#endLsn ? sight.lsn : 0));
    this.#isUnsure = false;
    this.#confirmedAt = askedAt;
    if (isFound) {
      this.#endSequence = sight.lsnSequence;
      return true;
    }
    if (this.#isOver) throw this.#overError(sending);
    sending.expected = sight.lastSequence;
    sending.mustLook = false;
    return 'again';
  }

  #tooSlow(): JournalError {
    const error = new Error('NATS needs too long for each answer');
    this.#deps.unavailable(error);
    return unavailableNow(error);
  }

  #overError({ isSent }: Sending): JournalError {
    return isSent ? unknownOutcome(this.stream) : notSent();
  }

  #endLost(afterLsn: Lsn): void {
    this.end('NATS has lost records of it');
    this.#lostAfterLsn = afterLsn;
  }

  /** Reads from the last acknowledged record to the end. */
  async #see(sending: Sending): Promise<Sight> {
    let lsn = this.#endLsn;
    let lsnSequence = this.#endSequence;
    let lastSequence = 0;
    let [isFenced, isForeign, isBehindFence] = [false, false, false];
    let isGone = this.#endSequence > 0;
    for (let from = Math.max(1, this.#endSequence); ;) {
      const messages = await this.#deps.broker.read(this.stream, from, LOOK_MESSAGES);
      for (const message of messages) {
        const { sequence, data } = message;
        lastSequence = sequence;
        if (isGone && sequence === this.#endSequence && holdsLast(message, this.#endLsn)) isGone = false;
        else if (isFence(data)) isFenced = true;
        else {
          const found = lastLsnOf(message, lsn);
          if (found === undefined) continue;
          isForeign ||= !isSame(data, sending.data);
          isBehindFence ||= isFenced;
          lsn = found;
          lsnSequence = sequence;
        }
      }
      if (messages.length < LOOK_MESSAGES)
        return { lsn, lsnSequence, lastSequence, isFenced, isGone, isForeign, isBehindFence };
      from = lastSequence + 1;
    }
  }
}

/**
 * Sends the first message of a stream, which says that the stream is there. Resolves to its sequence, or to `over` where the stream
 * was ended meanwhile. Rejects with `journal-unavailable`: then the same data is to be sent again, or the stream is left.
 */
export async function sendHello(
  broker: Pick<Broker, 'publish' | 'read'>,
  stream: string,
  data: Uint8Array,
): Promise<number | 'over'> {
  const outcome = await broker.publish(stream, data, 0);
  if (outcome.kind === 'published') return outcome.sequence;
  if (outcome.kind === 'refused' || outcome.kind === 'unknown')
    throw new JournalError('journal-unavailable', 'NATS does not take the journal now.', { cause: outcome.error });
  const messages = await broker.read(stream, 1, LOOK_MESSAGES);
  const [first] = messages;
  if (first === undefined) throw new JournalError('journal-unavailable', 'NATS still works on the first message.');
  return isSame(first.data, data) && !messages.some((message) => isFence(message.data)) ? first.sequence : 'over';
}

/** Whether it is the message with this last record, and not one that has got its sequence since. */
function holdsLast({ data }: BrokerMessage, lsn: Lsn): boolean {
  return !isFence(data) && decodedOr(data, () => undefined)?.lastLsn === lsn;
}

/** The last LSN of a message that follows `lsn`; undefined for a copy of an earlier one, behind a gap, or for other data. */
function lastLsnOf({ data }: BrokerMessage, lsn: Lsn): Lsn | undefined {
  try {
    const { firstLsn, lastLsn } = decodeMessage(data);
    return firstLsn === lsn + 1 ? lastLsn : undefined;
  } catch (error) {
    if (error instanceof JournalError) return undefined;
    throw error;
  }
}

function isSame(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.from(left.buffer, left.byteOffset, left.length).equals(right);
}

function unknownOutcome(stream: string): JournalError {
  return new JournalError('journal-failed', `NATS did not say whether it has a group of stream ${stream}.`);
}

function notSent(): JournalError {
  return new JournalError('journal-fenced', 'The stream was over before the group was sent.');
}

function unavailableNow(cause: unknown): JournalError {
  return new JournalError('journal-unavailable', 'NATS does not take the journal now.', { cause });
}
