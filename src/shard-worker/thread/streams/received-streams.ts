/**
 * Streams of a shared journal that are received from a queue. Shard thread.
 *
 * ```text
 * received ──its row is taken, under a new epoch──► held: added, flushed, deleted from the queue ──► idle ──five seconds──► released
 *          │                                         ├──another thread has taken the row──► released: it is received again
 *          │                                         └──its last record is committed──► retired
 *          ├──already counted──► deleted
 *          ├──its stream has no row, and it is not the first record──► after a while set aside, deleted
 *          └──names an uncounted record before it──► stays in the queue; after a while its row is retired, it is set aside, deleted
 * ```
 *
 * While this thread holds received messages of a stream, nobody else receives later ones. It holds them until their flush is
 * settled. It deletes them only after a commit that it made or read in the row. Epochs and LSNs make it safe if the queue hands
 * out a message twice: taking the row fences the previous owner, and a record at or below the checkpoint is dropped.
 *
 * LSNs have gaps, because a writer never reuses the LSNs of a message in doubt. Each message names the last one that its writer
 * knew to be in the queue. If that one is not counted, another thread holds it, or it is lost: the queue dropped it, or a
 * failover of the database undid its commit. After a loss the row is retired, so that the writer begins another stream, and what
 * follows is kept in `rejected_increments` until an operator decides. In the queue it would fill the part in which the queue looks
 * for messages of other streams.
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
  /** How often the hold on received messages is extended. */
  readonly holdMs: number;
  /** A stream without received messages is released after this time. */
  readonly idleMs: number;
  /**
   * A message whose predecessor is missing is received again after this time, so that the holder of the predecessor can commit.
   */
  readonly blockedMs: number;
  /** A stream that is blocked for this long lacks records. Nobody holds a message longer without extending it. */
  readonly missingMs: number;
}

const WAITS: ReceivedStreamsWaits = { holdMs: 3000, idleMs: 5000, blockedMs: 5000, missingMs: 30_000 };
/** Messages of another database are released for others, and received again after this time. */
const FOREIGN_SECONDS = 1;
/** Most streams that are remembered for their messages that cannot be counted. */
const WAITING_MAX = 1000;

