/**
 * Streams of a shared journal that this server has written and writes no more. Shard thread.
 *
 * ```text
 * attempted ──begun──► written
 *     │                   └──left──► its last flush ends ──► committed to its end, by whoever flushes it ──► it has ended
 *     └──the reply was lost──►          what of it is counted is known, or lost and said ──────────────────►
 * ```
 *
 * Four questions stay open of such a stream, and each is answered by itself: whether its last flush has ended, whether everything that
 * this server acknowledged is committed, whether the stream has ended, and whether increments of it are lost.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import type { StreamFate, StreamSurvey, StreamWriter, WriterLog } from '../../journal/stream-log.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import type { MovedIncrements } from '../shard-balance.js';
import type { ShardContext } from '../shard-context.js';
import { isJournalUnavailable } from './owned-stream.js';
import type { FlushedStream } from './shard-streams.js';

/** How long a stop waits for what has become of streams that were left. */
const DECIDE_LAST_MS = 5000;

/** Most streams that were left whose fate is looked after; beyond them the oldest is forgotten. */
const LEFT_FATES_MAX = 256;

interface LeftStream {
  /** Up to which LSN it holds what this server acknowledged; undefined: all of that is committed. */
  uncommittedTo: Lsn | undefined;
  /** This thread has written it, and it has not ended. */
  isOpen: boolean;
  /** Until it is known whether everything acknowledged is counted. */
  undecided: StreamWriter | undefined;
}

/** What it needs of its shard. */
export interface LeftStreamsDeps {
  readonly context: ShardContext;
  readonly incrementLog: WriterLog;
  readonly publish: (moved: MovedIncrements) => void;
  /** A stream is not flushed here any more. */
  readonly changed: () => void;
}

