/**
 * Streams of a shared journal that this server has stopped writing. Shard thread.
 *
 * ```text
 * attempted ──begun──► written
 *     │                   └──left──► its last flush ends ──► committed to its end, by whoever flushes it ──► it has ended
 *     └──the reply was lost──►          what of it is counted is known, or lost and said ──────────────────►
 * ```
 *
 * Four independent questions stay open about such a stream: whether its last flush has ended, whether everything that this
 * server acknowledged is committed, whether the stream is retired, and whether increments of it are lost.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import type { StreamSurvey, StreamWriter, WriterLog } from '../../journal/stream-log.js';
import type { PendingRange } from '../../protocol/control-messages.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import type { MovedIncrements } from '../shard-balance.js';
import type { ShardContext } from '../shard-context.js';
import { isJournalUnavailable, rangeOf } from './owned-stream.js';
import type { FlushedStream } from './shard-streams.js';

/** How long a stop waits for the fates of left streams. */
const DECIDE_LAST_MS = 5000;

/** Most left streams whose fates are looked up. Beyond that the oldest is forgotten. */
const LEFT_FATES_MAX = 256;

interface LeftStream {
  /** The last LSN that this server acknowledged in it; undefined: all of it is committed. */
  uncommittedTo: Lsn | undefined;
  /** This thread has written it, and it is not retired. */
  isOpen: boolean;
  /** Set until it is known whether everything acknowledged is counted. */
  undecided: StreamWriter | undefined;
}

/** What the left streams need of their shard. */
export interface LeftStreamsDeps {
  readonly context: ShardContext;
  readonly incrementLog: WriterLog;
  readonly publish: (moved: MovedIncrements) => void;
  /** A stream is no longer flushed here. */
  readonly changed: () => void;
}

/** The left streams of one shard. */
export class LeftStreams {
  readonly #deps: LeftStreamsDeps;
  readonly #streams = new Map<string, LeftStream>();
  #flushing: readonly FlushedStream[] = [];
  #deciding: Promise<void> | undefined;
  /** Streams of earlier runs are known. */
  #hasSurveyed = false;

  constructor(deps: LeftStreamsDeps) {
    this.#deps = deps;
  }

  /** Streams whose last flushes have not ended. */
  get flushing(): readonly FlushedStream[] {
    return this.#flushing;
  }

  /** Whether this server has stopped writing the stream. */
  isLeft(stream: string): boolean {
    const left = this.#streams.get(stream);
    return left !== undefined && (left.uncommittedTo !== undefined || left.isOpen);
  }

  /** By stream: the last LSN that this server acknowledged. */
  get uncommitted(): Map<string, Lsn> {
    return new Map(
      [...this.#streams].flatMap(([stream, { uncommittedTo }]) =>
        uncommittedTo === undefined ? [] : [[stream, uncommittedTo]],
      ),
    );
  }

  /** Whether the last flush of the stream has not ended. */
  isFlushing(stream: string): boolean {
    return this.#flushing.some(({ pendingSums }) => pendingSums.stream === stream);
  }

