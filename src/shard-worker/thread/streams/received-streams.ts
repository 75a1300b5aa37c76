/**
 * Streams of a shared journal whose records a queue hands out. Shard thread.
 *
 * ```text
 * received ──its row is taken, under a new epoch──► held: added, flushed, deleted from the queue ──► idle ──five seconds──► let go
 *          │                                         ├──another thread has taken the row──► let go: it is received again
 *          │                                         └──its last record is committed──► retired
 *          ├──counted already──► deleted
 *          ├──its stream has no row, and it is not the first record──► set aside, deleted
 *          └──names a record before it that is not counted──► left in the queue; before long with an alert, and its row is retired
 * ```
 *
 * While this thread holds messages of a stream, nobody else receives later ones. They are held until their flush is settled, and
 * deleted only behind a commit that this thread made, or read in the row. If the queue hands them out twice all the same, epochs
 * and LSNs make it safe: whoever takes the row fences who had it, and a record at or below the checkpoint is dropped.
 *
 * LSNs have gaps: a writer never uses the LSNs of a message of unknown outcome again. But each message names the last one that its
 * writer knew to be in the queue. Where that one is not counted, another thread holds it, or it is lost: the queue has dropped it,
 * or a failover of the database has taken its commit back. Then the row is retired, so that its writer begins another stream:
 * otherwise nothing that it acknowledges would be counted until an operator decides.
 */
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import type { OwnedLogStream, QueueLog, ReceivedRecords } from '../../journal/stream-log.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import { PendingSums } from '../pending-sums.js';
import { hasRoom, type FlushedStreams, type FlushedStreamsDeps } from './flushed-streams.js';
import { isJournalUnavailable, type ShardLog } from './owned-stream.js';
import type { FlushedStream } from './shard-streams.js';

/** Times that a simulation shortens, in ms. */
export interface ReceivedStreamsWaits {
  /** How often messages under way are held for some more seconds. */
  readonly holdMs: number;
  /** A stream without messages under way is let go after this time: others may take it at any time, and it is ordinary life. */
  readonly idleMs: number;
  /** A message whose predecessor is missing is received again after this time: whoever holds it gets time to commit. */
  readonly blockedMs: number;
  /** A stream that is blocked for so long lacks records: longer than anybody holds a message without extending it. */
  readonly missingMs: number;
}

const WAITS: ReceivedStreamsWaits = { holdMs: 5000, idleMs: 5000, blockedMs: 5000, missingMs: 30_000 };
/** Most blocked streams that are remembered. */
const BLOCKED_MAX = 1000;

/** A message whose records are added and not known to be committed. */
interface HeldMessage {
  receipt: string;
  readonly lastLsn: Lsn;
  readonly isClose: boolean;
}

interface ReceivedStreamState extends FlushedStream {
  readonly stream: string;
  readLsn: Lsn;
  messages: HeldMessage[];
  usedAt: number;
}

/** The streams whose records one thread receives. */
export class ReceivedStreams implements FlushedStreams {
  readonly #queueLog: QueueLog;
  readonly #deps: FlushedStreamsDeps;
  readonly #waits: ReceivedStreamsWaits;
  readonly #clock: Clock;
  readonly #log: ShardLog;
  readonly #held = new Map<string, ReceivedStreamState>();
  /** Since when a stream is blocked; infinite where that was said. */
  readonly #blockedSince = new Map<string, number>();
  /** When a stream was first found to have no row, on the monotonic clock. */
  readonly #unknownSince = new Map<string, number>();
  #holdDueAt = Number.NEGATIVE_INFINITY;
  /** Deletions behind commits, and ends of flushers. */
  readonly #settling = new Set<Promise<void>>();

  constructor(queueLog: QueueLog, deps: FlushedStreamsDeps, waits = WAITS) {
    this.#queueLog = queueLog;
    this.#deps = deps;
    this.#waits = waits;
    this.#clock = deps.context.deps.clock;
    this.#log = deps.context.deps.log;
  }

