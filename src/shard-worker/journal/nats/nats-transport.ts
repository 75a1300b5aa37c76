/**
 * Appends groups to a broker. Shard thread; one publish at a time.
 *
 * ```text
 * sent ──published──► appended
 *       ├──refused, or no answer──► look, then the same message again
 *       └──another last message than expected──► look
 * look: read on from the last acknowledged record
 *       ├──a fence, or later records without that record──► over
 *       ├──this group──► appended
 *       ├──nothing──► look again ──still nothing after a while──► over: that record is lost
 *       └──that record alone──► the same message again, expecting the last message that was read
 * ```
 *
 * A broker that has lost its last messages gives their sequences to later ones. So the writer expects a sequence only while its
 * message cannot have changed. It first looks for its last acknowledged record after an attempt that was not acknowledged, and
 * a second after it sent the request that last confirmed that record. A broker that loses power is unavailable for longer than
 * a second, or an attempt fails meanwhile.
 *
 * An LSN always has the same bytes, and no other group is sent before the outcome of the group under way. So a record that is
 * found with one of its LSNs belongs to this group. One read without it proves nothing: another server of the broker may be behind.
 *
 * The last group of a stream that is over is
 * - acknowledged, if it was found without a gap behind the last acknowledged record;
 * - of unknown outcome, if it was sent and not found, because a late copy may follow;
 * - not kept, if it was never sent.
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { JournalError } from '../../../core/errors.js';
import { decodedOr, decodeMessage, encodeMessage, type MessageOrigin } from '../shared/message-format.js';
import {
  SharedStreamWriter,
  type AppendOutcome,
  type AppendTransport,
  type GroupAttempts,
  type SentGroup,
  type StreamEnd,
} from '../shared/shared-stream-writer.js';
import type { StreamWriterDeps } from '../stream-log.js';
import type { Broker, BrokerMessage } from './broker.js';
import { FENCE, isFence } from './nats-message.js';

/** After this many looks in a row without the last acknowledged record, over 375 ms or more, it is lost. */
const EMPTY_LOOKS_MIN = 5;
/** Messages that one read of a look returns. There are seldom more than two. */
const LOOK_MESSAGES = 16;

/** Collaborators of a writer, in addition to those of every writer. */
export interface NatsWriterDeps extends StreamWriterDeps {
  readonly broker: Pick<Broker, 'publish' | 'read'>;
  readonly origin: MessageOrigin;
  /** This long after a request that was answered the broker may have restarted. */
  readonly confirmAfterMs: number;
  /** A message with records up to `lsn` is stored. */
  readonly stored: (lsn: Lsn, sequence: number) => void;
}

/** The end of a stream, where its writer continues. */
export interface WrittenEnd {
  readonly stream: string;
  /** The last acknowledged record; 0: none. */
  readonly lsn: Lsn;
  /** The sequence of its message; 0: none. */
  readonly sequence: number;
  /** When the request was sent that confirmed it, by {@link Clock.uptime}. */
  readonly confirmedAt: number;
}

/** The result of a look. */
interface Sight {
  /** The last LSN without a gap before it. */
  readonly lsn: Lsn;
  /** The sequence of its message. */
  readonly lsnSequence: number;
  /** The sequence of the last message; 0: the subject is empty. */
  readonly lastSequence: number;
  readonly isFenced: boolean;
  /** The last acknowledged record is missing. */
  readonly isGone: boolean;
  /** Another group has the LSNs of this one. */
  readonly isForeign: boolean;
  /** The first record that was found is behind a fence. */
  readonly isBehindFence: boolean;
}

/** The writer of a stream in a broker. */
export function natsWriter(end: WrittenEnd, deps: NatsWriterDeps): SharedStreamWriter {
  return new SharedStreamWriter(end, new NatsTransport(end, deps), deps);
}

/** Keeps the last acknowledged record, from group to group. */
class NatsTransport implements AppendTransport {
  readonly place = 'NATS';
  readonly burnsLsns = false;
  readonly outdatedBecause = undefined;
  readonly #deps: NatsWriterDeps;
  /** The sequence of its message. */
  #endSequence: number;
  /** When the last request that confirmed it was sent, and whether an attempt has failed since. */
  #confirmedAt: number;
  #isUnsure = false;

  constructor({ sequence, confirmedAt }: WrittenEnd, deps: NatsWriterDeps) {
    this.#endSequence = sequence;
    this.#confirmedAt = confirmedAt;
    this.#deps = deps;
  }

  /** The sequence of the message of the last acknowledged record; 0: none. */
  get endSequence(): number {
    return this.#endSequence;
  }

