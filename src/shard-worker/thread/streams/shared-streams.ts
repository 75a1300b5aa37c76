/**
 * The streams of a shard whose journal other servers can reach: the one that it writes, and those of others that it flushes. Shard
 * thread. What a role does is which half of it runs.
 *
 * ```text
 * role      writes a stream   flushes it   flushes streams of others
 * serve     yes               yes          yes
 * ingest    yes               no           no
 * roll-up   no                             yes
 * ```
 *
 * Three loops run: one shows life and looks after the written stream, one looks for streams of others, and one reads these.
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import { databaseProblem } from '../../../db/database-problem.js';
import type { RecordBytes } from '../../journal/journal.js';
import type { StreamSurvey, WriterLog } from '../../journal/stream-log.js';
import type { PendingRange } from '../../protocol/control-messages.js';
import { STAT } from '../../protocol/stats.js';
import type { Flusher, FlusherDatabase } from '../flush/flusher.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import type { PendingSums } from '../pending-sums.js';
import { publishStreams, type MovedIncrements } from '../shard-balance.js';
import type { ShardContext } from '../shard-context.js';
import type { FlushedStreams, FlushedStreamsDeps } from './flushed-streams.js';
import { JournalAvailability } from './journal-availability.js';
import { LeftStreams } from './left-streams.js';
import { makeFlusher } from './make-flusher.js';
import { isJournalUnavailable, pendingOfAll, rangeOf } from './owned-stream.js';
import type { AppendedGroup, FlushedStream, ShardStreams } from './shard-streams.js';
import { WrittenStream } from './written-stream.js';

/** How often the thread looks after its streams. */
const ROUND_MS = 1000;
/** While the database is unavailable. */
const RETRY_MS = 300;
const LIFE_INTERVAL_MS = 3000;
/** How often the writer of a stream asks for its row, and what time it is there. One that does not flush needs its checkpoint. */
const ASK_INTERVAL_MS = 60_000;
const ASK_CHECKPOINT_INTERVAL_MS = 1000;
const WORD_INTERVAL_MS = 60_000;
const READ_INTERVAL_MS = 200;
const READ_INTERVAL_MIN_MS = 20;
const TOUCH_INTERVAL_MS = 15_000;
/** How long a flush request waits for streams that others flush. */
const ROLL_UP_WAIT_MS = 30_000;
const ROLL_UP_LOOK_MS = 100;

/** The log itself, among the streams whose problems with the database are noted. */
const LOG = 'log';

/** What the server does with increments; see the file's head. */
export type Role = 'serve' | 'ingest' | 'roll-up';

/** Intervals that a simulation shortens. */
export interface SharedStreamsIntervals {
  readonly roundMs: number;
  readonly retryMs: number;
  readonly lifeMs: number;
  readonly askMs: number;
  readonly wordMs: number;
  readonly readMs: number;
  readonly touchMs: number;
}

/** What the streams need besides what all parts of a shard share. */
export interface SharedStreamsDeps {
  readonly role: Role;
  readonly incrementLog: WriterLog;
  /** Makes the streams of others that this thread flushes; not used by a role that does not flush. */
  readonly makeFlushed: (deps: FlushedStreamsDeps) => FlushedStreams;
  readonly newStreamId?: () => string;
  /** The server and this shard: streams that they wrote in an earlier run are theirs to finish. */
  readonly node: string;
  readonly shard: number;
  readonly shards: number;
  readonly intervals?: Partial<SharedStreamsIntervals>;
}

/** The streams of a shard with a shared journal. */
export class SharedStreams implements ShardStreams {
  readonly #context: ShardContext;
  readonly #deps: SharedStreamsDeps;
  readonly #intervals: SharedStreamsIntervals;
  readonly #availability: JournalAvailability;
  readonly #left: LeftStreams;
  /** Undefined where the role does not write. */
  readonly #written: WrittenStream | undefined;
  /** Undefined where the role does not flush. */
  readonly #others: FlushedStreams | undefined;
  #lifeDueAt = Number.NEGATIVE_INFINITY;
  /** The loops that end with the draining, and the one that shows life until the end. */
  #loops: readonly Promise<void>[] = [];
  #lives: Promise<void> = Promise.resolve();
  #isLifeOver = false;
  #toldRecovered: boolean | undefined;