  get streams(): readonly FlushedStream[] {
    return [...this.#held.values()];
  }

  /** Nobody knows how much of a stream a queue still has. */
  isReadToEnd(): boolean {
    return true;
  }

  noticeSilence(): void {
    // Receiving stops with the next call of `readOn`.
  }

  /** Holds what is under way, and lets idle streams go. */
  async look(): Promise<void> {
    this.#deps.surveyed({ streams: [], flushers: 1 });
    const now = this.#clock.monotonic();
    for (const held of [...this.#held.values()])
      if (held.messages.length === 0 && held.pendingSums.isSettled && now - held.usedAt >= this.#waits.idleMs)
        this.#drop(held);
    if (now < this.#holdDueAt) return;
    this.#holdDueAt = now + this.#waits.holdMs;
    const receipts = [...this.#held.values()].flatMap(({ messages }) => receiptsOf(messages));
    if (receipts.length === 0) return;
    try {
      await this.#queueLog.extend(receipts);
    } catch (error) {
      // The next call comes before they are received again, or their rows decide.
      if (!isJournalUnavailable(error)) throw error;
      this.#holdDueAt = now;
    }
  }

  /**
   * Receives messages and adds their records. True where more may be there, undefined where it did not look. Rejects with `journal-unavailable`, and with
   * `database-unavailable`: then what was not added is received again.
   */
  async readOn(): Promise<boolean | undefined> {
    // Without the database others might flush it.
    if (!this.#deps.context.reports.isAvailable || !hasRoom(this.#deps)) return undefined;
    const received = await this.#queueLog.receive();
    const byStream = new Map<string, ReceivedRecords[]>();
    for (const message of received) {
      const others = byStream.get(message.stream);
      if (others === undefined) byStream.set(message.stream, [message]);
      else others.push(message);
    }
    const open = new Set(received.map(({ receipt }) => receipt));
    try {
      for (const messages of byStream.values()) {
        await this.#take(messages);
        for (const { receipt } of messages) open.delete(receipt);
      }
    } catch (error) {
      await this.#letGo([...open]);
      throw error;
    }
    return true;
  }

  /** Deletes the messages of committed records. */
  committed(stream: string, { lsn }: Checkpoint): void {
    const held = this.#held.get(stream);
    if (held === undefined) return;
    const done = held.messages.filter(({ lastLsn }) => lastLsn <= lsn);
    if (done.length === 0) return;
    held.messages = held.messages.filter(({ lastLsn }) => lastLsn > lsn);
    this.#track(this.#settle(held, done));
  }

  /** Flushes what was received, and lets go what cannot be flushed. */
  async drain(): Promise<void> {
    for (const held of [...this.#held.values()]) {
      await held.flusher.drain();
      await Promise.all(this.#settling);
      const left = receiptsOf(held.messages);
      this.#remove(held);
      await this.#letGo(left);
    }
    await Promise.all(this.#settling);
  }

  /** Takes messages of one stream, in order. */
  async #take(messages: readonly ReceivedRecords[]): Promise<void> {
    // There is at least one.
    const [first] = messages as [ReceivedRecords];
    const lastLsn = messages.reduce((most, message) => Math.max(most, message.lastLsn), 0);
    const held = (await this.#confirmed(first.stream)) ?? (await this.#takeRow(first, lastLsn, messages));
    if (held === undefined) return;
    held.usedAt = this.#clock.monotonic();
    const counted: HeldMessage[] = [];
    for (const [index, message] of messages.entries()) {
      if (message.lastLsn <= held.readLsn) {
        if (message.lastLsn <= held.pendingSums.checkpointLsn) counted.push(message);
        else noteCopy(held, message);
        continue;
      }
      if (message.previousLsn > held.readLsn) {
        const { checkpoint, isSettled } = held.pendingSums;
        await this.#block(held.stream, isSettled ? checkpoint : undefined, held.readLsn, messages.slice(index));
        break;
      }
      this.#blockedSince.delete(held.stream);
      this.#add(held, message);
    }
    if (counted.length > 0) await this.#settle(held, counted);
    this.#flushWhenDue(held);
  }

  /** The stream as this thread holds it; undefined where it does not, or not any more. */
  async #confirmed(stream: string): Promise<ReceivedStreamState | undefined> {
    const held = this.#held.get(stream);
    if (held === undefined) return undefined;
    // A flush that is under way finds out by itself.
    if (!held.pendingSums.isSettled) return held;
    const isThere = await this.#queueLog.touch(stream, held.pendingSums.checkpoint);
    if (isThere && this.#held.get(stream) === held) return held;
    this.#drop(held);
    return undefined;
  }

  async #takeRow(
    first: ReceivedRecords,
    lastLsn: Lsn,
    messages: readonly ReceivedRecords[],
  ): Promise<ReceivedStreamState | undefined> {
    const taken = await this.#queueLog.takeReceived(first, lastLsn);
    const { stream, node } = first;
    switch (taken.kind) {
      case 'taken': {
        const facts = { stream, node, checkpoint: taken.stream.lsn, lastLsn };
        if (taken.how === 'made') this.#log('info', facts, 'Found a stream in SQS that PostgreSQL had not heard of');
        if (taken.how === 'reopened')
          this.#log('warn', facts, 'A stream that was finished has records above its end; opened it again');
        return this.#hold(taken.stream);
      }
      case 'ended':
        await this.#orLater(() => this.#queueLog.remove(receiptsOf(messages)));
        return undefined;
      case 'blocked':
        await this.#block(stream, taken.at, taken.at.lsn, messages);
        return undefined;
      case 'unknown':
        await this.#setAllAside(stream, messages);
        return undefined;
    }
  }

  #hold({ stream, epoch, lsn, coveredFrom }: OwnedLogStream): ReceivedStreamState {
    const pendingSums = new PendingSums(stream, { epoch, lsn, coveredFrom });
    const held: ReceivedStreamState = {
      stream,
      pendingSums,
      journal: { bytes: 0, segments: 0 },
      flusher: this.#deps.makeFlusher(pendingSums, async () => {
        await this.#fenced(held);
      }),
      readLsn: lsn,
      messages: [],
      usedAt: this.#clock.monotonic(),
    };
    this.#held.set(stream, held);
    held.flusher.start();
    this.#deps.changed();
    return held;
  }

  /** Sets messages of a stream without a row aside, once it had time to get one from whoever holds its first message. */
  async #setAllAside(stream: string, messages: readonly ReceivedRecords[]): Promise<void> {
    const now = this.#clock.monotonic();
    const since = this.#unknownSince.get(stream) ?? now;
    this.#unknownSince.set(stream, since);
    const [oldest] = this.#unknownSince.keys();
    if (this.#unknownSince.size > BLOCKED_MAX && oldest !== undefined) this.#unknownSince.delete(oldest);
    if (now - since >= this.#waits.blockedMs) for (const message of messages) await this.#setAside(message);
    else await this.#letGo(receiptsOf(messages), this.#waits.blockedMs / 1000);
  }

  async #setAside(message: ReceivedRecords): Promise<void> {
    const queueLog = this.#queueLog;
    const { stream, node, shard, firstLsn, lastLsn } = message;
    const increments = await queueLog.setAside(message);
    if (increments === undefined) {
      await this.#letGo([message.receipt]);
      return;
    }
    this.#deps.moved({ adopted: increments, rejected: increments });
    await this.#orLater(() => queueLog.remove([message.receipt]));
    if (increments === 0) return;
    this.#log(
      'error',
      { stream, node, shard, firstLsn, lastLsn, increments },
      `Stream ${stream} is in SQS from LSN ${firstLsn} on and has no row in journal_checkpoints: nobody can tell what of it is ` +
        'counted. Its increments are kept in rejected_increments and not counted. List them with `npm run journal -- rejected`',
    );
  }

  #add(held: ReceivedStreamState, { records, lastLsn, receipt, isClose }: ReceivedRecords): void {
    let increments = 0;
    for (const { lsn, entries, databaseTime, acceptedAt } of records)
      increments += held.pendingSums.apply(lsn, entries, 0, entries.length, databaseTime, acceptedAt);
    held.readLsn = lastLsn;
    held.messages.push({ receipt, lastLsn, isClose });
    if (increments > 0) this.#deps.moved({ adopted: increments });
  }

  /** What waited for an interval already, behind other messages or in an outage, is not kept waiting for another one. */
  #flushWhenDue({ pendingSums, flusher, messages }: ReceivedStreamState): void {
    const { flushIntervalMs } = this.#deps.context.deps;
    if (pendingSums.isSettled) return;
    const isLast = messages.at(-1)?.isClose === true;
    // A flusher that fails retries by itself.
    if (isLast || this.#clock.now() - pendingSums.oldestAcceptedAtMs >= flushIntervalMs)
      flusher.flushNow().catch(ignore);
    else flusher.noticeApplied();
  }

  /**
   * The predecessor of the first message is not counted: another thread holds it, or it is lost. `at`: where the row is; undefined:
   * it is about to move.
   */
  async #block(
    stream: string,
    at: Checkpoint | undefined,
    readLsn: Lsn,
    messages: readonly ReceivedRecords[],
  ): Promise<void> {
    const now = this.#clock.monotonic();
    const since = this.#blockedSince.get(stream) ?? now;
    if (this.#blockedSince.size < BLOCKED_MAX) this.#blockedSince.set(stream, since);
    if (at !== undefined && now - since >= this.#waits.missingMs) {
      this.#blockedSince.set(stream, Number.POSITIVE_INFINITY);
      const facts = { stream, afterLsn: readLsn, lsn: messages[0]?.firstLsn, missingLsn: messages[0]?.previousLsn };
      this.#log('error', facts, `Stream ${stream} lacks records in SQS; what is above them is not counted`);
      await this.#orLater(async () => {
        await this.#queueLog.retire(stream, at);
      });
    }
    await this.#letGo(receiptsOf(messages), this.#waits.blockedMs / 1000);
  }

  /**
   * Deletes messages that are committed. The row of a stream that has ended is retired before its last message is deleted: that is
   * received again where the row cannot be retired now, or where another thread has taken it.
   */
  async #settle(held: ReceivedStreamState, done: readonly HeldMessage[]): Promise<void> {
    const queueLog = this.#queueLog;
    const { stream, pendingSums, readLsn } = held;
    await this.#orLater(async () => {
      const isEnd = done.some(({ isClose, lastLsn }) => isClose && lastLsn === readLsn);
      let isKept = false;
      if (isEnd && pendingSums.isSettled) {
        isKept = (await queueLog.retire(stream, pendingSums.checkpoint)) !== true;
        if (!isKept) this.#log('info', { stream, lsn: readLsn }, 'Finished a stream; all of it is in counters');
        this.#drop(held);
      }
      await queueLog.remove(receiptsOf(done.filter(({ isClose }) => !isClose || !isKept)));
      if (isKept) await this.#letGo(receiptsOf(done.filter(({ isClose }) => isClose)));
    });
  }

  /** Another thread flushes the stream now. What this one holds is received again, by whoever is first. */
  async #fenced(held: ReceivedStreamState): Promise<void> {
    this.#remove(held);
    await this.#letGo(receiptsOf(held.messages));
  }

  /** Stops to flush a stream of which nothing is pending. The database may keep its flusher waiting. */
  #drop(held: ReceivedStreamState): void {
    this.#remove(held);
    this.#track(held.flusher.abandon().then(() => this.#letGo(receiptsOf(held.messages))));
  }

  readonly #fail = (error: unknown): void => {
    this.#deps.context.fail(error);
  };

  /** Until it has ended, the thread is not done. */
  #track(task: Promise<void>): void {
    const tracked = task.catch(this.#fail).finally(() => {
      this.#settling.delete(tracked);
    });
    this.#settling.add(tracked);
  }

  #remove(held: ReceivedStreamState): void {
    if (this.#held.get(held.stream) !== held) return;
    this.#held.delete(held.stream);
    this.#deps.moved({ handedOver: held.pendingSums.pendingIncrements });
    this.#deps.changed();
  }

  async #letGo(receipts: readonly string[], seconds?: number): Promise<void> {
    if (receipts.length > 0) await this.#orLater(() => this.#queueLog.release(receipts, seconds));
  }

  /** A message that is not deleted or let go now is received again, and its stream's row says what to do with it. */
  async #orLater(request: () => Promise<void>): Promise<void> {
    try {
      await request();
    } catch (error) {
      if (!isJournalUnavailable(error) && !isDatabaseUnavailable(error)) throw error;
      this.#log('debug', { err: error }, 'Cannot end with a message now; it is received again');
    }
  }
}

/**
 * A message whose records are below the last one that was added, and not known to be committed: it has come again, and only its
 * new receipt is valid; or it is a late one of unknown outcome, and is deleted behind the same commit.
 */
function noteCopy(held: ReceivedStreamState, { lastLsn, receipt, isClose }: ReceivedRecords): void {
  const known = held.messages.find((message) => message.lastLsn === lastLsn);
  if (known === undefined) held.messages.push({ receipt, lastLsn, isClose });
  else known.receipt = receipt;
}

function receiptsOf(messages: readonly Pick<ReceivedRecords, 'receipt'>[]): readonly string[] {
  return messages.map(({ receipt }) => receipt);
}

function ignore(): void {
  // The flusher reports the failure itself.
}
