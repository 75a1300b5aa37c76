/**
 * How groups come into a broker. Shard thread; one publish at a time.
 *
 * ```text
 * sent ──published──► appended
 *       ├──refused, or no answer──► look, then the same message again
 *       └──another last message than expected──► look: read on from the last acknowledged record
 * look ──a fence, or that record is gone from before others──► over
 *       ├──this group──► appended
 *       ├──not even that record──► look again ──still so after a while──► over: it is gone
 *       └──neither──► the same message again, expecting the last message that was read
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

/** So many looks in a row, over 375 ms or more, that lack even the last acknowledged record: it is lost. */
const EMPTY_LOOKS_MIN = 5;
/** Messages that are read at a time behind the last acknowledged record. There are seldom more than two. */
const LOOK_MESSAGES = 16;

/** What the writer of a stream in a broker needs besides what every writer needs. */
export interface NatsWriterDeps extends StreamWriterDeps {
  readonly broker: Pick<Broker, 'publish' | 'read'>;
  readonly origin: MessageOrigin;
  /** So long after a request that was answered the broker may have restarted. */
  readonly confirmAfterMs: number;
  /** A message is stored whose last record is `lsn`. */
  readonly stored: (lsn: Lsn, sequence: number) => void;
}

/** Where the writer of a stream goes on. */
export interface WrittenEnd {
  readonly stream: string;
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

/** The writer of a stream in a broker. */
export function natsWriter(end: WrittenEnd, deps: NatsWriterDeps): SharedStreamWriter {
  return new SharedStreamWriter(end, new NatsTransport(end, deps), deps);
}

/** What is known of the last acknowledged record, from group to group. */
class NatsTransport implements AppendTransport {
  readonly place = 'NATS';
  readonly burnsLsns = false;
  readonly outdatedBecause = undefined;
  readonly #deps: NatsWriterDeps;
  /** Of the message of that record. */
  #endSequence: number;
  /** When the request was sent that last confirmed it, and whether an attempt has failed since. */
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
    return this.#isUnsure || clock.monotonic() - this.#confirmedAt >= confirmAfterMs;
  }

  /** An attempt was not acknowledged. */
  noteFailure(): void {
    this.#isUnsure = true;
  }

  /** The last acknowledged record is there, as the answer says to a request that was sent at `askedAt`. */
  noteConfirmed(askedAt: number): void {
    this.#isUnsure = false;
    this.#confirmedAt = askedAt;
  }

  /** A group is stored, in the message at `sequence`. */
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

  /** By a fence behind the last acknowledged record. */
  async close(writer: SharedStreamWriter): Promise<boolean> {
    writer.end('it was ended');
    const outcome = await this.#deps.broker.publish(writer.stream, FENCE, this.#endSequence);
    return outcome.kind === 'published';
  }
}

/** One group, which is sent until its outcome is known. */
class NatsAttempts implements GroupAttempts {
  readonly #group: SentGroup;
  readonly #writer: SharedStreamWriter;
  readonly #transport: NatsTransport;
  readonly #deps: NatsWriterDeps;
  readonly #data: Uint8Array;
  #expected: number;
  /** The last message may be another one: look before sending. */
  #mustLook = false;
  /** A pause has passed since the last publish. */
  #hasPaused = false;
  /** So many looks in a row have found nothing from the last acknowledged record on. */
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
    // Also where this thread slept since it looked.
    this.#mustLook ||= this.#transport.mustConfirm;
    const outcome = this.#mustLook ? await this.#look() : await this.#send();
    if (outcome.kind !== 'again') {
      this.#hasPaused = true;
      return outcome;
    }
    // There is nothing to wait for where the broker has just said what to do next.
    const isNews = !this.#group.isSent || this.#mustLook || this.#hasPaused || this.#expected !== before;
    const mustPause = outcome.mustPause || !isNews;
    this.#hasPaused ||= mustPause;
    return { kind: 'again', mustPause };
  }

  giveUp(): StreamEnd | undefined {
    // The last record is there, and the answers take so long that nothing could be sent by them.
    if (!this.#group.isSent && this.#emptyLooks === 0) return undefined;
    if (this.#emptyLooks >= EMPTY_LOOKS_MIN) return this.#lost(this.#writer.checkpointLsn);
    return { because: 'a group of it was in doubt for too long' };
  }

  async #send(): Promise<AppendOutcome> {
    const { broker, clock } = this.#deps;
    const sentAt = clock.monotonic();
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

  /** An attempt that was not answered with success is settled only by what is found. */
  async #look(): Promise<AppendOutcome> {
    const askedAt = this.#deps.clock.monotonic();
    let sight: Sight;
    try {
      sight = await this.#see();
    } catch (error) {
      if (!(error instanceof JournalError) || error.code !== 'journal-unavailable') throw error;
      this.#transport.noteFailure();
      this.#emptyLooks = 0;
      return { kind: 'refused', error };
    }
    // Behind a fence, and without the record before it, it is no more than a copy that came too late: readers find a gap there.
    const isCopy = sight.isGone && sight.isBehindFence;
    const isFound = sight.lsn >= this.#group.lastLsn && !sight.isForeign && !isCopy;
    // What one read lacks is no proof, since another server of the broker may be behind.
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

  /** Nothing of a group that was never sent can come late. */
  #emptyOutcome(): AppendOutcome {
    if (this.#emptyLooks < EMPTY_LOOKS_MIN || this.#group.isSent) return { kind: 'again', mustPause: true };
    return { kind: 'over', ...this.#lost(this.#writer.checkpointLsn), isAppended: false };
  }

  #endOf({ isFenced, isForeign, isGone, lsn }: Sight, isFound: boolean): StreamEnd | undefined {
    if (isFenced) return { because: 'another server has ended it' };
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
 * Sends the first message of a stream, which says that the stream is there. Resolves to its sequence, or to `over` where the stream
 * was ended meanwhile. Rejects with `journal-unavailable`: then the same data is to be sent again, or the stream is left.
 */
export async function sendOpeningRecord(
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
