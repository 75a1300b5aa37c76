/**
 * Streams of a shared journal that this thread flushes and another thread writes, or wrote. Shard thread.
 *
 * ```text
 * free ──taken, its writer lives──► followed ──its writer is gone──► taken again, with appends ──► adopted
 *  │                                   └──more than this thread's share──► released
 *  └──taken, its writer is gone──► adopted ──flushed to its end──► retired
 * ```
 *
 * A stream is free if no flusher with a recent heartbeat has it. Heartbeats are a hint, not a proof: a thread that slept is
 * alive. The epochs make it safe. Taking the flushes fences the previous flusher. Adoption also stops the writer, each journal in its
 * way, and reads the journal only after that. So only an adopted stream has an end and can be retired.
 *
 * Each thread surveys all streams once a second and takes free ones up to its share: all such streams, divided by the threads
 * that flush. Streams that stay free are taken beyond the share.
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

/** Records per read: at most of a stream, about of all streams, and at least of a stream. A record can have some MiB. */
const READ_RECORDS_MAX = 64;
const READ_RECORDS_OF_ALL = 256;
const READ_RECORDS_MIN = 4;
/** While the database does not answer, nobody can send heartbeats. Afterwards others get this long to send them. */
const CONTACT_MS = 4000;
/**
 * Silence of the database that counts as an outage. With heartbeats every three seconds, a shorter one makes none older than
 * IS_ALIVE allows.
 */
const SILENCE_MS = 3000;
/**
 * A stream that was free for this long is taken even beyond the share. Less than the time between two surveys, so that the
 * second survey that sees it free takes it.
 */
const FREE_MAX_MS = 800;

/** A stream that lacks records for this long is ended there. A replica of a broker may be behind for a while. */
const GAP_MS = 30_000;

interface HeldStream extends FlushedStream {
  readonly stream: string;
  /** Its writer is gone, and this thread may retire it. */
  readonly isAdopted: boolean;
  /** An earlier thread of this server wrote it, so its increments count as recovered. */
  readonly isOwn: boolean;
  readLsn: Lsn;
  /** The last read found nothing new. */
  isReadToEnd: boolean;
  /** The first LSN above missing records. Nothing more is read. */
  gapAt: Lsn | undefined;
  /** When that was found, on the monotonic clock. */
  gapSince: number;
  isGapSaid: boolean;
}

/** Times that a simulation shortens, in ms; see the constants. */
export interface TakenStreamsWaits {
  readonly contactMs: number;
  readonly freeMaxMs: number;
  readonly gapMs: number;
}

const WAITS: TakenStreamsWaits = { contactMs: CONTACT_MS, freeMaxMs: FREE_MAX_MS, gapMs: GAP_MS };

/** The streams that one thread follows by their positions. */
export class TakenStreams implements FlushedStreams {
  readonly #incrementLog: SharedLog;
  readonly #deps: FlushedStreamsDeps;
  readonly #waits: TakenStreamsWaits;
  readonly #clock: Clock;
  readonly #log: ShardLog;
  readonly #held = new Map<string, HeldStream>();
  /** Since when a stream has been free. */
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

  /** Whether the stream is held here and its sums hold everything up to its end at the last read. */
  isReadToEnd(stream: string): boolean {
    return this.#held.get(stream)?.isReadToEnd === true;
  }

  /** The database did not answer. */
  noticeSilence(): void {
    this.#contactSince = undefined;
  }

  /**
   * The database has answered. If it kept this thread waiting, it may have kept all threads waiting, and none could send a
   * heartbeat. Not for statements on rows, which may wait for a lock.
   */
  #noticeAnswer(): void {
    const now = this.#clock.monotonic();
    if (this.#contactSince === undefined || now - this.#answeredAt > SILENCE_MS) this.#contactSince = now;
    this.#answeredAt = now;
  }

