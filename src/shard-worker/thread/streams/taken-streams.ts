/**
 * Streams of a shared journal that this thread flushes and another thread writes, or wrote. Shard thread.
 *
 * ```text
 * free ──taken, its writer lives──► followed ──its writer is gone──► taken again, appends too ──► adopted
 *  │                                   └──more than this thread's share──► released
 *  └──taken, its writer is gone──► adopted ──flushed to the end of its log──► retired
 * ```
 *
 * A stream is free where nobody flushes it who shows signs of life. These are a hint, which may be wrong: a thread that slept is
 * alive. The epochs make it safe. Whoever takes the flushes fences who had them; whoever also takes the appends, in the same
 * transaction, fences the writer, and reads the log only after that. So only an adopted stream has an end, and is retired.
 *
 * Each thread looks at all streams once a second, and takes free ones up to its share: all such streams, divided by the threads
 * that flush. What stays free for a while is taken beyond that.
 */
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import type { JournalRecord } from '../../journal/journal.js';
import type { SharedLog, StreamSurvey, Survey, TakenLogStream } from '../../journal/stream-log.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import { PendingSums } from '../pending-sums.js';
import { hasRoom, type FlushedStreams, type FlushedStreamsDeps } from './flushed-streams.js';
import type { ShardLog } from './owned-stream.js';
import type { FlushedStream } from './shard-streams.js';

/** Records that are read at a time: of a stream at most, of all about, and of a stream at least. A record can have some MiB. */
const READ_RECORDS_MAX = 64;
const READ_RECORDS_OF_ALL = 256;
const READ_RECORDS_MIN = 4;
/** Without an answer of the database for a while nobody shows signs of life: then others get this long to show them again. */
const CONTACT_MS = 4000;
/** That while. Signs of life come every three seconds: with a shorter silence none is older than IS_ALIVE allows. */
const SILENCE_MS = 3000;
/**
 * A stream that was free for this long is taken by whoever sees it, beyond its share. Less than the time between two looks, so that
 * it is at the second look that sees it free.
 */
const FREE_MAX_MS = 800;

interface HeldStream extends FlushedStream {
  readonly stream: string;
  /** Its writer is gone, and this thread may retire it. */
  readonly isAdopted: boolean;
  /** Increments of it count as recovered: an earlier thread of this server wrote it. */
  readonly isOwn: boolean;
  readLsn: Lsn;
  /** The last read found nothing above. */
  isReadToEnd: boolean;
  /** Records are missing in the log: the first LSN above them. Nothing more is read. */
  gapAt: Lsn | undefined;
  isGapSaid: boolean;
}

/** Times that a simulation shortens, in ms; see the constants. */
export interface TakenStreamsWaits {
  readonly contactMs: number;
  readonly freeMaxMs: number;
}

const WAITS: TakenStreamsWaits = { contactMs: CONTACT_MS, freeMaxMs: FREE_MAX_MS };

/** The streams that one thread follows by their positions. */
export class TakenStreams implements FlushedStreams {
  readonly #incrementLog: SharedLog;
  readonly #deps: FlushedStreamsDeps;
  readonly #waits: TakenStreamsWaits;
  readonly #clock: Clock;
  readonly #log: ShardLog;
  readonly #held = new Map<string, HeldStream>();
  /** Since when a stream was seen free. */
  readonly #freeSince = new Map<string, number>();
  #contactSince: number | undefined;
  #answeredAt = Number.NEGATIVE_INFINITY;
  #retiring: Promise<void> | undefined;

  constructor(incrementLog: SharedLog, deps: FlushedStreamsDeps, waits = WAITS) {
    this.#incrementLog = incrementLog;
    this.#deps = deps;
    this.#waits = waits;
    this.#clock = deps.context.deps.clock;
    this.#log = deps.context.deps.log;
  }