/** What was written and is left. */
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

  /** Whether this server has written the stream and writes it no more. */
  isLeft(stream: string): boolean {
    const left = this.#streams.get(stream);
    return left !== undefined && (left.uncommittedTo !== undefined || left.isOpen);
  }

  /** Up to which LSNs streams hold what this server acknowledged. */
  get uncommitted(): Map<string, Lsn> {
    return new Map(
      [...this.#streams].flatMap(([stream, { uncommittedTo }]) =>
        uncommittedTo === undefined ? [] : [[stream, uncommittedTo]],
      ),
    );
  }

  /** Whether the streams of earlier runs are known, and each is read to its end. */
  isRecovered(isReadToEnd: (stream: string) => boolean): boolean {
    return this.#hasSurveyed && [...this.uncommitted.keys()].every(isReadToEnd);
  }

  /** A stream is about to be begun. If the reply is lost, it is left empty. */
  attempt(stream: string): void {
    this.#note(stream, { uncommittedTo: 0 });
  }

  /** The stream was begun. */
  begun(stream: string): void {
    this.#note(stream, { uncommittedTo: undefined });
  }

  /** Notes how far a stream reaches that is left, also after a group that was under way turned out to be in the journal. */
  note(stream: string, endLsn: Lsn, hasRow: boolean): void {
    this.#note(stream, { uncommittedTo: endLsn });
    // No survey tells when one without a row has ended.
    if (hasRow) this.#note(stream, { isOpen: true });
  }

  /**
   * This thread writes the stream no more. What is lost of it is said now, or when the journal tells what has become of it. `flushed`:
   * the stream, where it was flushed here.
   */
  leave(writer: StreamWriter, flushed: FlushedStream | undefined): void {
    const { context, incrementLog, publish, changed } = this.#deps;
    const { lostAfterLsn } = writer;
    const isUndecided = incrementLog.fates !== undefined;
    if (isUndecided) this.#noteUndecided(writer);
    const lost =
      lostAfterLsn === undefined || isUndecided ? { pending: 0, flushed: 0 } : writer.incrementsAfter(lostAfterLsn);
    if (lost.pending + lost.flushed > 0) this.#sayLost(writer, lostAfterLsn ?? 0, lost.pending + lost.flushed);
    if (flushed !== undefined) this.#flushing = [...this.#flushing, flushed];
    const ended = flushed?.flusher.abandon() ?? Promise.resolve();
    ended.then(
      () => {
        this.#flushing = this.#flushing.filter((flushing) => flushing !== flushed);
        const pending = flushed?.pendingSums.pendingIncrements ?? 0;
        const lostPending = Math.min(lost.pending, pending);
        // What was flushed and taken back has come again, and is lost.
        const recovered = lost.flushed;
        publish({ recovered, handedOver: pending - lostPending, lost: lostPending + recovered });
        changed();
      },
      (error: unknown) => {
        context.fail(error);
      },
    );
  }

  /** All streams were looked at. At the first look those of earlier runs are found, which `isEarlier` names. */
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

  /** Removes streams from `streams` whose rows have reached their LSNs, or have ended. */
  async removeCommitted(streams: Map<string, Lsn>): Promise<void> {
    for (const [stream, lsn] of [...streams]) {
      const row = await this.#deps.incrementLog.ask(stream);
      if (row === undefined || row.lsn >= lsn) streams.delete(stream);
    }
  }

  /** Looks which streams are committed by now. For a role that no survey tells. */
  async forgetCommitted(): Promise<void> {
    for (const stream of this.uncommitted.keys()) {
      const row = await this.#deps.incrementLog.ask(stream);
      // It may have been left further on meanwhile.
      const uncommittedTo = this.#streams.get(stream)?.uncommittedTo;
      if (uncommittedTo !== undefined && (row === undefined || row.lsn >= uncommittedTo))
        this.#note(stream, { uncommittedTo: undefined });
    }
  }

  /** Beside the round that shows life: a stream may be long, and what it still holds is read. */
  beginDeciding(): void {
    const { context } = this.#deps;
    if (this.#undecided.length === 0) return;
    this.#deciding ??= this.#decideLost()
      .catch((error: unknown) => {
        if (!isDatabaseUnavailable(error)) context.fail(error);
        else context.deps.log('debug', { err: error }, 'Cannot look now what has become of streams that were left');
      })
      .finally(() => {
        this.#deciding = undefined;
      });
  }

  /** Once more before the end, which does not wait long for it. */
  async decideLast(): Promise<void> {
    const { pauses } = this.#deps.context;
    const late = pauses.pause(DECIDE_LAST_MS);
    await Promise.race([this.#deciding, late]);
    this.beginDeciding();
    await Promise.race([this.#deciding, late]);
    pauses.endAll();
    for (const writer of this.#undecided) {
      this.#sayMayBeLost(writer);
      // What is found later is not said again.
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
   * Looks what has become of streams that were left. Others may have read and flushed what the journal has lost since, and may still
   * hold it: only the end of a stream tells what is lost.
   */
  async #decideLost(): Promise<void> {
    for (const writer of this.#undecided) {
      // A stop has given it up meanwhile.
      if (!this.#isUndecided(writer)) continue;
      const fate = await this.#fateOf(writer);
      if (fate.kind === 'open' || !this.#isUndecided(writer)) continue;
      this.#note(writer.stream, { undecided: undefined });
      // A row that was forgotten had everything.
      if (fate.kind === 'nowhere' && writer.lostAfterLsn === undefined) continue;
      const afterLsn = fate.kind === 'ended' ? fate.lsn : 0;
      if (afterLsn >= writer.endLsn) continue;
      const { pending, flushed } = writer.incrementsAfter(afterLsn);
      const lost = pending + flushed;
      if (lost === 0) continue;
      this.#sayLost(writer, afterLsn, lost);
      // They were handed over when the stream was left, or were flushed and taken back.
      this.#deps.publish({ recovered: lost, lost });
    }
  }

  #isUndecided({ stream }: StreamWriter): boolean {
    return this.#streams.get(stream)?.undecided !== undefined;
  }

  /** Where the journal does not answer, it is as open as before. */
  async #fateOf({ stream, endLsn }: StreamWriter): Promise<StreamFate> {
    const { incrementLog, context } = this.#deps;
    try {
      return (await incrementLog.fates?.fateOf(stream, endLsn)) ?? { kind: 'open' };
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
      context.deps.log('debug', { stream, err: error }, 'Cannot look now what has become of a stream that was left');
      return { kind: 'open' };
    }
  }

  /** The journal, or a failover, has taken back what was acknowledged. */
  #sayLost(writer: StreamWriter, afterLsn: Lsn, lost: number): void {
    const facts = { stream: writer.stream, lost, afterLsn, throughLsn: writer.endLsn };
    const { isInDatabase, place } = this.#deps.incrementLog;
    const who = isInDatabase ? 'the database' : place;
    const what = `Acknowledged increments are lost: ${who} has gone back to an earlier state`;
    this.#deps.context.deps.log('error', facts, what);
  }

  /** This server ends before it can know. */
  #sayMayBeLost(writer: StreamWriter): void {
    const { stream, endLsn, lostAfterLsn } = writer;
    if (lostAfterLsn === undefined || writer.incrementsAfter(lostAfterLsn).pending === 0) return;
    const { place } = this.#deps.incrementLog;
    const what =
      `Acknowledged increments may be lost: ${place} has gone back to an earlier state, and this server stops before ` +
      'it knows what another one has of them';
    this.#deps.context.deps.log('error', { stream, afterLsn: lostAfterLsn, throughLsn: endLsn }, what);
  }
}