  constructor(context: ShardContext, deps: SharedStreamsDeps) {
    const { role, incrementLog } = deps;
    const { flushIntervalMs } = context.deps;
    this.#context = context;
    this.#deps = deps;
    this.#intervals = {
      roundMs: ROUND_MS,
      retryMs: RETRY_MS,
      lifeMs: LIFE_INTERVAL_MS,
      askMs: role === 'ingest' ? ASK_CHECKPOINT_INTERVAL_MS : ASK_INTERVAL_MS,
      wordMs: WORD_INTERVAL_MS,
      readMs: Math.max(READ_INTERVAL_MIN_MS, Math.min(READ_INTERVAL_MS, flushIntervalMs / 2)),
      touchMs: TOUCH_INTERVAL_MS,
      ...deps.intervals,
    };
    this.#availability = new JournalAvailability(context.deps, incrementLog.place);
    this.#left = new LeftStreams({
      context,
      incrementLog,
      publish: (moved) => {
        this.#publish(moved);
      },
      changed: () => {
        this.#changed();
      },
    });
    if (role !== 'roll-up') this.#written = this.#makeWritten();
    if (role !== 'ingest') this.#others = this.#makeFlushed();
  }

  #makeWritten(): WrittenStream {
    const { role, incrementLog, newStreamId } = this.#deps;
    return new WrittenStream({
      context: this.#context,
      intervals: this.#intervals,
      availability: this.#availability,
      left: this.#left,
      ...{ incrementLog, newStreamId },
      makeFlusher: role === 'serve' ? (pendingSums, fenced) => this.#makeFlusher(pendingSums, fenced) : undefined,
      unavailable: (error) => {
        if (incrementLog.isInDatabase) this.#noticeUnavailable(error);
        else this.#noticeJournalUnavailable(error);
      },
      published: () => {
        this.#publish();
      },
      begun: () => {
        this.#lifeDueAt = Number.NEGATIVE_INFINITY;
        this.#publish();
        this.#announceStreams();
      },
      ended: () => {
        this.#publish();
        this.#tellServing();
        this.#context.pauses.endAll();
      },
    });
  }

  #makeFlushed(): FlushedStreams {
    return this.#deps.makeFlushed({
      context: this.#context,
      // A stream that was begun without its row is flushed like that of another thread.
      isWrittenHere: (stream) => stream === this.#written?.flushed?.pendingSums.stream,
      isLeft: (stream) => this.#left.isLeft(stream),
      surveyed: ({ streams }) => {
        this.#left.noteSurvey(streams, (survey) => this.#isOfEarlierRun(survey));
      },
      makeFlusher: (pendingSums, fenced) => this.#makeFlusher(pendingSums, fenced),
      pending: () => ({
        keys: pendingOfAll(this.flushed, 'pendingKeys'),
        bytes: pendingOfAll(this.flushed, 'pendingBytes'),
      }),
      changed: () => {
        this.#changed();
      },
      moved: (moved) => {
        this.#publish(moved);
      },
    });
  }

  /** Begins a stream where the database is available. Settles when the shard takes requests, if only to refuse them. */
  async start(): Promise<void> {
    const context = this.#context;
    await this.#live();
    if (context.reports.causeOf(LOG) === undefined) await this.#look();
    context.serve();
    this.#announceStreams();
    this.#tellServing();
    const isServing = (): boolean => context.phase === 'serving';
    this.#lives = this.#repeat(
      () => this.#live(),
      () => isServing() || !this.#isLifeOver,
    );
    if (this.#others === undefined) return;
    this.#loops = [this.#repeat(() => this.#look(), isServing), this.#repeat(() => this.#readOn(), isServing)];
  }

  /** There is nothing to wait for: a start does not retry. */
  endStart(): Promise<void> {
    return Promise.resolve();
  }

  get flushed(): readonly FlushedStream[] {
    const own = this.#written?.flushed;
    return [...(own === undefined ? [] : [own]), ...this.#left.flushing, ...(this.#others?.streams ?? [])];
  }

  /** The row of a stream says whether a read is older than its last flush. */
  isOlder(): boolean {
    return false;
  }

  get written(): PendingSums | undefined {
    return this.#written?.pendingSums;
  }

  get heardTime(): DatabaseTime {
    return this.#written?.time ?? 0;
  }

  get groupBytesMax(): number {
    return this.#deps.incrementLog.groupBytesMax;
  }

  /** A stream is begun apart from requests. */
  open(): undefined {
    return undefined;
  }

  coversIdempotent(heardTime: DatabaseTime): boolean {
    return this.#written?.coversIdempotent(heardTime) === true;
  }

  isStale(generation: number): boolean {
    return generation !== this.#context.balance.cell(STAT.generation);
  }

  append(group: readonly RecordBytes[], heardTime: DatabaseTime): Promise<Lsn> {
    if (this.#written === undefined) throw new JournalError('journal-unavailable', 'A roll-up takes no increments.');
    return this.#written.append(group, heardTime);
  }

  endAppend(): AppendedGroup {
    return this.#written?.endAppend() ?? { pendingIn: undefined, time: 0 };
  }

  /** A group in doubt has ended its stream at most, not this shard. */
  survives(error: unknown): boolean {
    return error instanceof JournalError && error.code === 'journal-failed';
  }

  async flush(): Promise<number> {
    const own = this.#written?.flushed?.flusher;
    const waitingFor = this.#left.uncommitted;
    const writer = this.#written?.writer;
    if (writer !== undefined && own === undefined) waitingFor.set(writer.stream, writer.endLsn);
    const flushers = this.#written === undefined ? this.flushed.map(({ flusher }) => flusher) : [own];
    const keys = await Promise.all(flushers.map((flusher) => flusher?.flushNow() ?? Promise.resolve(0)));
    await this.#committed(waitingFor);
    return keys.reduce((total, count) => total + count, 0);
  }

  /** Waits until streams are committed up to LSNs by whoever flushes them. */
  async #committed(streams: Map<string, Lsn>): Promise<void> {
    const { pauses, deps } = this.#context;
    const until = deps.clock.monotonic() + ROLL_UP_WAIT_MS;
    for (;;) {
      await this.#left.removeCommitted(streams);
      if (streams.size === 0) return;
      if (this.#context.phase !== 'serving' || deps.clock.monotonic() >= until) {
        if (this.#deps.role === 'ingest')
          throw new CounterError(
            'roll-up-behind',
            'No roll-up has flushed what this server acknowledged before; try again.',
          );
        throw new CounterError(
          'database-unavailable',
          'Earlier streams of this server are not flushed yet; try again.',
        );
      }
      await pauses.pause(ROLL_UP_LOOK_MS);
    }
  }

  /** Flushes once more, and leaves the streams so that others find nothing to do, or take over at once. */
  async drain(): Promise<readonly PendingRange[]> {
    const { incrementLog } = this.#deps;
    const { pauses, deps } = this.#context;
    pauses.endAll();
    await Promise.all(this.#loops);
    const [own, writer] = [this.#written?.flushed, this.#written?.writer];
    const left: PendingRange[] = [];
    const isCommitted = (await own?.flusher.drain()) ?? true;
    if (own !== undefined && !isCommitted) left.push(rangeOf(own.pendingSums));
    await this.#others?.drain();
    this.#isLifeOver = true;
    pauses.endAll();
    await this.#lives;
    try {
      if (own !== undefined && writer !== undefined && isCommitted)
        await incrementLog.retire(writer.stream, own.pendingSums.checkpoint);
      await incrementLog.endHeartbeats([incrementLog.flusher, writer?.stream].filter((id) => id !== undefined));
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      deps.log('warn', { err: error }, 'Cannot end the streams now; another server finishes them');
    }
    await this.#left.decideLast();
    this.#publish();
    await incrementLog.close();
    return left;
  }

  /** Runs `step` again and again while `goesOn`; it says how long to wait. */
  async #repeat(step: () => Promise<number>, goesOn: () => boolean): Promise<void> {
    try {
      while (goesOn() && this.#context.phase !== 'failed') {
        const waitMs = await step();
        if (goesOn()) await this.#context.pauses.pause(waitMs);
      }
    } catch (error) {
      this.#context.fail(error);
    }
  }

  /** Shows life, and looks after the stream that this thread writes. Returns the time until the next time, in ms. */
  async #live(): Promise<number> {
    const { isInDatabase } = this.#deps.incrementLog;
    const { roundMs, retryMs } = this.#intervals;
    if (!isInDatabase) await this.#tendWritten();
    try {
      await this.#sendHeartbeats();
      if (isInDatabase && this.#isStreamDue) await this.#written?.begin();
      await this.#written?.ask();
      await this.#written?.advanceAcceptedThrough();
      this.#left.beginDeciding();
      this.#context.reports.note(LOG, undefined, this.#pendingIncrements);
      if (isInDatabase) this.#written?.noticeAvailable();
      this.#tellServing();
      return !isInDatabase && this.#isStreamDue ? retryMs : roundMs * (0.9 + 0.1 * this.#context.deps.random());
    } catch (error) {
      this.#noticeFailure(error);
      this.#tellServing();
      return retryMs;
    }
  }

  get #isStreamDue(): boolean {
    return this.#written !== undefined && this.#written.writer === undefined && this.#context.phase !== 'draining';
  }

  /** Begins a stream outside of the database; finds out whether it takes records again, and shows life where the database is gone. */
  async #tendWritten(): Promise<void> {
    try {
      if (this.#isStreamDue) {
        await this.#written?.begin();
        this.#written?.noticeAvailable();
      } else {
        await this.#written?.beatWhenDue(this.#context.reports.causeOf(LOG) === undefined);
      }
    } catch (error) {
      // The writer has said why. A stream in a queue goes on behind a record of unknown outcome.
      if (!(error instanceof JournalError && error.code === 'journal-failed')) this.#noticeFailure(error);
    }
  }

  /** The database or the journal is unavailable; anything else ends the shard. */
  #noticeFailure(error: unknown): void {
    if (isDatabaseUnavailable(error)) this.#noticeUnavailable(error);
    else if (isJournalUnavailable(error)) this.#noticeJournalUnavailable(error);
    else throw error;
  }

  /** Looks after the streams of others. */
  async #look(): Promise<number> {
    const { roundMs, retryMs } = this.#intervals;
    try {
      await this.#others?.look();
      this.#tellServing();
      return roundMs * (0.9 + 0.1 * this.#context.deps.random());
    } catch (error) {
      this.#noticeFailure(error);
      this.#tellServing();
      return retryMs;
    }
  }

  async #readOn(): Promise<number> {
    try {
      const isMore = await this.#others?.readOn();
      this.#tellServing();
      if (this.#written === undefined && isMore !== undefined) this.#availability.noticeReadable();
      return isMore === true ? 0 : this.#intervals.readMs;
    } catch (error) {
      this.#noticeFailure(error);
      return this.#intervals.retryMs;
    }
  }

  async #sendHeartbeats(): Promise<void> {
    const { clock } = this.#context.deps;
    if (clock.monotonic() < this.#lifeDueAt) return;
    const writer = this.#written?.writer;
    await this.#deps.incrementLog.sendHeartbeats(writer === undefined || writer.isOver ? [] : [writer.stream]);
    // In the round that is nearest to it, not in the first one after it.
    this.#lifeDueAt = clock.monotonic() + this.#intervals.lifeMs - this.#intervals.roundMs / 2;
  }

  /** Streams of an earlier run of this server are its own to finish. */
  #isOfEarlierRun(survey: StreamSurvey): boolean {
    const { node, shard, shards } = this.#deps;
    return survey.node === node && survey.shard % shards === shard && survey.stream !== this.#written?.writer?.stream;
  }

  /** Whether reads see everything that this server has acknowledged. */
  get #isRecovered(): boolean {
    const taken = this.#others;
    // Reads of a server that does not flush are what is committed.
    return taken === undefined || this.#left.isRecovered((stream) => taken.isReadToEnd(stream));
  }

  #makeFlusher(pendingSums: PendingSums, fenced: () => Promise<void>): Flusher {
    const { incrementLog } = this.#deps;
    const { database, log } = this.#context.deps;
    const ownWriter = (): WrittenStream | undefined =>
      this.#written?.pendingSums === pendingSums ? this.#written : undefined;
    const flushes: FlusherDatabase = {
      flush: (range) => database.flush(range),
      flushSettingAside: (range) => database.flushSettingAside(range),
      readBack: (stream) => database.readBack(stream),
      look: () => database.look(),
      touch: (stream, at, time) =>
        ownWriter() === undefined ? incrementLog.touch(stream, at) : database.touch(stream, at, time),
    };
    return makeFlusher(this.#context, this, pendingSums, {
      database: flushes,
      touchIntervalMs: this.#intervals.touchMs,
      sync: () => undefined,
      touchTime: () => ownWriter()?.touchTime,
      committed: (toLsn, flush) => {
        ownWriter()?.writer?.noteCheckpoint(toLsn);
        this.#others?.committed(pendingSums.stream, { epoch: pendingSums.epoch, lsn: toLsn });
        this.#publish({ flush });
      },
      confirmed: () => undefined,
      register: () => Promise.resolve(),
      fenced: async (row) => {
        const { stream, checkpoint } = pendingSums;
        const facts = { stream, had: checkpoint, found: row ?? null };
        log('warn', facts, `Another server flushes stream ${stream} now; this one stops to`);
        await fenced();
        return 'over';
      },
    });
  }

  get #pendingIncrements(): number {
    return pendingOfAll(this.flushed, 'pendingIncrements');
  }

  #noticeUnavailable(error: unknown): void {
    const { reports } = this.#context;
    const problem = databaseProblem(error);
    this.#others?.noticeSilence();
    if (reports.causeOf(LOG) !== problem.cause) reports.note(LOG, problem, this.#pendingIncrements);
    if (this.#written !== undefined && this.#deps.incrementLog.isInDatabase) this.#refuse(error);
  }

  /** A journal outside of the database does not answer, or takes nothing. */
  #noticeJournalUnavailable(error: unknown): void {
    if (this.#written === undefined) this.#availability.noticeUnreadable(error);
    else this.#refuse(error);
  }

  #refuse(error: unknown): void {
    this.#availability.refuse(error);
    this.#publish();
  }

  #tellServing(): void {
    if (this.#context.phase !== 'serving') return;
    const recovered = this.#isRecovered;
    if (recovered === this.#toldRecovered) return;
    this.#toldRecovered = recovered;
    this.#context.tellServing(recovered);
  }

  /** Streams were added or removed. A stream can be removed before it is flushed or touched again. */
  #changed(): void {
    const streams = new Set(this.flushed.map(({ pendingSums }) => pendingSums.stream));
    this.#context.reports.keepOnly(streams.add(LOG), this.#pendingIncrements);
    this.#publish();
    this.#announceStreams();
  }

  #announceStreams(): void {
    const streams = this.flushed.map(({ pendingSums }) => pendingSums.stream);
    this.#context.deps.tell({ kind: 'streams', streams });
  }

  #publish(moved: MovedIncrements = {}): void {
    this.#context.balance.publish(this, moved);
  }

  publishTo(stats: Float64Array): void {
    const written = this.#written;
    const own = written?.counted;
    const taken = this.#others?.streams ?? [];
    publishStreams([...(own === undefined ? [] : [own]), ...this.#left.flushing, ...taken], 0, stats);
    const oldest = written?.oldestAcceptedAtMs;
    if (oldest !== undefined) stats[STAT.oldestPendingAtMs] = Number.isFinite(oldest) ? oldest : 0;
    const isRefused = written !== undefined && (this.#availability.isRefusing || own === undefined);
    stats[STAT.journalRefused] = isRefused ? 1 : 0;
  }
}
