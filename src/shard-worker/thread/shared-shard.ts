/**
 * One shard with a journal that other servers can reach: the stream that it writes, and the streams of others that it flushes.
 * Shard thread. What a role does is which half of it runs.
 *
 * ```text
 * role      writes a stream   flushes it   flushes streams of others
 * serve     yes               yes          yes
 * ingest    yes               no           no
 * roll-up   no                             yes
 *
 * no stream ──row made──► writing ──another server took it, or a group is in doubt for too long──► no stream
 * ```
 *
 * Each thread begins a new stream, and another one whenever it has lost one. A stream that was left is finished by whoever takes
 * it over, perhaps this thread. While there is no stream nothing is taken, and what was taken under an earlier stream is refused:
 * a thread that slept could otherwise append a request whose idempotency key has been forgotten meanwhile.
 */
import { randomUUID } from 'node:crypto';
import type { Checkpoint, DatabaseTime, Lsn } from '../../core/checkpoint.js';
import type { Clock } from '../../core/clock.js';
import { Episode } from '../../core/episode.js';
import { CounterError, JournalError } from '../../core/errors.js';
import type { Histogram } from '../../core/histogram.js';
import { databaseProblem, type DatabaseProblem } from '../../db/database-problem.js';
import type { RecordBytes } from '../journal/journal.js';
import type { QueueLog, SharedLog, StreamFate, StreamSurvey, StreamWriter } from '../journal/stream-log.js';
import type {
  ControlMessage,
  HotKey,
  PendingAnswer,
  PendingRange,
  SeenCheckpoints,
} from '../protocol/control-messages.js';
import { countIncrements, readUint64, RECORD_HEADER_BYTES, RECORD_OFFSET } from '../protocol/record-layout.js';
import { shardHistogram, STAT, StatsSequence } from '../protocol/stats.js';
import type { EarlyFlush } from './flush/early-flush.js';
import { Flusher, type FlusherDatabase } from './flush/flusher.js';
import type { CommittedFlush } from './flush/range-flush.js';
import { RejectedLog } from './flush/rejected-log.js';
import { isDatabaseUnavailable, type ShardDatabase } from './flush/shard-database.js';
import type { GroupTarget } from './group-commit.js';
import { HotKeys } from './hot-keys.js';
import { IdempotencyWindow, type KnownKey } from './idempotency/idempotency-window.js';
import { PendingSums } from './pending-sums.js';
import { pendingIn, rangeOf, type ShardLog } from './streams/owned-stream.js';
import { ReceivedStreams, type ReceivedStreamsWaits } from './streams/received-streams.js';
import { addTo, countFlush, publishStreams, type CountedStream } from './streams/stream-stats.js';
import { TakenStreams } from './streams/taken-streams.js';

/** How often the thread looks after its streams. */
const ROUND_MS = 1000;
/** While the database is unavailable. */
const RETRY_MS = 300;
const LIFE_INTERVAL_MS = 3000;
/** Records without increments, in place of a sign of life that the database does not take. Lists of subjects must see them in time. */
const BEATS_A_SIGN = 3;
/** How often the writer of a stream asks for its row, and what time it is there. One that does not flush needs its checkpoint. */
const ASK_INTERVAL_MS = 60_000;
const ASK_CHECKPOINT_INTERVAL_MS = 1000;
const WORD_INTERVAL_MS = 60_000;
const READ_INTERVAL_MS = 200;
const READ_INTERVAL_MIN_MS = 20;
const TOUCH_INTERVAL_MS = 15_000;
/** A group may be in doubt for this share of ACK_TIMEOUT_MS: the answer must come in time. */
const DOUBT_SHARE = 0.8;
/** How long a flush request waits for streams that others flush. */
const ROLL_UP_WAIT_MS = 30_000;
const ROLL_UP_LOOK_MS = 100;

/** How long a stop waits for what has become of streams that were left. */
const DECIDE_LAST_MS = 5000;

const NO_ENTRIES = new Uint8Array(0);

/** Most streams that were left whose fate is looked after; beyond them the oldest is forgotten. */
const LEFT_FATES_MAX = 256;

/** The log itself, among the streams whose problems with the database are noted. */
const LOG = 'log';

/** What the server does with increments; see the file's head. */
export type Role = 'serve' | 'ingest' | 'roll-up';

/** Intervals that a simulation shortens. */
export interface SharedShardIntervals {
  readonly roundMs: number;
  readonly retryMs: number;
  readonly lifeMs: number;
  readonly askMs: number;
  readonly wordMs: number;
  readonly readMs: number;
  readonly touchMs: number;
  /** See {@link TakenStreamsDeps.waits}. */
  readonly contactMs?: number;
  readonly freeMaxMs?: number;
  readonly received?: ReceivedStreamsWaits;
}

/** Everything outside of the shard, so that a simulation can replace it. */
export interface SharedShardDeps {
  readonly role: Role;
  /** A queue's: the role is not `serve`. */
  readonly incrementLog: SharedLog | QueueLog;
  readonly database: ShardDatabase;
  readonly clock: Clock;
  readonly stats: Float64Array;
  readonly random: () => number;
  readonly newStreamId?: () => string;
  readonly flushIntervalMs: number;
  readonly earlyFlush: EarlyFlush;
  /** ACK_TIMEOUT_MS. */
  readonly ackTimeoutMs: number;
  /** The server and this shard: streams that they wrote in an earlier run are theirs to finish. */
  readonly node: string;
  readonly shard: number;
  readonly shards: number;
  readonly intervals?: Partial<SharedShardIntervals>;
  readonly tell: (message: ControlMessage) => void;
  /** The shard cannot go on: the thread must end. */
  readonly fail: (error: unknown) => void;
  readonly log: ShardLog;
}