/** A received message with added records, not known to be committed. */
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
  /** Since when records of a stream cannot be counted, on the monotonic clock. */
  readonly #waitingSince = new Map<string, number>();
  /** What the log has said of streams. */
  readonly #said = new Set<string>();
  #holdDueAt = Number.NEGATIVE_INFINITY;
  /** Deletions after commits, and ends of flushers. */
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

  /** A queue does not tell how much of a stream it still has. */
  isReadToEnd(): boolean {
    return true;
  }

  noticeSilence(): void {
    // The next call of `readOn` stops receiving.
  }

  /** Extends the hold on received messages, and releases idle streams. */
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
      // The next call usually comes before they are received again. Otherwise their rows decide.
      if (!isJournalUnavailable(error)) throw error;
      this.#holdDueAt = now;
    }
  }

  /**
   * Receives messages and adds their records. True if there may be more, undefined if it did not read. Rejects with
   * `journal-unavailable`, or with `database-unavailable`; then the rest is received again.
   */
  async readOn(): Promise<boolean | undefined> {
    // Without the database, another thread may be the one to flush them.
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
      await this.#release([...open]);
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

  /** Flushes received messages, and releases those that cannot be flushed. */
  async drain(): Promise<void> {
    for (const held of [...this.#held.values()]) {
      await held.flusher.drain();
      await Promise.all(this.#settling);
      const left = receiptsOf(held.messages);
      this.#remove(held);
      await this.#release(left);
    }
    await Promise.all(this.#settling);
  }

  /** Takes messages of one stream, in order. */
  async #take(messages: readonly ReceivedRecords[]): Promise<void> {
    // Callers pass at least one.
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
        await this.#block(isSettled ? checkpoint : undefined, held.readLsn, messages.slice(index));
        break;
      }
      this.#waitingSince.delete(held.stream);
      this.#add(held, message);
    }
    if (counted.length > 0) await this.#settle(held, counted);
    this.#flushWhenDue(held);
  }

  /** The stream, if this thread still owns it. */
  async #confirmed(stream: string): Promise<ReceivedStreamState | undefined> {
    const held = this.#held.get(stream);
    if (held === undefined) return undefined;
    // A pending flush finds out by itself.
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
        if (taken.how === 'made')
          this.#log('info', facts, 'Found a stream in SQS without a row in PostgreSQL; made its row');
        if (taken.how === 'reopened')
          this.#log('warn', facts, 'A retired stream has records above its checkpoint; opened it again');
        return this.#hold(taken.stream);
      }
      case 'ended':
        await this.#orLater(() => this.#queueLog.remove(receiptsOf(messages)));
        return undefined;
      case 'blocked':
        await this.#block(taken.at, taken.at.lsn, messages);
        return undefined;
      case 'unknown':
        await this.#setUnknownAside(stream, messages);
        return undefined;
      case 'foreign':
        this.#sayForeign(first);
        await this.#release(receiptsOf(messages), FOREIGN_SECONDS);
        return undefined;
    }
  }

  #sayForeign({ stream, database, node, shard }: ReceivedRecords): void {
    if (!this.#isNew(`foreign ${stream}`)) return;
    const why =
      database === undefined
        ? 'names no database, because a server of an earlier version writes it, and has no row in journal_checkpoints; ' +
          '`npm run journal -- pair-store` says that such streams belong to this database'
        : `belongs to the database ${database}`;
    const what = `Stream ${stream} in SQS is neither counted nor removed here: it ${why}`;
    this.#log('error', { stream, database, node, shard }, what);
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

  /** For a stream without a row, whose first message another thread may hold. */
  async #setUnknownAside(stream: string, messages: readonly ReceivedRecords[]): Promise<void> {
    if (!(await this.#isSetAside(stream, messages, this.#waits.blockedMs)) || !this.#isNew(`unknown ${stream}`)) return;
    const [{ node, shard, firstLsn }] = messages as [ReceivedRecords];
    const what =
      `Stream ${stream} is in SQS from LSN ${firstLsn} on and has no row in journal_checkpoints, so it is unknown what of it is ` +
      'counted. Its increments are kept in rejected_increments and not counted. List them with `npm run journal -- rejected`';
    this.#log('error', { stream, node, shard, firstLsn }, what);
  }

  /**
   * The predecessor of the first message is not counted: another thread holds it, or it is lost. `at`: the row; undefined if it
   * is about to move.
   */
  async #block(at: Checkpoint | undefined, readLsn: Lsn, messages: readonly ReceivedRecords[]): Promise<void> {
    const [{ stream, firstLsn, previousLsn }] = messages as [ReceivedRecords];
    const waitMs = at === undefined ? Number.POSITIVE_INFINITY : this.#waits.missingMs;
    if (!(await this.#isSetAside(stream, messages, waitMs, at)) || !this.#isNew(`lacking ${stream}`)) return;
    const facts = { stream, afterLsn: readLsn, lsn: firstLsn, missingLsn: previousLsn };
    const what =
      `Stream ${stream} lacks records in SQS; later records are kept in rejected_increments and not counted. ` +
      `See what can be counted with \`npm run journal -- skip --stream ${stream} --above ${previousLsn}\``;
    this.#log('error', facts, what);
  }

  /** Sets messages aside that have waited for `waitMs`, and else releases them for a while. */
  async #isSetAside(
    stream: string,
    messages: readonly ReceivedRecords[],
    waitMs: number,
    at?: Checkpoint,
  ): Promise<boolean> {
    const now = this.#clock.monotonic();
    const since = this.#waitingSince.get(stream) ?? now;
    this.#waitingSince.set(stream, since);
    const [oldest] = this.#waitingSince.keys();
    if (this.#waitingSince.size > WAITING_MAX && oldest !== undefined) this.#waitingSince.delete(oldest);
    const receipts = receiptsOf(messages);
    const increments = now - since < waitMs ? undefined : await this.#queueLog.setAside(messages, at);
    if (increments === undefined) {
      await this.#release(receipts, this.#waits.blockedMs / 1000);
      return false;
    }
    this.#deps.moved({ adopted: increments, rejected: increments });
    await this.#orLater(() => this.#queueLog.remove(receipts));
    return true;
  }

  /** Whether the log has not said this yet. */
  #isNew(said: string): boolean {
    if (this.#said.has(said)) return false;
    if (this.#said.size >= WAITING_MAX) this.#said.clear();
    this.#said.add(said);
    return true;
  }

  #add(held: ReceivedStreamState, { records, lastLsn, receipt, isClose }: ReceivedRecords): void {
    let increments = 0;
    for (const { lsn, entries, databaseTime, acceptedAt } of records)
      increments += held.pendingSums.apply(lsn, entries, 0, entries.length, databaseTime, acceptedAt);
    held.readLsn = lastLsn;
    held.messages.push({ receipt, lastLsn, isClose });
    if (increments > 0) this.#deps.moved({ adopted: increments });
  }

  /** Flushes increments that have already waited for an interval, behind other messages or in an outage. */
  #flushWhenDue({ pendingSums, flusher, messages }: ReceivedStreamState): void {
    const { flushIntervalMs } = this.#deps.context.deps;
    if (pendingSums.isSettled) return;
    const isLast = messages.at(-1)?.isClose === true;
    // A failed flusher retries by itself.
    if (isLast || this.#clock.now() - pendingSums.oldestAcceptedAtMs >= flushIntervalMs)
      flusher.flushNow().catch(ignore);
    else flusher.noticeApplied();
  }

  /**
   * Deletes committed messages. The row of an ended stream is retired before its last message is deleted. If that fails, or
   * another thread has taken the row, the message is received again.
   */
  async #settle(held: ReceivedStreamState, done: readonly HeldMessage[]): Promise<void> {
    const queueLog = this.#queueLog;
    const { stream, pendingSums, readLsn } = held;
    await this.#orLater(async () => {
      const isEnd = done.some(({ isClose, lastLsn }) => isClose && lastLsn === readLsn);
      let isKept = false;
      if (isEnd && pendingSums.isSettled) {
        isKept = (await queueLog.retire(stream, pendingSums.checkpoint)) !== true;
        if (!isKept) this.#log('info', { stream, lsn: readLsn }, 'Retired a stream; all of it is in counters');
        this.#drop(held);
      }
      await queueLog.remove(receiptsOf(done.filter(({ isClose }) => !isClose || !isKept)));
      if (isKept) await this.#release(receiptsOf(done.filter(({ isClose }) => isClose)));
    });
  }

  /** Another thread flushes the stream now. Messages held here are received again. */
  async #fenced(held: ReceivedStreamState): Promise<void> {
    this.#remove(held);
    await this.#release(receiptsOf(held.messages));
  }

  /** Stops flushing a stream without pending increments. Its flusher may still wait for the database. */
  #drop(held: ReceivedStreamState): void {
    this.#remove(held);
    this.#track(held.flusher.abandon().then(() => this.#release(receiptsOf(held.messages))));
  }

  readonly #fail = (error: unknown): void => {
    this.#deps.context.fail(error);
  };

  /** A drain waits for `task`. */
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

  async #release(receipts: readonly string[], seconds?: number): Promise<void> {
    if (receipts.length > 0) await this.#orLater(() => this.#queueLog.release(receipts, seconds));
  }

  /** A message that cannot be deleted or released now is received again. Its stream's row decides what happens to it. */
  async #orLater(request: () => Promise<void>): Promise<void> {
    try {
      await request();
    } catch (error) {
      if (!isJournalUnavailable(error) && !isDatabaseUnavailable(error)) throw error;
      this.#log('debug', { err: error }, 'Cannot delete or release a message now; it will be received again');
    }
  }
}

/**
 * A message below the last added record that is not known to be committed. Either it came again, and only its new receipt is
 * valid. Or it is a late one that was in doubt, and is deleted after the same commit.
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
