/**
 * The streams of a shard with a shared journal: the one that it writes, and those of others that it flushes. Shard thread. The
 * role decides which half runs.
 *
 * ```text
 * role      writes a stream   flushes it   flushes streams of others
 * serve     yes               yes          yes
 * ingest    yes               no           no
 * roll-up   no                             yes
 * ```
 *
 * Three loops run: one sends heartbeats and tends the written stream, one surveys the streams of others, and one reads these.
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
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

/** Interval of the loops that tend and survey streams. */
const ROUND_MS = 1000;
/** The same while the database is unavailable. */
const RETRY_MS = 300;
const HEARTBEAT_INTERVAL_MS = 3000;
/** How often the writer of a stream reads its row and the database's time. One that does not flush needs its checkpoint. */
const ASK_INTERVAL_MS = 60_000;
const ASK_CHECKPOINT_INTERVAL_MS = 1000;
const WORD_INTERVAL_MS = 60_000;
/** How long the writer of a stream without a row waits for a flusher that makes it, once the database answers. */
const ROW_WAIT_MS = 15_000;
const READ_INTERVAL_MS = 200;
const READ_INTERVAL_MIN_MS = 20;
const TOUCH_INTERVAL_MS = 15_000;
/** How long a flush request waits for streams that others flush. */
const ROLL_UP_WAIT_MS = 30_000;
const ROLL_UP_LOOK_MS = 100;

/** Stands for the journal among the streams whose database problems are noted. */
const JOURNAL = 'journal';

/** What a server does with increments; see the file's head. */
export type Role = 'serve' | 'ingest' | 'roll-up';

/** Intervals that a simulation shortens. */
export interface SharedStreamsIntervals {
  readonly roundMs: number;
  readonly retryMs: number;
  readonly heartbeatMs: number;
  readonly askMs: number;
  readonly wordMs: number;
  readonly readMs: number;
  readonly touchMs: number;
  readonly rowWaitMs: number;
}

/** What the streams need besides the context of the shard. */
export interface SharedStreamsDeps {
  readonly role: Role;
  readonly incrementLog: WriterLog;
  /** Makes the flushed streams of others. Not called for a role that does not flush. */
  readonly makeFlushed: (deps: FlushedStreamsDeps) => FlushedStreams;
  readonly newStreamId?: () => string;
  /** The server and this shard. They finish their streams of earlier runs. */
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
  /** Undefined if the role does not write. */
  readonly #written: WrittenStream | undefined;
  /** Undefined if the role does not flush. */
  readonly #others: FlushedStreams | undefined;
  #heartbeatDueAt = Number.NEGATIVE_INFINITY;
  /** The loops that end with the drain. The loop with heartbeats runs until the end. */
  #loops: readonly Promise<void>[] = [];
  #tending: Promise<void> = Promise.resolve();
  #hasDrained = false;
  #toldRecovered: boolean | undefined;