  /** Another message may have its sequence by now. */
  get mustConfirm(): boolean {
    const { clock, confirmAfterMs } = this.#deps;
    return this.#isUnsure || clock.uptime() - this.#confirmedAt >= confirmAfterMs;
  }

  /** An attempt was not acknowledged. */
  noteFailure(): void {
    this.#isUnsure = true;
  }

  /** A request that was sent at `askedAt` confirmed the last acknowledged record. */
  noteConfirmed(askedAt: number): void {
    this.#isUnsure = false;
    this.#confirmedAt = askedAt;
  }

  /** The message at `sequence` stores a group up to `lastLsn`. */
  noteStored(lastLsn: Lsn, sequence: number): void {
    this.#endSequence = sequence;
    this.#deps.stored(lastLsn, sequence);
  }

  isBeatDue(isAlone: boolean): boolean {
    return isAlone;
  }

  advanceAcceptedThrough(writer: SharedStreamWriter, time: DatabaseTime): Promise<boolean> {
    return writer.advanceByRecord(time);
  }

  prepare(group: SentGroup, writer: SharedStreamWriter): GroupAttempts {
    return new NatsAttempts(group, writer, this, this.#deps);
  }

  /** Sends a fence behind the last acknowledged record. */
  async close(writer: SharedStreamWriter): Promise<boolean> {
    writer.end('it was closed');
    const outcome = await this.#deps.broker.publish(writer.stream, FENCE, this.#endSequence, writer.endLsn);
    return outcome.kind === 'published';
  }
}

/** Sends one group until its outcome is known. */
class NatsAttempts implements GroupAttempts {
  readonly #group: SentGroup;
  readonly #writer: SharedStreamWriter;
  readonly #transport: NatsTransport;
  readonly #deps: NatsWriterDeps;
  readonly #data: Uint8Array;
  #expected: number;
  /** The last message may have changed: look before sending. */
  #mustLook = false;
  /** A pause has passed since the last publish. */
  #hasPaused = false;
  /** Looks in a row that found nothing from the last acknowledged record on. */
  #emptyLooks = 0;

  constructor(group: SentGroup, writer: SharedStreamWriter, transport: NatsTransport, deps: NatsWriterDeps) {
    this.#group = group;
    this.#writer = writer;
    this.#transport = transport;
    this.#deps = deps;
    this.#data = encodeMessage(group.records, group.firstLsn, group.time, deps.origin);
    this.#expected = transport.endSequence;
  }

  get isUnsure(): boolean {
    return this.#mustLook;
  }

  async attempt(): Promise<AppendOutcome> {
    const before = this.#expected;
    // This thread may have been suspended since it looked.
    this.#mustLook ||= this.#transport.mustConfirm;
    const outcome = this.#mustLook ? await this.#look() : await this.#send();
    if (outcome.kind !== 'again') {
      this.#hasPaused = true;
      return outcome;
    }
    // No pause after news from the broker.
    const isNews = !this.#group.isSent || this.#mustLook || this.#hasPaused || this.#expected !== before;
    const mustPause = outcome.mustPause || !isNews;
    this.#hasPaused ||= mustPause;
    return { kind: 'again', mustPause };
  }