  get streams(): readonly FlushedStream[] {
    return [...this.#held.values()];
  }

  /** Whether the stream is held here and everything that its log had at the last read is in its sums. */
  isReadToEnd(stream: string): boolean {
    return this.#held.get(stream)?.isReadToEnd === true;
  }

  /** The database did not answer. */
  noticeSilence(): void {
    this.#contactSince = undefined;
  }

  /**
   * The database has answered. Where it kept this thread waiting, it may have kept all waiting, and none could show signs of life. Not
   * for statements on rows, which may wait for one.
   */
  #noticeAnswer(): void {
    const now = this.#clock.monotonic();
    if (this.#contactSince === undefined || now - this.#answeredAt > SILENCE_MS) this.#contactSince = now;
    this.#answeredAt = now;
  }

  /**
   * Looks at all streams and takes and releases what is due. Rejects with `database-unavailable` where the look itself fails; what
   * waits for a row in vain is left to the next look.
   */
  async look(): Promise<void> {
    const withGaps = [...this.#held.values()].filter(({ gapAt }) => gapAt !== undefined);
    const survey = await this.#incrementLog.survey();
    const now = this.#clock.monotonic();
    this.#noticeAnswer();
    this.#deps.surveyed(survey);
    await this.#dropFenced(survey);
    this.#sayGaps(withGaps);
    await this.#takeFree(survey, now);
    await this.#adoptOrphans(survey);
    await this.#releaseExcess(survey);
    this.#retireFinished();
  }

  /** Reads what is new in the logs, while there is room for it. True where there is more. Rejects with `database-unavailable`. */
  async readOn(): Promise<boolean> {
    const incrementLog = this.#incrementLog;
    const reading = [...this.#held.values()].filter(({ gapAt }) => gapAt === undefined && hasRoom(this.#deps));
    if (reading.length === 0) return false;
    const positions = reading.map(({ stream, readLsn }) => ({ stream, lsn: readLsn }));
    const share = Math.floor(READ_RECORDS_OF_ALL / reading.length);
    const recordsMax = Math.max(READ_RECORDS_MIN, Math.min(READ_RECORDS_MAX, share));
    const found = await incrementLog.read(positions, recordsMax);
    // An answer of a broker says nothing of signs of life.
    if (incrementLog.isInDatabase) this.#noticeAnswer();
    let isMore = false;
    for (const held of reading) {
      if (this.#held.get(held.stream) !== held) continue;
      const records = found.get(held.stream) ?? [];
      this.#apply(held, records);
      held.isReadToEnd = records.length < recordsMax;
      if (!held.isReadToEnd) isMore = true;
      // An outage or a takeover has delayed these increments already. A flusher that fails retries by itself.
      if (held.isReadToEnd && held.isAdopted) held.flusher.flushNow().catch(ignore);
    }
    this.#retireFinished();
    return isMore;
  }

  committed(stream: string, at: Checkpoint): void {
    this.#incrementLog.committed(stream, at);
  }

  /** Flushes what was read. Ends streams whose logs end there, and leaves the others to others. */
  async drain(): Promise<void> {
    await this.#retiring;
    for (const held of [...this.#held.values()]) {
      const isCommitted = await held.flusher.drain();
      if (isCommitted && held.flusher.isDatabaseAvailable && !(await this.#isRetired(held))) await this.#release(held);
      this.#remove(held);
    }
  }

  #apply(held: HeldStream, records: readonly JournalRecord[]): void {
    let increments = 0;
    for (const { lsn, entries, databaseTime, acceptedAt } of records) {
      if (lsn !== held.readLsn + 1) {
        held.gapAt = lsn;
        break;
      }
      increments += held.pendingSums.apply(lsn, entries, 0, entries.length, databaseTime, acceptedAt);
      held.readLsn = lsn;
    }
    if (increments === 0) return;
    this.#deps.moved(held.isOwn ? { recovered: increments } : { adopted: increments });
    held.flusher.noticeApplied();
  }

  /** Streams that others have taken, or that are retired. */
  async #dropFenced({ streams }: Survey): Promise<void> {
    const byName = new Map(streams.map((survey) => [survey.stream, survey]));
    for (const held of [...this.#held.values()])
      if (byName.get(held.stream)?.epoch !== held.pendingSums.epoch) await this.#drop(held);
  }

  /** Where another thread has taken the stream, it has flushed and removed what this one misses: only later looks tell. */
  #sayGaps(withGaps: readonly HeldStream[]): void {
    for (const held of withGaps) {
      const { stream, readLsn, gapAt, isGapSaid } = held;
      if (isGapSaid || this.#held.get(stream) !== held) continue;
      held.isGapSaid = true;
      const facts = { stream, afterLsn: readLsn, lsn: gapAt };
      const what = `Stream ${stream} lacks records in ${this.#incrementLog.store}; what is above them is not counted`;
      this.#log('error', facts, what);
    }
  }

  async #takeFree(survey: Survey, now: number): Promise<void> {
    const { isWrittenHere, isLeft } = this.#deps;
    const hasContact = this.#contactSince !== undefined && now - this.#contactSince >= this.#waits.contactMs;
    const share = shareOf(survey);
    // One of this thread that is not held: the reply to its taking was lost. Or one that an earlier thread wrote and flushed: it
    // is gone, whatever its last sign of life says.
    const isOwnAnyway = ({ stream, owner, isOwned, isSelfFlushed }: StreamSurvey): boolean =>
      owner === this.#incrementLog.flusher || (isLeft(stream) && (isSelfFlushed || !isOwned));
    const free = survey.streams.filter(
      (found) =>
        !this.#held.has(found.stream) && !isWrittenHere(found.stream) && (!found.isOwned || isOwnAnyway(found)),
    );
    this.#noteFree(free, now);
    for (const found of free) {
      const isOverdue = now - (this.#freeSince.get(found.stream) ?? now) >= this.#waits.freeMaxMs;
      if (!hasContact && found.owner !== undefined && !isOwnAnyway(found)) continue;
      if (this.#held.size >= share && !isOwnAnyway(found) && !isOverdue) continue;
      await this.#take(found, isLeft(found.stream) || (hasContact && !found.isWritten));
    }
  }

  #noteFree(free: readonly StreamSurvey[], now: number): void {
    const names = new Set(free.map(({ stream }) => stream));
    for (const stream of this.#freeSince.keys()) if (!names.has(stream)) this.#freeSince.delete(stream);
    for (const stream of names) if (!this.#freeSince.has(stream)) this.#freeSince.set(stream, now);
  }

  /** Followed streams whose writers are gone. */
  async #adoptOrphans({ streams }: Survey): Promise<void> {
    const now = this.#clock.monotonic();
    if (this.#contactSince === undefined || now - this.#contactSince < this.#waits.contactMs) return;
    for (const survey of streams) {
      const held = this.#held.get(survey.stream);
      if (held === undefined || held.isAdopted || survey.isWritten) continue;
      if (survey.epoch !== held.pendingSums.epoch) continue;
      // What was read of it is read again: under another epoch, and from where the row is by then.
      await this.#drop(held);
      await this.#take(survey, true);
    }
  }

  async #releaseExcess(survey: Survey): Promise<void> {
    if (this.#held.size <= shareOf(survey)) return;
    const held = [...this.#held.values()].find(
      ({ isAdopted, pendingSums, isReadToEnd }) => !isAdopted && pendingSums.isSettled && isReadToEnd,
    );
    if (held === undefined) return;
    await held.flusher.abandon();
    await this.#release(held);
    this.#remove(held);
  }

  async #take(survey: StreamSurvey, adopt: boolean): Promise<void> {
    const { isLeft, changed } = this.#deps;
    const taken = await this.#unlessUnavailable(() => this.#incrementLog.take(survey.stream, survey.epoch, adopt));
    if (taken === undefined) return;
    const isOwn = isLeft(survey.stream);
    this.#hold(taken, isOwn);
    const { stream, lsn } = taken;
    const facts = { stream, node: survey.node, checkpoint: lsn };
    if (adopt)
      this.#log('info', facts, isOwn ? 'Finishing an earlier stream' : 'Took over a stream whose writer is gone');
    else this.#log('info', facts, 'Flushing a stream for its writer');
    changed();
  }

  #hold({ stream, epoch, lsn, coveredFrom, isAdopted }: TakenLogStream, isOwn: boolean): void {
    const pendingSums = new PendingSums(stream, { epoch, lsn, coveredFrom });
    const held: HeldStream = {
      stream,
      isAdopted,
      isOwn,
      pendingSums,
      journal: { bytes: 0, segments: 0 },
      flusher: this.#deps.makeFlusher(pendingSums, () => {
        this.#remove(held);
        return Promise.resolve();
      }),
      readLsn: lsn,
      isReadToEnd: false,
      gapAt: undefined,
      isGapSaid: false,
    };
    this.#held.set(stream, held);
    held.flusher.start();
  }

  /** Retires adopted streams that are flushed to the ends of their logs. Reading does not wait for it. */
  #retireFinished(): void {
    this.#retiring ??= this.#retireAll().then(() => {
      this.#retiring = undefined;
    }, this.#fail);
  }

  readonly #fail = (error: unknown): void => {
    this.#deps.context.fail(error);
  };

  async #retireAll(): Promise<void> {
    for (const held of [...this.#held.values()]) {
      const isRetired = await this.#isRetired(held);
      if (isRetired === undefined || this.#held.get(held.stream) !== held) continue;
      await this.#drop(held);
    }
  }

  /** Retires the stream if it is due. Undefined: it is not, or the database does not answer; false: it is another's. */
  async #isRetired({ stream, isAdopted, pendingSums, isReadToEnd, gapAt }: HeldStream): Promise<boolean | undefined> {
    if (!isAdopted || !isReadToEnd || gapAt !== undefined || !pendingSums.isSettled) return undefined;
    const at = pendingSums.checkpoint;
    const isRetired = await this.#unlessUnavailable(() => this.#incrementLog.retire(stream, at));
    if (isRetired === true)
      this.#log('info', { stream, lsn: pendingSums.checkpointLsn }, 'Finished a stream; all of it is in counters');
    return isRetired;
  }

  /** Stops to flush a stream. Somebody else flushes what is pending. */
  async #drop(held: HeldStream): Promise<void> {
    await held.flusher.abandon();
    this.#remove(held);
  }

  #remove(held: HeldStream): void {
    if (this.#held.get(held.stream) !== held) return;
    this.#held.delete(held.stream);
    this.#deps.moved({ handedOver: held.pendingSums.pendingIncrements });
    this.#deps.changed();
  }

  async #release({ stream, pendingSums }: HeldStream): Promise<void> {
    const at: Checkpoint = pendingSums.checkpoint;
    await this.#unlessUnavailable(() => this.#incrementLog.release(stream, at));
  }

  /** What locks a row may wait for it in vain. That says nothing of the log, and a later look tries again. */
  async #unlessUnavailable<T>(statement: () => Promise<T>): Promise<T | undefined> {
    try {
      return await statement();
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      this.#log('debug', { err: error }, 'Cannot take, leave or end a stream now; trying again');
      return undefined;
    }
  }
}

/** How many of the streams that are not flushed by their own writers fall to each thread that flushes. */
function shareOf({ streams, flushers }: Survey): number {
  const foreign = streams.filter(({ isSelfFlushed, isOwned }) => !(isSelfFlushed && isOwned)).length;
  return Math.ceil(foreign / Math.max(1, flushers));
}

function ignore(): void {
  // The flusher reports the failure itself.
}