  constructor(context: ShardContext, deps: SharedStreamsDeps) {
    const { role, incrementLog } = deps;
    const { flushIntervalMs } = context.deps;
    this.#context = context;
    this.#deps = deps;
    this.#intervals = {
      roundMs: ROUND_MS,
      retryMs: RETRY_MS,
      heartbeatMs: HEARTBEAT_INTERVAL_MS,
      askMs: role === 'ingest' ? ASK_CHECKPOINT_INTERVAL_MS : ASK_INTERVAL_MS,
      wordMs: WORD_INTERVAL_MS,
      readMs: Math.max(READ_INTERVAL_MIN_MS, Math.min(READ_INTERVAL_MS, flushIntervalMs / 2)),
      touchMs: TOUCH_INTERVAL_MS,
      rowWaitMs: ROW_WAIT_MS,
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
        this.#heartbeatDueAt = Number.NEGATIVE_INFINITY;
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
      // A stream that was begun without a row is flushed like that of another thread.
      isWrittenHere: (stream) => stream === this.#written?.flushed?.pendingSums.stream || this.#left.isFlushing(stream),
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

  /** Begins a stream if the database is available. Settles when the shard takes requests, if only to refuse them. */
  async start(): Promise<void> {
    const context = this.#context;
    await this.#tend();
    if (context.reports.causeOf(JOURNAL) === undefined) await this.#look();
    context.serve();
    this.#announceStreams();
    this.#tellServing();
    const isServing = (): boolean => context.phase === 'serving';
    this.#tending = this.#repeat(
      () => this.#tend(),
      () => isServing() || !this.#hasDrained,
    );
    if (this.#others === undefined) return;
    this.#loops = [this.#repeat(() => this.#look(), isServing), this.#repeat(() => this.#readOn(), isServing)];
  }

  /** A start does not retry, so there is nothing to wait for. */
  endStart(): Promise<void> {
    return Promise.resolve();
  }

  get flushed(): readonly FlushedStream[] {
    const own = this.#written?.flushed;
    return [...(own === undefined ? [] : [own]), ...this.#left.flushing, ...(this.#others?.streams ?? [])];
  }

  /** The row of a stream shows whether a read is older than its last flush. */
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

  /** A loop begins the stream, not a request. */
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
    if (this.#written === undefined)
      throw new JournalError('journal-unavailable', 'A roll-up takes no increments; send them to another server.');
    return this.#written.append(group, heardTime);
  }

  endAppend(): AppendedGroup {
    return this.#written?.endAppend() ?? { pendingIn: undefined, time: 0 };
  }

  /** A group in doubt may end its stream, but not the shard. */
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

  /** Waits until streams are committed up to their LSNs. */
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
            'No roll-up has flushed the increments of this server yet; try again.',
          );
        throw new CounterError(
          'database-unavailable',
          'Earlier streams of this server are not flushed yet; try again.',
        );
      }
      await pauses.pause(ROLL_UP_LOOK_MS);
    }
  }

  /** Flushes once more. Retires or releases the streams, so that others find nothing to do or can take them at once. */
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
    this.#hasDrained = true;
    pauses.endAll();
    await this.#tending;
    left.push(...(await this.#left.drain()));
    try {
      if (own !== undefined && writer !== undefined && isCommitted)
        await incrementLog.retire(writer.stream, own.pendingSums.checkpoint);
      await incrementLog.endHeartbeats([incrementLog.flusher, writer?.stream].filter((id) => id !== undefined));
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      deps.log('warn', { err: error }, 'Cannot retire the streams now; another server will finish them');
    }
    await this.#left.decideLast();
    this.#publish();
    await incrementLog.close();
    return left;
  }

  /** Repeats `step` while `goesOn`. The step returns how long to wait. */
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

  /** Sends a heartbeat and tends the written stream. Returns the time until the next round, in ms. */
  async #tend(): Promise<number> {
    const { isInDatabase } = this.#deps.incrementLog;
    const { roundMs, retryMs } = this.#intervals;
    if (!isInDatabase) await this.#tendWritten();
    try {
      await this.#sendHeartbeat();
      if (isInDatabase && this.#isStreamDue) await this.#written?.begin();
      await this.#written?.ask();
      await this.#written?.advanceAcceptedThrough();
      this.#left.beginDeciding();
      this.#context.reports.note(JOURNAL, undefined, this.#pendingIncrements);
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

  /**
   * Begins a stream outside of the database. Checks whether its journal takes records again, and sends heartbeats there if the
   * database is unavailable.
   */
  async #tendWritten(): Promise<void> {
    try {
      if (this.#isStreamDue) {
        await this.#written?.begin();
        this.#written?.noticeAvailable();
      } else {
        await this.#written?.heartbeatWhenDue(this.#context.reports.causeOf(JOURNAL) === undefined);
      }
    } catch (error) {
      // The writer has logged the reason. A stream in a queue goes on after a record in doubt.
      if (!(error instanceof JournalError && error.code === 'journal-failed')) this.#noticeFailure(error);
    }
  }

  /** Notes that the database or the journal is unavailable. Other errors end the shard. */
  #noticeFailure(error: unknown): void {
    if (isDatabaseUnavailable(error)) this.#noticeUnavailable(error);
    else if (isJournalUnavailable(error)) this.#noticeJournalUnavailable(error);
    else throw error;
  }

  /** Surveys the streams of others. */
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

  async #sendHeartbeat(): Promise<void> {
    const { clock } = this.#context.deps;
    if (clock.monotonic() < this.#heartbeatDueAt) return;
    const writer = this.#written?.writer;
    await this.#deps.incrementLog.sendHeartbeats(writer === undefined || writer.isOver ? [] : [writer.stream]);
    // Due in the nearest round, not in the next one.
    this.#heartbeatDueAt = clock.monotonic() + this.#intervals.heartbeatMs - this.#intervals.roundMs / 2;
  }

  /** This server finishes its streams of earlier runs. */
  #isOfEarlierRun(survey: StreamSurvey): boolean {
    const { node, shard, shards } = this.#deps;
    return survey.node === node && survey.shard % shards === shard && survey.stream !== this.#written?.writer?.stream;
  }

  /** Whether reads see everything that this server has acknowledged. */
  get #isRecovered(): boolean {
    const taken = this.#others;
    // A server that does not flush only reads committed sums.
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
        log('warn', facts, `No longer flushing stream ${stream} here: ${whyFenced(checkpoint, row)}`);
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
    if (reports.causeOf(JOURNAL) !== problem.cause) reports.note(JOURNAL, problem, this.#pendingIncrements);
    if (this.#written !== undefined && this.#deps.incrementLog.isInDatabase) this.#refuse(error);
  }

  /** A journal outside of the database does not answer or takes nothing. */
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

  /** Streams were added or removed. Removed ones may have open problems. */
  #changed(): void {
    const streams = new Set(this.flushed.map(({ pendingSums }) => pendingSums.stream));
    this.#context.reports.keepOnly(streams.add(JOURNAL), this.#pendingIncrements);
    this.#publish();
    // Before the streams: a read that sees them change asks again, and must know then that sums were handed over.
    this.#tellServing();
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

/** Why a compare-and-set did not match, as part of a sentence. `row`: undefined if it is missing or could not be read. */
function whyFenced(had: Checkpoint, row: Checkpoint | undefined): string {
  if (row === undefined) return 'its row is missing, or cannot be read now';
  if (row.epoch > had.epoch) return 'another server has taken it, or it is retired';
  if (row.epoch === had.epoch && row.lsn > had.lsn) return 'a late flush of this server has moved its row';
  return 'the database has gone back to an earlier state';
}