  /**
   * Surveys all streams, then takes and releases what is due. Rejects with `database-unavailable` if the survey fails.
   * Statements that wait for a row in vain are retried at the next survey.
   */
  async look(): Promise<void> {
    const withGaps = [...this.#held.values()].filter(({ gapAt }) => gapAt !== undefined);
    const survey = await this.#incrementLog.survey();
    const now = this.#clock.monotonic();
    this.#noticeAnswer();
    this.#deps.surveyed(survey);
    await this.#dropFenced(survey);
    this.#sayGaps(withGaps);
    await this.#endAtGaps(now);
    await this.#takeFree(survey, now);
    await this.#adoptOrphans(survey);
    await this.#releaseExcess(survey);
    this.#retireFinished();
  }

  /** Reads new records while there is room. True if there are more. Rejects with `database-unavailable`. */
  async readOn(): Promise<boolean> {
    const incrementLog = this.#incrementLog;
    const reading = [...this.#held.values()].filter(({ gapAt }) => gapAt === undefined && hasRoom(this.#deps));
    if (reading.length === 0) return false;
    const positions = reading.map(({ stream, readLsn }) => ({ stream, lsn: readLsn }));
    const share = Math.floor(READ_RECORDS_OF_ALL / reading.length);
    const recordsMax = Math.max(READ_RECORDS_MIN, Math.min(READ_RECORDS_MAX, share));
    const found = await incrementLog.read(positions, recordsMax);
    // An answer of a broker tells nothing about heartbeats.
    if (incrementLog.isInDatabase) this.#noticeAnswer();
    let isMore = false;
    for (const held of reading) {
      if (this.#held.get(held.stream) !== held) continue;
      const records = found.get(held.stream) ?? [];
      this.#apply(held, records);
      held.isReadToEnd = records.length < recordsMax;
      const gapAt = incrementLog.gaps?.gapBefore(held.stream);
      if (gapAt !== undefined && held.gapAt === undefined) this.#noteGap(held, gapAt);
      if (!held.isReadToEnd) isMore = true;
      // An outage or a takeover has already delayed these increments. A failed flusher retries by itself.
      if (held.isReadToEnd && held.isAdopted) held.flusher.flushNow().catch(ignore);
    }
    this.#retireFinished();
    return isMore;
  }

  committed(stream: string, at: Checkpoint): void {
    this.#incrementLog.committed(stream, at);
  }

  /** Flushes what was read. Retires streams that have ended, and releases the others. */
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
        this.#noteGap(held, lsn);
        break;
      }
      increments += held.pendingSums.apply(lsn, entries, 0, entries.length, databaseTime, acceptedAt);
      held.readLsn = lsn;
    }
    if (increments === 0) return;
    this.#deps.moved(held.isOwn ? { recovered: increments } : { adopted: increments });
    held.flusher.noticeApplied();
  }

  /** Drops streams that others have taken or that are retired. */
  async #dropFenced({ streams }: Survey): Promise<void> {
    const byName = new Map(streams.map((survey) => [survey.stream, survey]));
    for (const held of [...this.#held.values()])
      if (byName.get(held.stream)?.epoch !== held.pendingSums.epoch) await this.#drop(held);
  }

  /** Another thread may have taken the stream, and flushed and removed the missing records. Only later surveys tell. */
  #sayGaps(withGaps: readonly HeldStream[]): void {
    for (const held of withGaps) {
      const { stream, readLsn, gapAt, isGapSaid } = held;
      if (isGapSaid || this.#held.get(stream) !== held) continue;
      held.isGapSaid = true;
      const facts = { stream, afterLsn: readLsn, lsn: gapAt };
      const what = `Stream ${stream} lacks records in ${this.#incrementLog.store}; later records are not counted`;
      this.#log('error', facts, what);
    }
  }

  #noteGap(held: HeldStream, gapAt: Lsn): void {
    held.gapAt = gapAt;
    held.gapSince = this.#clock.monotonic();
  }