  giveUp(): StreamEnd | undefined {
    // The last record was found, but each look was answered too late for the group to be sent.
    if (!this.#group.isSent && this.#emptyLooks === 0) return undefined;
    if (this.#emptyLooks >= EMPTY_LOOKS_MIN) return this.#lost(this.#writer.checkpointLsn);
    return { because: 'a group of it was in doubt for too long' };
  }

  async #send(): Promise<AppendOutcome> {
    const { broker, clock } = this.#deps;
    const sentAt = clock.uptime();
    this.#hasPaused = false;
    const outcome = await broker.publish(this.#writer.stream, this.#data, this.#expected);
    if (outcome.kind === 'published') {
      this.#transport.noteStored(this.#group.lastLsn, outcome.sequence);
      this.#transport.noteConfirmed(sentAt);
      return { kind: 'appended' };
    }
    this.#transport.noteFailure();
    this.#mustLook = true;
    if (outcome.kind === 'refused' || outcome.kind === 'unknown') return outcome;
    if (outcome.kind === 'mismatch') this.#group.isSent = true;
    return { kind: 'again', mustPause: false };
  }

  /** Looks for a group whose last attempt was not acknowledged. */
  async #look(): Promise<AppendOutcome> {
    const askedAt = this.#deps.clock.uptime();
    let sight: Sight;
    try {
      sight = await this.#see();
    } catch (error) {
      if (!(error instanceof JournalError) || error.code !== 'journal-unavailable') throw error;
      this.#transport.noteFailure();
      this.#emptyLooks = 0;
      return { kind: 'refused', error };
    }
    // Behind a fence, and without the record before it, it is a late copy: readers find a gap there.
    const isCopy = sight.isGone && sight.isBehindFence;
    const isFound = sight.lsn >= this.#group.lastLsn && !sight.isForeign && !isCopy;
    // One empty look proves nothing: another server of the broker may be behind.
    const isEmpty = sight.isGone && sight.lastSequence < this.#transport.endSequence;
    this.#emptyLooks = isEmpty ? this.#emptyLooks + 1 : 0;
    if (isEmpty) return this.#emptyOutcome();
    const end = this.#endOf(sight, isFound);
    this.#transport.noteConfirmed(askedAt);
    if (isFound) this.#transport.noteStored(this.#group.lastLsn, sight.lsnSequence);
    const isAppended = isFound || (this.#group.isSent ? undefined : false);
    if (end !== undefined) return { kind: 'over', ...end, isAppended };
    if (isFound) return { kind: 'appended' };
    if (this.#writer.isOver) return { kind: 'over', because: this.#writer.endedBecause, isAppended };
    this.#expected = sight.lastSequence;
    this.#mustLook = false;
    return { kind: 'again', mustPause: false };
  }

  /** A group that was never sent has no late copy. */
  #emptyOutcome(): AppendOutcome {
    if (this.#emptyLooks < EMPTY_LOOKS_MIN || this.#group.isSent) return { kind: 'again', mustPause: true };
    return { kind: 'over', ...this.#lost(this.#writer.checkpointLsn), isAppended: false };
  }

  #endOf({ isFenced, isForeign, isGone, lsn }: Sight, isFound: boolean): StreamEnd | undefined {
    if (isFenced) return { because: 'another server has fenced it' };
    if (isForeign) return { because: 'it has records that this process did not write' };
    if (!isGone || isFound) return undefined;
    const { checkpointLsn, endLsn } = this.#writer;
    return this.#lost(Math.max(checkpointLsn, lsn > endLsn ? lsn : 0));
  }

  #lost(afterLsn: Lsn): StreamEnd {
    return { because: 'NATS has lost records of it', lostAfterLsn: afterLsn };
  }

  /** Reads from the last acknowledged record to the end. */
  async #see(): Promise<Sight> {
    const { endLsn, stream } = this.#writer;
    const { endSequence } = this.#transport;
    let lsn = endLsn;
    let lsnSequence = endSequence;
    let lastSequence = 0;
    let [isFenced, isForeign, isBehindFence] = [false, false, false];
    let isGone = endSequence > 0;
    for (let from = Math.max(1, endSequence); ;) {
      const messages = await this.#deps.broker.read(stream, from, LOOK_MESSAGES);
      for (const message of messages) {
        const { sequence, data } = message;
        lastSequence = sequence;
        if (isGone && sequence === endSequence && holdsLast(message, endLsn)) isGone = false;
        else if (isFence(data)) isFenced = true;
        else {
          const found = lastLsnOf(message, lsn);
          if (found === undefined) continue;
          isForeign ||= !isSame(data, this.#data);
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
 * Sends the opening record of a stream. Resolves to its sequence, or to `over` where the stream is fenced. Rejects with
 * `journal-unavailable`: the caller sends the same data again, or gives the stream up.
 */
export async function sendOpeningRecord(
  broker: Pick<Broker, 'publish' | 'read'>,
  stream: string,
  data: Uint8Array,
): Promise<number | 'over'> {
  const outcome = await broker.publish(stream, data, 0);
  if (outcome.kind === 'published') return outcome.sequence;
  if (outcome.kind === 'refused' || outcome.kind === 'unknown')
    throw new JournalError('journal-unavailable', 'NATS accepts no records now.', { cause: outcome.error });
  const messages = await broker.read(stream, 1, LOOK_MESSAGES);
  const [first] = messages;
  if (first === undefined) throw new JournalError('journal-unavailable', 'NATS has not stored the opening record yet.');
  return isSame(first.data, data) && !messages.some((message) => isFence(message.data)) ? first.sequence : 'over';
}

/** Whether a message ends with this record. A later message may have its sequence. */
function holdsLast({ data }: BrokerMessage, lsn: Lsn): boolean {
  return !isFence(data) && decodedOr(data, () => undefined)?.lastLsn === lsn;
}

/** The last LSN of a message that follows `lsn`; undefined for an earlier copy, behind a gap, or for other data. */
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