/** The stream that this thread writes. */
interface WrittenStream extends CountedStream {
  readonly writer: StreamWriter;
  readonly epoch: number;
  /** When its row was first seen open, by the database. Records that carry this time or a later one can take idempotent requests. */
  coveredSince: DatabaseTime | undefined;
  /** Undefined where others flush it. */
  readonly flusher: Flusher | undefined;
}

/** Increments that changed their place in the balance since the stats were published. */
interface Counted {
  readonly accepted?: number;
  readonly recovered?: number;
  readonly adopted?: number;
  readonly handedOver?: number;
  readonly lost?: number;
  readonly rejected?: number;
  readonly flush?: CommittedFlush;
}

/** A shard with a shared journal, as group commit and the control port use it. */
export class SharedShard implements GroupTarget {
  readonly #deps: SharedShardDeps;
  readonly #intervals: SharedShardIntervals;
  readonly #stats: Float64Array;
  readonly #sequence: StatsSequence;
  readonly #groupRecords: Histogram;
  readonly #appendSeconds: Histogram;
  readonly #flushSeconds: Histogram;
  readonly #flushKeys: Histogram;
  readonly #hotKeys: HotKeys;
  readonly #window = new IdempotencyWindow();
  readonly #rejectedLog: RejectedLog;
  readonly #taken: TakenStreams | ReceivedStreams | undefined;
  #own: WrittenStream | undefined;
  /** Streams that were left while a flush was under way. Until it has ended, what they hold counts as pending. */
  readonly #ending = new Set<WrittenStream>();
  /** The stream of the group that is being appended, and the time that its records carry. */
  #appendingTo: WrittenStream | undefined;
  #groupTime: DatabaseTime = 0;
  /** The largest time at which this thread has seen the row of a stream of its own open. */
  #time: DatabaseTime = 0;
  /** Streams that this server has written and writes no more: up to which LSN they hold what it acknowledged. */
  readonly #left = new Map<string, Lsn>();
  /** The writers of streams that were left, until it is known whether everything acknowledged is counted. */
  readonly #undecided = new Map<string, StreamWriter>();
  #deciding: Promise<void> | undefined;
  /** Streams that this thread has written and writes no more, until they have ended. */
  readonly #unwritten = new Set<string>();
  /** Streams of earlier runs are known. */
  #hasSurveyed = false;
  #hasBegun = false;
  #state: 'starting' | 'serving' | 'draining' | 'failed' = 'starting';
  #isRefusing = false;
  readonly #unavailable: Episode;
  #refusedGroups = 0;
  readonly #problems = new Map<string, DatabaseProblem>();
  #lifeDueAt = Number.NEGATIVE_INFINITY;
  #askDueAt = Number.NEGATIVE_INFINITY;
  #wordDueAt = Number.NEGATIVE_INFINITY;
  #beatDueAt = Number.NEGATIVE_INFINITY;
  /** The loops that end with the draining, and the one that shows life until the end. */
  #loops: readonly Promise<void>[] = [];
  #lives: Promise<void> = Promise.resolve();
  #isLifeOver = false;
  readonly #pauses = new Set<() => void>();
  #toldRecovered: boolean | undefined;