  /** Ends streams that still lack records: otherwise their writers would acknowledge for ever what nobody counts. */
  async #endAtGaps(now: number): Promise<void> {
    const { gaps } = this.#incrementLog;
    for (const held of [...this.#held.values()]) {
      const { stream, gapAt, gapSince, pendingSums } = held;
      if (gapAt === undefined || now - gapSince < this.#waits.gapMs || !pendingSums.isSettled) continue;
      const at = pendingSums.checkpoint;
      const isEnded = await this.#unlessUnavailable(async () => gaps?.endAtGap(stream, at));
      if (isEnded === undefined || this.#held.get(stream) !== held) continue;
      if (!isEnded) {
        // The records are there by now: whoever takes the stream next reads it again.
        await this.#drop(held);
        await this.#release(held);
        continue;
      }
      const missing = gapAt - at.lsn === 2 ? `LSN ${at.lsn + 1} is` : `LSNs ${at.lsn + 1} to ${gapAt - 1} are`;
      const what =
        `Stream ${stream} is ended at LSN ${at.lsn}: ${missing} missing in ${this.#incrementLog.store}. What follows is counted with ` +
        `\`npm run journal -- skip --stream ${stream} --above ${gapAt - 1}\``;
      this.#log('error', { stream, lsn: at.lsn, missingTo: gapAt - 1 }, what);
      await this.#drop(held);
    }
  }

  async #takeFree(survey: Survey, now: number): Promise<void> {
    const { isWrittenHere, isLeft } = this.#deps;
    const hasContact = this.#contactSince !== undefined && now - this.#contactSince >= this.#waits.contactMs;
    const share = shareOf(survey);
    // Either this thread took it and the reply was lost. Or an earlier thread wrote and flushed it, and is gone despite its
    // last heartbeat.
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

  /** Adopts followed streams whose writers are gone. */
  async #adoptOrphans({ streams }: Survey): Promise<void> {
    const now = this.#clock.monotonic();
    if (this.#contactSince === undefined || now - this.#contactSince < this.#waits.contactMs) return;
    for (const survey of streams) {
      const held = this.#held.get(survey.stream);
      if (held === undefined || held.isAdopted || survey.isWritten) continue;
      if (survey.epoch !== held.pendingSums.epoch) continue;
      // The stream is read again under another epoch, from the row's LSN by then.
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
      this.#log('info', facts, isOwn ? 'Finishing an earlier stream' : 'Adopted a stream whose writer is gone');
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
      gapSince: 0,
      isGapSaid: false,
    };
    this.#held.set(stream, held);
    held.flusher.start();
  }

  /** Retires adopted streams that are flushed to their ends. Reading does not wait for it. */
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

  /** Retires the stream if that is due. Undefined: not due, or the database does not answer. False: it has another owner. */
  async #isRetired({ stream, isAdopted, pendingSums, isReadToEnd, gapAt }: HeldStream): Promise<boolean | undefined> {
    if (!isAdopted || !isReadToEnd || gapAt !== undefined || !pendingSums.isSettled) return undefined;
    const at = pendingSums.checkpoint;
    const isRetired = await this.#unlessUnavailable(() => this.#incrementLog.retire(stream, at));
    if (isRetired === true)
      this.#log('info', { stream, lsn: pendingSums.checkpointLsn }, 'Retired a stream; all of it is in counters');
    return isRetired;
  }

  /** Stops flushing a stream. Another thread flushes what is pending. */
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

  /** A statement may wait for a row lock in vain. That is no failure of the journal, and a later survey tries again. */
  async #unlessUnavailable<T>(statement: () => Promise<T>): Promise<T | undefined> {
    try {
      return await statement();
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      this.#log('debug', { err: error }, 'Cannot take, release or retire a stream now; trying again');
      return undefined;
    }
  }
}

/** The share of each flushing thread in the streams that are not flushed by their own writers. */
function shareOf({ streams, flushers }: Survey): number {
  const foreign = streams.filter(({ isSelfFlushed, isOwned }) => !(isSelfFlushed && isOwned)).length;
  return Math.ceil(foreign / Math.max(1, flushers));
}

function ignore(): void {
  // The flusher reports the failure itself.
}