  /** Flushes a last time. Ends at once if the database is unavailable. Returns what is not committed then. */
  async drain(): Promise<readonly PendingRange[]> {
    const drained = this.#flushing.map(async ({ flusher, pendingSums }) =>
      (await flusher.drain()) ? [] : [rangeOf(pendingSums)],
    );
    return (await Promise.all(drained)).flat();
  }

  /** Whether all streams of earlier runs are known, and flushed here or read to their ends. */
  isRecovered(isReadToEnd: (stream: string) => boolean): boolean {
    if (!this.#hasSurveyed) return false;
    return [...this.uncommitted.keys()].every((stream) => this.isFlushing(stream) || isReadToEnd(stream));
  }

  /** A stream is about to be begun. It counts as left and empty if the reply is lost. */
  attempt(stream: string): void {
    this.#note(stream, { uncommittedTo: 0 });
  }

  /** The stream was begun. */
  begun(stream: string): void {
    this.#note(stream, { uncommittedTo: undefined });
  }

  /** Notes the end of a left stream, also when a group in doubt turned out to be in the journal. */
  note(stream: string, endLsn: Lsn, hasRow: boolean): void {
    this.#note(stream, { uncommittedTo: endLsn });
    // Surveys do not list streams without a row.
    if (hasRow) this.#note(stream, { isOpen: true });
  }

  /**
   * This thread stops writing the stream. Says what is lost once the fate of the stream is known. `flushed`: the stream, if it was
   * flushed here. Its sums are flushed until another owner has the row, because the journal may have lost their records.
   */
  leave(writer: StreamWriter, flushed: FlushedStream | undefined): void {
    const { context, incrementLog, publish, changed } = this.#deps;
    if (incrementLog.fates !== undefined) this.#noteUndecided(writer);
    if (flushed === undefined) return;
    this.#flushing = [...this.#flushing, flushed];
    flushed.flusher.finish().then(
      () => {
        this.#flushing = this.#flushing.filter((flushing) => flushing !== flushed);
        publish({ handedOver: flushed.pendingSums.pendingIncrements });
        changed();
      },
      (error: unknown) => {
        context.fail(error);
      },
    );
  }

  /** Updates the streams from a survey. The first survey also adds those of earlier runs, which `isEarlier` names. */
  noteSurvey(streams: readonly StreamSurvey[], isEarlier: (survey: StreamSurvey) => boolean): void {
    const listed = new Map(streams.map((survey) => [survey.stream, survey]));
    if (!this.#hasSurveyed) {
      for (const survey of streams)
        if (isEarlier(survey)) this.#note(survey.stream, { uncommittedTo: Number.POSITIVE_INFINITY });
      this.#hasSurveyed = true;
    }
    for (const [stream, { uncommittedTo }] of [...this.#streams]) {
      const survey = listed.get(stream);
      if (uncommittedTo !== undefined && (survey === undefined || survey.lsn >= uncommittedTo))
        this.#note(stream, { uncommittedTo: undefined });
      if (survey === undefined) this.#note(stream, { isOpen: false });
    }
  }

  /** Removes streams from `streams` whose rows have reached their LSNs or are gone. */
  async removeCommitted(streams: Map<string, Lsn>): Promise<void> {
    for (const [stream, lsn] of [...streams]) {
      const row = await this.#deps.incrementLog.ask(stream);
      if (row === undefined || row.lsn >= lsn) streams.delete(stream);
    }
  }

  /** Forgets streams that are committed by now. For a role without surveys. */
  async forgetCommitted(): Promise<void> {
    for (const stream of this.uncommitted.keys()) {
      const row = await this.#deps.incrementLog.ask(stream);
      // Its end may have been noted anew meanwhile.
      const uncommittedTo = this.#streams.get(stream)?.uncommittedTo;
      if (uncommittedTo !== undefined && (row === undefined || row.lsn >= uncommittedTo))
        this.#note(stream, { uncommittedTo: undefined });
    }
  }

  /** Starts looking up fates, apart from the rounds with heartbeats: it reads streams, which may be long. */
  beginDeciding(): void {
    const { context } = this.#deps;
    if (this.#undecided.length === 0) return;
    this.#deciding ??= this.#decideLost()
      .catch((error: unknown) => {
        if (!isDatabaseUnavailable(error)) context.fail(error);
        else context.deps.log('debug', { err: error }, 'Cannot look up the fates of left streams now; trying again');
      })
      .finally(() => {
        this.#deciding = undefined;
      });
  }

  /** Looks fates up a last time, for a limited time. */
  async decideLast(): Promise<void> {
    const { pauses } = this.#deps.context;
    const late = pauses.pause(DECIDE_LAST_MS);
    await Promise.race([this.#deciding, late]);
    this.beginDeciding();
    await Promise.race([this.#deciding, late]);
    pauses.endAll();
    for (const writer of this.#undecided) {
      this.#sayMayBeLost(writer);
      // Later results are not logged again.
      this.#note(writer.stream, { undecided: undefined });
    }
  }

  #note(stream: string, change: Partial<LeftStream>): void {
    const before = this.#streams.get(stream) ?? { uncommittedTo: undefined, isOpen: false, undecided: undefined };
    const left = { ...before, ...change };
    if (left.uncommittedTo === undefined && !left.isOpen && left.undecided === undefined) this.#streams.delete(stream);
    else this.#streams.set(stream, left);
  }

  get #undecided(): readonly StreamWriter[] {
    return [...this.#streams.values()].flatMap(({ undecided }) => (undecided === undefined ? [] : [undecided]));
  }

  #noteUndecided(writer: StreamWriter): void {
    this.#note(writer.stream, { undecided: writer });
    const [oldest, ...others] = this.#undecided;
    if (others.length >= LEFT_FATES_MAX && oldest !== undefined) this.#note(oldest.stream, { undecided: undefined });
  }

  /**
   * Looks up the fates of left streams. Others may hold or have flushed records that the journal has lost since. Only the end
   * of a stream tells what is lost.
   */
  async #decideLost(): Promise<void> {
    for (const writer of this.#undecided) {
      // A stop may have given up meanwhile. A group under way may move the end of the stream.
      if (!this.#isUndecided(writer) || writer.isAppending) continue;
      const afterLsn = await this.#countedTo(writer);
      if (afterLsn === undefined || !this.#isUndecided(writer)) continue;
      this.#note(writer.stream, { undecided: undefined });
      if (afterLsn >= writer.endLsn) continue;
      const { pending, flushed } = writer.incrementsAfter(afterLsn);
      const lost = pending + flushed;
      if (lost === 0) continue;
      this.#sayLost(writer, afterLsn, lost);
      // They were handed over with the stream, or flushed and undone.
      this.#deps.publish({ recovered: lost, lost });
    }
  }

  #isUndecided({ stream }: StreamWriter): boolean {
    return this.#streams.get(stream)?.undecided !== undefined;
  }

  /** Undefined while the journal does not answer. */
  async #countedTo({ stream, endLsn }: StreamWriter): Promise<Lsn | undefined> {
    const { incrementLog, context } = this.#deps;
    try {
      return await incrementLog.fates?.countedTo(stream, endLsn);
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
      context.deps.log('debug', { stream, err: error }, 'Cannot look up the fate of a left stream now; trying again');
      return undefined;
    }
  }

  /** The journal or a failover has undone acknowledged records. */
  #sayLost(writer: StreamWriter, afterLsn: Lsn, lost: number): void {
    const facts = { stream: writer.stream, lost, afterLsn, throughLsn: writer.endLsn };
    const { isInDatabase, place } = this.#deps.incrementLog;
    const journalCause = isInDatabase ? '' : `${place} has lost their records, or `;
    const what = `Acknowledged increments are lost: ${journalCause}the database has gone back to an earlier state`;
    this.#deps.context.deps.log('error', facts, what);
  }

  /** This server stops before it can know. */
  #sayMayBeLost(writer: StreamWriter): void {
    const { stream, endLsn, lostAfterLsn } = writer;
    if (lostAfterLsn === undefined || writer.incrementsAfter(lostAfterLsn).pending === 0) return;
    const { isInDatabase, place } = this.#deps.incrementLog;
    const why = isInDatabase ? 'the database has gone back to an earlier state' : `${place} has lost their records`;
    const what = `Acknowledged increments may be lost: ${why}, and this server stops before it knows what others hold`;
    this.#deps.context.deps.log('error', { stream, afterLsn: lostAfterLsn, throughLsn: endLsn }, what);
  }
}