  constructor(deps: SharedShardDeps) {
    const { role, clock, stats } = deps;
    this.#deps = deps;
    this.#intervals = {
      roundMs: ROUND_MS,
      retryMs: RETRY_MS,
      lifeMs: LIFE_INTERVAL_MS,
      askMs: role === 'ingest' ? ASK_CHECKPOINT_INTERVAL_MS : ASK_INTERVAL_MS,
      wordMs: WORD_INTERVAL_MS,
      readMs: Math.max(READ_INTERVAL_MIN_MS, Math.min(READ_INTERVAL_MS, deps.flushIntervalMs / 2)),
      touchMs: TOUCH_INTERVAL_MS,
      ...deps.intervals,
    };
    this.#stats = stats;
    this.#sequence = new StatsSequence(stats);
    this.#groupRecords = shardHistogram(stats, 'groupRecords');
    this.#appendSeconds = shardHistogram(stats, 'journalSyncSeconds');
    this.#flushSeconds = shardHistogram(stats, 'flushSeconds');
    this.#flushKeys = shardHistogram(stats, 'flushKeys');
    this.#hotKeys = new HotKeys(() => clock.monotonic(), deps.random);
    this.#unavailable = new Episode(clock);
    this.#rejectedLog = new RejectedLog(clock, (fields, message) => {
      deps.log('error', fields, message);
    });
    if (role !== 'ingest') this.#taken = this.#makeTaken();
  }

  get #writes(): boolean {
    return this.#deps.role !== 'roll-up';
  }

  #makeTaken(): TakenStreams | ReceivedStreams {
    const { incrementLog, clock, log, earlyFlush, flushIntervalMs } = this.#deps;
    const common = {
      clock,
      log,
      keysMax: earlyFlush.keysMax,
      bytesMax: earlyFlush.bytesMax,
      surveyed: ({ streams }: { readonly streams: readonly StreamSurvey[] }) => {
        this.#noteSurvey(streams);
      },
      makeFlusher: (pendingSums: PendingSums, fenced: () => Promise<void>) => this.#makeFlusher(pendingSums, fenced),
      pending: () => ({ keys: this.#pendingOfAll('pendingKeys'), bytes: this.#pendingOfAll('pendingBytes') }),
      changed: () => {
        this.#forgetRemovedStreams();
        this.#publish();
        this.#announceStreams();
      },
      read: (increments: number, isOwn: boolean) => {
        this.#publish(isOwn ? { recovered: increments } : { adopted: increments });
      },
      handedOver: (increments: number) => {
        this.#publish({ handedOver: increments });
      },
      fail: (error: unknown) => {
        this.failed(error);
      },
    };
    if (!isReadByPosition(incrementLog))
      return new ReceivedStreams({
        ...common,
        queueLog: incrementLog,
        flushIntervalMs,
        waits: this.#intervals.received,
        isDatabaseAvailable: () => this.#problems.size === 0,
        setAside: (increments) => {
          this.#publish({ adopted: increments, rejected: increments });
        },
      });
    return new TakenStreams({
      ...common,
      incrementLog,
      waits: { contactMs: this.#intervals.contactMs, freeMaxMs: this.#intervals.freeMaxMs },
      // A stream that was begun without its row is flushed like that of another thread.
      isWrittenHere: (stream) => stream === this.#own?.writer.stream && this.#own.flusher !== undefined,
      isLeft: (stream) => this.#left.has(stream) || this.#unwritten.has(stream),
    });
  }

  /** Begins a stream where the database is available. Settles when the shard takes requests, if only to refuse them. */
  async start(): Promise<void> {
    await this.#live();
    if (!this.#problems.has(LOG)) await this.#look();
    if (this.#state === 'starting') this.#state = 'serving';
    this.#announceStreams();
    this.#tellServing();
    const isServing = (): boolean => this.#state === 'serving';
    this.#lives = this.#repeat(
      () => this.#live(),
      () => isServing() || !this.#isLifeOver,
    );
    if (this.#taken === undefined) return;
    this.#loops = [this.#repeat(() => this.#look(), isServing), this.#repeat(() => this.#readOn(), isServing)];
  }

  /** There is nothing to wait for: a start does not retry. */
  endStart(): Promise<void> {
    return Promise.resolve();
  }

  /** A stream is begun apart from requests. */
  open(): undefined {
    return undefined;
  }

  /** Where there is no stream, the journal refuses the request. */
  coversIdempotent(heardTime = this.#time): boolean {
    const own = this.#own;
    if (own === undefined) return this.#hasBegun;
    // What came before the row was seen may carry a time that it does not cover.
    return own.coveredSince !== undefined && heardTime >= own.coveredSince;
  }

  get groupBytesMax(): number | undefined {
    return this.#deps.incrementLog.groupBytesMax;
  }

  isStale(generation: number): boolean {
    return generation !== this.#stats[STAT.generation];
  }

  get heardTime(): DatabaseTime {
    return this.#time;
  }

  append(group: readonly RecordBytes[], heardTime = this.#time): Promise<Lsn> {
    const own = this.#own;
    if (this.#state === 'failed') throw new JournalError('journal-fenced', 'The shard has failed and ends.');
    if (own === undefined || own.writer.isOver) {
      this.#refusedGroups += 1;
      throw new JournalError('journal-unavailable', `The shard has no stream in ${this.#deps.incrementLog.place} now.`);
    }
    this.#appendingTo = own;
    this.#groupTime = heardTime;
    return this.#append(own, group);
  }

  async #append(own: WrittenStream, group: readonly RecordBytes[]): Promise<Lsn> {
    const { clock } = this.#deps;
    const sentAtMs = clock.monotonic();
    try {
      const lsn = await own.writer.append(group, this.#groupTime);
      this.#appendSeconds.observe((clock.monotonic() - sentAtMs) / 1000);
      this.#noticeAvailable();
      return lsn;
    } catch (error) {
      if (error instanceof JournalError && error.code === 'journal-unavailable') this.#refusedGroups += 1;
      throw error;
    } finally {
      if (own.writer.isOver) this.#leave(own);
    }
  }

  apply(group: readonly RecordBytes[], lastLsn: Lsn): void {
    const written = this.#appendingTo as WrittenStream;
    // Others flush it: either that is the role, or the stream was lost while the group was on its way.
    const isHandedOver = written.flusher === undefined || written !== this.#own;
    let increments = 0;
    let lsn = lastLsn - group.length;
    for (const record of group) {
      lsn += 1;
      const applied = isHandedOver
        ? countIncrements(record)
        : written.pendingSums.apply(
            lsn,
            record,
            RECORD_HEADER_BYTES,
            record.length,
            this.#groupTime,
            acceptedAt(record),
          );
      this.#hotKeys.feed(record, applied);
      increments += applied;
    }
    this.#groupRecords.observe(group.length);
    this.#publish({ accepted: increments, handedOver: isHandedOver ? increments : 0 });
    if (!isHandedOver) written.flusher?.noticeApplied();
  }

  holds(hash: number, bytes: Uint8Array, start: number, length: number): boolean {
    return this.#own?.pendingSums.holds(hash, bytes, start, length) === true;
  }

  admitKey(idempotencyKey: string, digest: Uint8Array): KnownKey {
    return this.#window.admit(idempotencyKey, digest);
  }

  lookUpKey(idempotencyKey: string, digest: Uint8Array): KnownKey {
    return this.#window.look(idempotencyKey, digest);
  }

  noticeReplays(requests: number): void {
    addTo(this.#stats, STAT.replays, requests);
  }

  endGroup(durable: boolean): void {
    this.#window.endGroup(durable);
  }

  /** A group in doubt has ended its stream at most, not this shard. */
  failed(error: unknown): void {
    if (error instanceof JournalError && error.code === 'journal-failed') return;
    if (this.#state === 'failed') return;
    this.#state = 'failed';
    this.#deps.fail(error);
  }

  /** The pending sums of keys in all streams, above the checkpoints that a read saw. Null: no stream holds the key. */
  pendingOf(keys: readonly Uint8Array[], seen: SeenCheckpoints): PendingAnswer {
    return pendingIn(this.#flushedHere, keys, seen);
  }

  hotKeys(most: number): readonly HotKey[] {
    return this.#hotKeys.hottest(most);
  }

  /**
   * Commits everything acknowledged before the call. Resolves to the number of keys written. Rejects with `database-unavailable`;
   * where others flush and have not done so within half a minute, with `roll-up-behind`.
   */
  async flush(): Promise<number> {
    const own = this.#own;
    const waitingFor = new Map(this.#left);
    if (own !== undefined && own.flusher === undefined) waitingFor.set(own.writer.stream, own.writer.endLsn);
    const flushers = this.#writes ? [own?.flusher] : this.#flushedHere.map(({ flusher }) => flusher);
    const keys = await Promise.all(flushers.map((flusher) => flusher?.flushNow() ?? Promise.resolve(0)));
    await this.#committed(waitingFor);
    return keys.reduce((total, count) => total + count, 0);
  }

  /** Waits until streams are committed up to LSNs by whoever flushes them. */
  async #committed(streams: Map<string, Lsn>): Promise<void> {
    const { clock, role } = this.#deps;
    const until = clock.monotonic() + ROLL_UP_WAIT_MS;
    for (;;) {
      await this.#forgetCommitted(streams);
      if (streams.size === 0) return;
      if (this.#state !== 'serving' || clock.monotonic() >= until) {
        if (role === 'ingest')
          throw new CounterError(
            'roll-up-behind',
            'No roll-up has flushed what this server acknowledged before; try again.',
          );
        throw new CounterError(
          'database-unavailable',
          'Earlier streams of this server are not flushed yet; try again.',
        );
      }
      await this.#pause(ROLL_UP_LOOK_MS);
    }
  }

  /** Removes streams whose rows have reached their LSNs, or have ended. */
  async #forgetCommitted(streams: Map<string, Lsn>): Promise<void> {
    for (const [stream, lsn] of [...streams]) {
      const row = await this.#deps.incrementLog.ask(stream);
      if (row === undefined || row.lsn >= lsn) streams.delete(stream);
    }
  }

  /** Flushes once more, and leaves the streams so that others find nothing to do, or take over at once. */
  async drain(): Promise<readonly PendingRange[]> {
    const { incrementLog, database, log } = this.#deps;
    this.#state = 'draining';
    for (const end of this.#pauses) end();
    await Promise.all(this.#loops);
    const own = this.#own;
    const left: PendingRange[] = [];
    const isCommitted = (await own?.flusher?.drain()) ?? true;
    if (own !== undefined && !isCommitted) left.push(rangeOf(own.pendingSums));
    await this.#taken?.drain();
    this.#isLifeOver = true;
    for (const end of this.#pauses) end();
    await this.#lives;
    try {
      if (own?.flusher !== undefined && isCommitted)
        await incrementLog.retire(own.writer.stream, own.pendingSums.checkpoint, own.writer.appendEpoch);
      await incrementLog.endLife([incrementLog.flusher, own?.writer.stream].filter((id) => id !== undefined));
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      log('warn', { err: error }, 'Cannot end the streams now; another server finishes them');
    }
    await this.#decideLast();
    this.#publish();
    this.#rejectedLog.close();
    await incrementLog.close();
    await database.close();
    return left;
  }

  /** Runs `step` again and again while `goesOn`; it says how long to wait. */
  async #repeat(step: () => Promise<number>, goesOn: () => boolean): Promise<void> {
    try {
      while (goesOn() && this.#state !== 'failed') {
        const waitMs = await step();
        if (goesOn()) await this.#pause(waitMs);
      }
    } catch (error) {
      this.failed(error);
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        timer.cancel();
        this.#pauses.delete(end);
        resolve();
      };
      const timer = this.#deps.clock.schedule(ms, end);
      this.#pauses.add(end);
    });
  }

  /** Shows life, and looks after the stream that this thread writes. Returns the time until the next time, in ms. */
  async #live(): Promise<number> {
    const { isInDatabase } = this.#deps.incrementLog;
    const { roundMs, retryMs } = this.#intervals;
    if (!isInDatabase) await this.#tendWriter();
    try {
      await this.#showLife();
      if (isInDatabase && this.#isStreamDue) await this.#begin();
      await this.#ask();
      await this.#giveWord();
      this.#beginDeciding();
      this.#setProblem(LOG, undefined);
      if (isInDatabase) this.#noticeAvailable();
      this.#tellServing();
      return !isInDatabase && this.#isStreamDue ? retryMs : roundMs * (0.9 + 0.1 * this.#deps.random());
    } catch (error) {
      this.#noticeFailure(error);
      this.#tellServing();
      return retryMs;
    }
  }

  get #isStreamDue(): boolean {
    return this.#writes && this.#own === undefined && this.#state !== 'draining';
  }

  /** Begins a stream outside of the database; finds out whether it takes records again, and shows life where the database is gone. */
  async #tendWriter(): Promise<void> {
    const own = this.#own;
    try {
      if (this.#isStreamDue) {
        await this.#begin();
        this.#noticeAvailable();
      } else if (own !== undefined && this.#isBeatDue(own)) {
        await this.#beat(own);
      }
    } catch (error) {
      if (own?.writer.isOver === true) this.#leave(own);
      // The writer has said why. A stream in a queue goes on behind a record of unknown outcome.
      else if (!(error instanceof JournalError && error.code === 'journal-failed')) this.#noticeFailure(error);
    }
  }

  #isBeatDue({ writer, coveredSince }: WrittenStream): boolean {
    if (writer.isAppending || writer.isOver || this.#state === 'draining') return false;
    if (this.#isRefusing) return true;
    // Nobody makes the row of a stream that a broker has lost, and without requests only a beat finds that out.
    const isAlone = this.#problems.has(LOG) || coveredSince === undefined;
    return writer.isBeatDue ?? (isAlone && this.#deps.clock.monotonic() >= this.#beatDueAt);
  }

  /** Appends a record without increments. */
  async #beat(own: WrittenStream): Promise<void> {
    const time = this.#time;
    const lsn = await own.writer.beat?.(time);
    if (lsn === undefined) return;
    if (own === this.#own && own.flusher !== undefined) own.pendingSums.apply(lsn, NO_ENTRIES, 0, 0, time);
    this.#beatDueAt = this.#deps.clock.monotonic() + this.#intervals.lifeMs / BEATS_A_SIGN;
    this.#noticeAvailable();
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
      await this.#taken?.look();
      this.#tellServing();
      return roundMs * (0.9 + 0.1 * this.#deps.random());
    } catch (error) {
      this.#noticeFailure(error);
      this.#tellServing();
      return retryMs;
    }
  }

  async #readOn(): Promise<number> {
    try {
      const isMore = await this.#taken?.readOn();
      this.#tellServing();
      if (!this.#writes && isMore !== undefined) this.#noticeReadable();
      return isMore === true ? 0 : this.#intervals.readMs;
    } catch (error) {
      this.#noticeFailure(error);
      return this.#intervals.retryMs;
    }
  }

  async #showLife(): Promise<void> {
    const { incrementLog, clock } = this.#deps;
    if (clock.monotonic() < this.#lifeDueAt) return;
    const own = this.#own;
    await incrementLog.showLife(own === undefined || own.writer.isOver ? [] : [own.writer.stream]);
    // In the round that is nearest to it, not in the first one after it.
    this.#lifeDueAt = clock.monotonic() + this.#intervals.lifeMs - this.#intervals.roundMs / 2;
  }

  /** Begins a stream. After a lost reply the next attempt begins another one, and this one is left. */
  async #begin(): Promise<void> {
    const { incrementLog, role, log, newStreamId = randomUUID } = this.#deps;
    const attempted = newStreamId();
    this.#left.set(attempted, 0);
    const begun = await incrementLog.begin(attempted);
    this.#left.delete(attempted);
    const { stream } = begun;
    const writer = incrementLog.makeWriter(begun, {
      clock: this.#deps.clock,
      doubtMaxMs: DOUBT_SHARE * this.#deps.ackTimeoutMs,
      unavailable: (error) => {
        if (incrementLog.isInDatabase) this.#noticeUnavailable(error);
        else this.#noticeJournalUnavailable(error);
      },
    });
    const pendingSums = new PendingSums(stream, begun);
    const journal = {
      segments: 0,
      get bytes(): number {
        return writer.bytes;
      },
    };
    const own: WrittenStream = {
      writer,
      epoch: begun.epoch,
      journal,
      pendingSums,
      coveredSince: begun.isUnregistered === true ? undefined : begun.time,
      flusher:
        role === 'serve' && begun.isUnregistered !== true
          ? this.#makeFlusher(pendingSums, () => this.#fenced(own))
          : undefined,
    };
    // A first record without increments is in the journal already.
    if (own.flusher !== undefined && writer.endLsn > begun.lsn)
      pendingSums.apply(writer.endLsn, NO_ENTRIES, 0, 0, begun.time);
    this.#time = Math.max(this.#time, begun.time);
    this.#own = own;
    this.#hasBegun = true;
    this.#lifeDueAt = Number.NEGATIVE_INFINITY;
    // Last: from now on batches are opened for this stream.
    addTo(this.#stats, STAT.generation, 1);
    own.flusher?.start();
    this.#publish();
    this.#announceStreams();
    log('info', { stream }, `Began a stream in ${incrementLog.store}`);
  }

  /** Asks for the row of the own stream: whether it is open, what time it is there and, for a role that does not flush, where it is. */
  async #ask(): Promise<void> {
    const { incrementLog, clock } = this.#deps;
    const own = this.#own;
    if (own === undefined || clock.monotonic() < this.#askDueAt) return;
    const row = await incrementLog.ask(own.writer.stream);
    if (own !== this.#own) return;
    if (row === undefined || (own.flusher !== undefined && row.epoch !== own.epoch)) {
      this.#leave(own);
      return;
    }
    this.#time = Math.max(this.#time, row.time);
    if (row.time > 0) own.coveredSince ??= row.time;
    if (own.flusher === undefined) {
      own.writer.noteCheckpoint(row.lsn);
      await this.#forgetCommitted(this.#left);
    }
    this.#askDueAt =
      clock.monotonic() + (own.coveredSince === undefined ? this.#intervals.roundMs : this.#intervals.askMs);
    this.#publish();
  }

  /** Says, once a minute, that everything accepted before is in the log; whoever flushes the stream passes it on. */
  async #giveWord(): Promise<void> {
    const { incrementLog, clock } = this.#deps;
    const own = this.#own;
    if (own === undefined || own.flusher !== undefined || own.writer.isAppending || own.writer.isOver) return;
    if (clock.monotonic() < this.#wordDueAt) return;
    const isGiven = await incrementLog.giveWord(own.writer.stream, own.writer.appendEpoch, this.#time);
    if (own !== this.#own) return;
    // Adopted, and whoever adopted it has not finished it. It would stay open for as long as this writer shows life and is idle.
    if (!isGiven) this.#leave(own);
    this.#wordDueAt = clock.monotonic() + this.#intervals.wordMs;
  }

  /** Streams of an earlier run of this server are its own to finish. They are known after the first look. */
  #noteSurvey(streams: readonly StreamSurvey[]): void {
    const { node, shard, shards } = this.#deps;
    const listed = new Map(streams.map((survey) => [survey.stream, survey]));
    if (!this.#hasSurveyed) {
      for (const survey of streams)
        if (survey.node === node && survey.shard % shards === shard && survey.stream !== this.#own?.writer.stream)
          this.#left.set(survey.stream, Number.POSITIVE_INFINITY);
      this.#hasSurveyed = true;
    }
    for (const [stream, lsn] of this.#left) {
      const survey = listed.get(stream);
      if (survey === undefined || survey.lsn >= lsn) this.#left.delete(stream);
    }
    for (const stream of this.#unwritten) if (!listed.has(stream)) this.#unwritten.delete(stream);
  }

  /** Whether reads see everything that this server has acknowledged. */
  get #isRecovered(): boolean {
    // Reads of a server that does not flush are what is committed.
    if (this.#taken === undefined) return true;
    if (!this.#hasSurveyed) return false;
    return [...this.#left.keys()].every((stream) => this.#taken?.isReadToEnd(stream) === true);
  }

  #makeFlusher(pendingSums: PendingSums, fenced: () => Promise<void>): Flusher {
    const { database, clock, random, flushIntervalMs, earlyFlush, incrementLog } = this.#deps;
    const isOwn = (): boolean => this.#own?.pendingSums === pendingSums;
    const owned: FlusherDatabase = {
      flush: (range) => database.flush(range),
      flushSettingAside: (range) => database.flushSettingAside(range),
      readBack: (stream) => database.readBack(stream),
      look: () => database.look(),
      touch: (stream, at, time) => (isOwn() ? database.touch(stream, at, time) : incrementLog.touch(stream, at)),
    };
    const options = {
      intervalMs: flushIntervalMs,
      ...earlyFlush,
      sync: () => undefined,
      touchTime: () => (isOwn() && this.#own?.writer.isAppending === false ? this.#time : undefined),
      touchIntervalMs: this.#intervals.touchMs,
      random,
    };
    return new Flusher(pendingSums, owned, clock, options, {
      committed: ({ toLsn, acceptedThrough }, flush, ms) => {
        this.#flushSeconds.observe(ms / 1000);
        this.#flushKeys.observe(flush.keys);
        this.#noteSetAside(pendingSums.stream, flush, acceptedThrough);
        if (isOwn()) this.#own?.writer.noteCheckpoint(toLsn);
        if (isReadByPosition(incrementLog))
          incrementLog.committed?.(pendingSums.stream, { epoch: pendingSums.epoch, lsn: toLsn });
        if (this.#taken instanceof ReceivedStreams) this.#taken.committed(pendingSums.stream, toLsn);
        this.#publish({ flush });
      },
      retried: () => {
        addTo(this.#stats, STAT.flushRetries, 1);
      },
      confirmed: () => undefined,
      register: () => Promise.resolve(),
      fenced: async (row) => {
        this.#sayFenced(pendingSums, row);
        await fenced();
        return 'over';
      },
      databaseAvailable: (_, problem) => {
        // A statement of a stream that was removed meanwhile may fail: nobody would notice that the database is back.
        const isFlushedHere = this.#flushedHere.some((flushed) => flushed.pendingSums === pendingSums);
        if (isFlushedHere) this.#setProblem(pendingSums.stream, problem);
        this.#publish();
      },
      failed: (error) => {
        this.failed(error);
      },
    });
  }

  #sayFenced({ stream, checkpoint }: PendingSums, row: Checkpoint | undefined): void {
    addTo(this.#stats, STAT.fenced, 1);
    const facts = { stream, had: checkpoint, found: row ?? null };
    this.#deps.log('warn', facts, `Another server flushes stream ${stream} now; this one stops to`);
  }

  #noteSetAside(stream: string, { rejected, rejectedKeys, uncovered }: CommittedFlush, time: DatabaseTime): void {
    if (rejectedKeys !== undefined) this.#rejectedLog.note(rejected, rejectedKeys);
    const { requests, increments } = uncovered;
    if (requests === 0) return;
    this.#deps.log(
      'error',
      { stream, requests, increments, acceptedThrough: time },
      `${requests} idempotent requests of stream ${stream} with ${increments} increments could not be checked against ` +
        'IDEMPOTENCY_WINDOW_HOURS any more; they are kept in rejected_increments and not counted. List them with ' +
        '`npm run journal -- rejected`',
    );
  }

  /** The flushes of the own stream were taken over, and so it must be over for its writer, too. */
  #fenced(own: WrittenStream): Promise<void> {
    this.#leave(own);
    return Promise.resolve();
  }

  /** Writes the stream no more. What it holds is flushed by whoever takes it; a later round begins another stream. */
  #leave(own: WrittenStream): void {
    own.writer.end('its rows are no longer those that this server left');
    const { stream, endLsn, lostAfterLsn } = own.writer;
    // Also where it was left before a group that was under way turned out to be in the log.
    this.#left.set(stream, endLsn);
    // No survey tells when one without a row has ended.
    if (own.coveredSince !== undefined) this.#unwritten.add(stream);
    if (this.#own !== own) return;
    this.#own = undefined;
    // A failover may have taken back what it holds, whether or not this thread finds that out.
    this.#window.clear();
    const isUndecided = this.#deps.incrementLog.fateOf !== undefined;
    if (isUndecided) this.#noteUndecided(own.writer);
    const lost =
      lostAfterLsn === undefined || isUndecided ? { pending: 0, flushed: 0 } : own.writer.incrementsAfter(lostAfterLsn);
    if (lost.pending + lost.flushed > 0) this.#sayLost(own.writer, lostAfterLsn ?? 0, lost.pending + lost.flushed);
    this.#ending.add(own);
    const ended = own.flusher?.abandon() ?? Promise.resolve();
    ended.then(
      () => {
        this.#ending.delete(own);
        const pending = own.pendingSums.pendingIncrements;
        const lostPending = Math.min(lost.pending, pending);
        this.#forgetRemovedStreams();
        // What was flushed and taken back has come again, and is lost.
        const recovered = lost.flushed;
        this.#publish({ recovered, handedOver: pending - lostPending, lost: lostPending + recovered });
        this.#announceStreams();
      },
      (error: unknown) => {
        this.failed(error);
      },
    );
    const facts = { stream, endLsn };
    const why = own.writer.endedBecause;
    this.#deps.log('warn', facts, `The stream has ended for this server, because ${why}; going on as a new one`);
    this.#publish();
    this.#tellServing();
    for (const end of this.#pauses) end();
  }

  #noteUndecided(writer: StreamWriter): void {
    this.#undecided.set(writer.stream, writer);
    const [oldest] = this.#undecided.keys();
    if (this.#undecided.size > LEFT_FATES_MAX && oldest !== undefined) this.#undecided.delete(oldest);
  }

  /** Beside the round that shows life: a stream may be long, and what it still holds is read. */
  #beginDeciding(): void {
    if (this.#undecided.size === 0) return;
    this.#deciding ??= this.#decideLost()
      .catch((error: unknown) => {
        if (!isDatabaseUnavailable(error)) this.failed(error);
        else this.#deps.log('debug', { err: error }, 'Cannot look now what has become of streams that were left');
      })
      .finally(() => {
        this.#deciding = undefined;
      });
  }

  /** Once more before the end, which does not wait long for it. */
  async #decideLast(): Promise<void> {
    const late = this.#pause(DECIDE_LAST_MS);
    await Promise.race([this.#deciding, late]);
    this.#beginDeciding();
    await Promise.race([this.#deciding, late]);
    for (const end of this.#pauses) end();
    for (const writer of this.#undecided.values()) this.#sayMayBeLost(writer);
    // What is found later is not said again.
    this.#undecided.clear();
  }

  /**
   * Looks what has become of streams that were left. Others may have read and flushed what the journal has lost since, and may still
   * hold it: only the end of a stream tells what is lost.
   */
  async #decideLost(): Promise<void> {
    for (const [stream, writer] of [...this.#undecided]) {
      // A stop has given it up meanwhile.
      if (!this.#undecided.has(stream)) continue;
      const fate = await this.#fateOf(writer);
      if (fate.kind === 'open' || !this.#undecided.delete(stream)) continue;
      // A row that was forgotten had everything.
      if (fate.kind === 'nowhere' && writer.lostAfterLsn === undefined) continue;
      const afterLsn = fate.kind === 'ended' ? fate.lsn : 0;
      if (afterLsn >= writer.endLsn) continue;
      const { pending, flushed } = writer.incrementsAfter(afterLsn);
      const lost = pending + flushed;
      if (lost === 0) continue;
      this.#sayLost(writer, afterLsn, lost);
      // They were handed over when the stream was left, or were flushed and taken back.
      this.#publish({ recovered: lost, lost });
    }
  }

  /** Where the journal does not answer, it is as open as before. */
  async #fateOf({ stream, endLsn }: StreamWriter): Promise<StreamFate> {
    try {
      return (await this.#deps.incrementLog.fateOf?.(stream, endLsn)) ?? { kind: 'open' };
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
      this.#deps.log('debug', { stream, err: error }, 'Cannot look now what has become of a stream that was left');
      return { kind: 'open' };
    }
  }

  /** The journal, or a failover, has taken back what was acknowledged. */
  #sayLost(writer: StreamWriter, afterLsn: Lsn, lost: number): void {
    const facts = { stream: writer.stream, lost, afterLsn, throughLsn: writer.endLsn };
    const { isInDatabase, place } = this.#deps.incrementLog;
    const who = isInDatabase ? 'the database' : place;
    const what = `Acknowledged increments are lost: ${who} has gone back to an earlier state`;
    this.#deps.log('error', facts, what);
  }

  /** This server ends before it can know. */
  #sayMayBeLost(writer: StreamWriter): void {
    const { stream, endLsn, lostAfterLsn } = writer;
    if (lostAfterLsn === undefined || writer.incrementsAfter(lostAfterLsn).pending === 0) return;
    const { place } = this.#deps.incrementLog;
    const what =
      `Acknowledged increments may be lost: ${place} has gone back to an earlier state, and this server stops before ` +
      'it knows what another one has of them';
    this.#deps.log('error', { stream, afterLsn: lostAfterLsn, throughLsn: endLsn }, what);
  }

  get #flushedHere(): readonly { readonly pendingSums: PendingSums; readonly flusher: Flusher }[] {
    const written = [...(this.#own === undefined ? [] : [this.#own]), ...this.#ending];
    const own = written.flatMap(({ pendingSums, flusher }) =>
      flusher === undefined ? [] : [{ pendingSums, flusher }],
    );
    return [...own, ...(this.#taken?.streams ?? [])];
  }

  /** A stream can be removed before it is flushed or touched again. */
  #forgetRemovedStreams(): void {
    const streams = new Set(this.#flushedHere.map(({ pendingSums }) => pendingSums.stream));
    for (const of of this.#problems.keys()) if (of !== LOG && !streams.has(of)) this.#setProblem(of, undefined);
  }

  #pendingOfAll(what: 'pendingKeys' | 'pendingBytes'): number {
    return this.#flushedHere.reduce((total, { pendingSums }) => total + pendingSums[what], 0);
  }

  #noticeUnavailable(error: unknown): void {
    this.#taken?.noticeSilence();
    this.#setProblem(LOG, databaseProblem(error));
    if (this.#writes && this.#deps.incrementLog.isInDatabase) this.#refuse(error);
  }

  /** A journal outside of the database does not answer, or takes nothing. */
  #noticeJournalUnavailable(error: unknown): void {
    if (this.#writes) {
      this.#refuse(error);
      return;
    }
    const line = this.#unavailable.notice();
    if (line === undefined) return;
    const event = line.kind === 'begins' ? 'unavailable' : `still unavailable after ${line.seconds} s`;
    const what = `Journal in ${this.#deps.incrementLog.place} ${event}; nothing is read from it until it answers again`;
    this.#deps.log('warn', { err: error }, what);
  }

  /** A role that does not write has read the journal. */
  #noticeReadable(): void {
    const line = this.#unavailable.end();
    if (line === undefined) return;
    const what = `The journal in ${this.#deps.incrementLog.place} answers again`;
    this.#deps.log('info', { seconds: line.seconds }, what);
  }

  #refuse(error: unknown): void {
    this.#isRefusing = true;
    const line = this.#unavailable.notice(this.#refusedGroups);
    this.#refusedGroups = 0;
    if (line !== undefined) {
      const event = line.kind === 'begins' ? 'unavailable' : `still unavailable after ${line.seconds} s`;
      const { place } = this.#deps.incrementLog;
      const facts = { err: error, refusedGroups: line.since };
      this.#deps.log('warn', facts, `Journal in ${place} ${event}; refusing increments until it takes them again`);
    }
    this.#publish();
  }

  #noticeAvailable(): void {
    if (!this.#isRefusing || this.#own === undefined || this.#own.writer.isInDoubt) return;
    this.#isRefusing = false;
    const line = this.#unavailable.end();
    if (line !== undefined) {
      const facts = { seconds: line.seconds, refusedGroups: line.total + this.#refusedGroups };
      const { place } = this.#deps.incrementLog;
      this.#deps.log('info', facts, `The journal in ${place} takes records again; taking increments`);
    }
    this.#refusedGroups = 0;
    this.#publish();
  }

  /** A shard can use the database where the log and every one of its streams can. */
  #setProblem(of: string, problem: DatabaseProblem | undefined): void {
    const wasAvailable = this.#problems.size === 0;
    const known = this.#problems.get(of)?.cause;
    if (problem === undefined) {
      if (!this.#problems.delete(of) || this.#problems.size > 0) return;
      const pending = this.#flushedHere.reduce((total, { pendingSums }) => total + pendingSums.pendingIncrements, 0);
      this.#deps.tell({ kind: 'database', state: { available: true, pending } });
      return;
    }
    this.#problems.set(of, problem);
    if (wasAvailable || known !== problem.cause)
      this.#deps.tell({ kind: 'database', state: { available: false, problem } });
  }

  #tellServing(): void {
    if (this.#state !== 'serving') return;
    const recovered = this.#isRecovered;
    if (recovered === this.#toldRecovered) return;
    this.#toldRecovered = recovered;
    this.#deps.tell({ kind: 'serving', recovered, recoveredIncrements: this.#stats[STAT.recovered] ?? 0 });
  }

  #announceStreams(): void {
    const streams = this.#flushedHere.map(({ pendingSums }) => pendingSums.stream);
    this.#deps.tell({ kind: 'streams', streams });
  }

  /** Publishes what has changed since the last call, as one change: see `Shard`. */
  #publish({
    accepted = 0,
    recovered = 0,
    adopted = 0,
    handedOver = 0,
    lost = 0,
    rejected = 0,
    flush,
  }: Counted = {}): void {
    const own = this.#own;
    const taken = this.#taken?.streams ?? [];
    this.#sequence.beginChange();
    addTo(this.#stats, STAT.accepted, accepted);
    addTo(this.#stats, STAT.recovered, recovered);
    addTo(this.#stats, STAT.adopted, adopted);
    addTo(this.#stats, STAT.handedOver, handedOver);
    addTo(this.#stats, STAT.lost, lost);
    addTo(this.#stats, STAT.rejected, rejected);
    if (flush !== undefined) countFlush(flush, this.#stats);
    publishStreams([...(own === undefined ? [] : [own]), ...this.#ending, ...taken], 0, this.#stats);
    if (own !== undefined && own.flusher === undefined) {
      const oldest = own.writer.oldestAcceptedAtMs;
      this.#stats[STAT.oldestPendingAtMs] = Number.isFinite(oldest) ? oldest : 0;
    }
    this.#stats[STAT.journalRefused] = this.#writes && (this.#isRefusing || own === undefined) ? 1 : 0;
    this.#sequence.endChange();
  }
}

function isReadByPosition(log: SharedLog | QueueLog): log is SharedLog {
  return 'survey' in log;
}

function isJournalUnavailable(error: unknown): boolean {
  return error instanceof JournalError && error.code === 'journal-unavailable';
}

/** When the HTTP thread made the record, ms since 1970. */
function acceptedAt(record: RecordBytes): number {
  return readUint64(new DataView(record.buffer, record.byteOffset, record.byteLength), RECORD_OFFSET.acceptedAt);
}
