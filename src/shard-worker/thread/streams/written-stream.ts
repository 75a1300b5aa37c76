/**
 * The stream of a shared journal that a thread writes. Shard thread.
 *
 * ```text
 * none ──row made──► writing ──another server took it, or a group is in doubt for too long──► left (`left-streams.ts`), none
 *   └──database unavailable──► writing without a row ──a flusher made it──► writing
 *                                 └──no row for a while, though the database answers──► closed, left, none
 * ```
 *
 * Each thread begins a new stream, and another one after each loss of a stream. Any thread, perhaps this one, takes and
 * finishes a left stream. Without a stream nothing is taken, and batches of an earlier stream are refused. Otherwise a thread
 * that slept could append a request whose idempotency key has been forgotten meanwhile.
 */
import { randomUUID } from 'node:crypto';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import { JournalError } from '../../../core/errors.js';
import type { Histogram } from '../../../core/histogram.js';
import type { RecordBytes } from '../../journal/journal.js';
import type { StreamWriter, WriterLog } from '../../journal/stream-log.js';
import { shardHistogram, STAT } from '../../protocol/stats.js';
import type { Flusher } from '../flush/flusher.js';
import { PendingSums } from '../pending-sums.js';
import type { CountedStream } from '../shard-balance.js';
import type { ShardContext } from '../shard-context.js';
import type { JournalAvailability } from './journal-availability.js';
import type { LeftStreams } from './left-streams.js';
import type { AppendedGroup, FlushedStream } from './shard-streams.js';

/**
 * Heartbeat records in place of each heartbeat that the database does not take, because lists of subjects must see them in
 * time.
 */
const RECORDS_A_HEARTBEAT = 3;
/** A group may be in doubt for this share of ACK_TIMEOUT_MS, so that the answer comes in time. */
const DOUBT_SHARE = 0.8;

const NO_ENTRIES = new Uint8Array(0);

/** The current stream. */
interface OpenStream extends CountedStream {
  readonly writer: StreamWriter;
  readonly epoch: number;
  /**
   * When its row was first seen open, in time of the database. Records with this or a later time can take idempotent requests.
   */
  coveredSince: DatabaseTime | undefined;
  /** When the database first answered that it has no row yet, on the monotonic clock. */
  withoutRowSince: number | undefined;
  /** Undefined if others flush it. */
  readonly flusher: Flusher | undefined;
}

/** What the written stream needs of its shard. */
export interface WrittenStreamDeps {
  readonly context: ShardContext;
  readonly incrementLog: WriterLog;
  readonly intervals: {
    readonly roundMs: number;
    readonly heartbeatMs: number;
    readonly askMs: number;
    readonly wordMs: number;
    readonly rowWaitMs: number;
  };
  readonly availability: JournalAvailability;
  readonly left: LeftStreams;
  readonly newStreamId?: (() => string) | undefined;
  /** The flusher of a stream that this thread flushes itself; undefined: others do. */
  readonly makeFlusher: ((pendingSums: PendingSums, fenced: () => Promise<void>) => Flusher) | undefined;
  /** The database or the journal does not answer or takes nothing. */
  readonly unavailable: (error: unknown) => void;
  /** Pending or refused increments have changed. */
  readonly published: () => void;
  /** A stream was begun. */
  readonly begun: () => void;
  /** The stream was left. */
  readonly ended: () => void;
}

/** The written stream of one shard. */
export class WrittenStream {
  readonly #deps: WrittenStreamDeps;
  readonly #clock: Clock;
  readonly #appendSeconds: Histogram;
  #open: OpenStream | undefined;
  #hasBegun = false;
  /** The stream of the group on its way into the journal and the sums, and the time of its records. */
  #appendingTo: OpenStream | undefined;
  #groupTime: DatabaseTime = 0;
  /** The largest time at which this thread saw its stream's row open. */
  #time: DatabaseTime = 0;
  #askDueAt = Number.NEGATIVE_INFINITY;
  #wordDueAt = Number.NEGATIVE_INFINITY;
  #heartbeatDueAt = Number.NEGATIVE_INFINITY;

  constructor(deps: WrittenStreamDeps) {
    const { clock, stats } = deps.context.deps;
    this.#deps = deps;
    this.#clock = clock;
    this.#appendSeconds = shardHistogram(stats, 'journalSyncSeconds');
  }

  /** What the stream contributes to the stats; undefined without a stream. */
  get counted(): CountedStream | undefined {
    return this.#open;
  }

  get pendingSums(): PendingSums | undefined {
    return this.#open?.pendingSums;
  }

  get writer(): StreamWriter | undefined {
    return this.#open?.writer;
  }

  /** The stream, if this thread flushes it. */
  get flushed(): FlushedStream | undefined {
    return flushedOf(this.#open);
  }

  /** The largest time at which the row of the stream was seen open. */
  get time(): DatabaseTime {
    return this.#time;
  }

  /**
   * The time before which everything that this stream accepted is flushed, if nothing is pending in its sums. Undefined while a
   * group is on its way: a touch would cover its unflushed records.
   */
  get touchTime(): DatabaseTime | undefined {
    const isSettled = this.#appendingTo === undefined && this.#open?.writer.isAppending === false;
    return isSettled ? this.#time : undefined;
  }

  /** The group is in the journal and goes into the sums next. */
  endAppend(): AppendedGroup {
    const appendedTo = this.#appendingTo;
    this.#appendingTo = undefined;
    // Undefined if others flush it: by role, or because the stream was lost meanwhile.
    const pendingIn = appendedTo === this.#open ? flushedOf(appendedTo) : undefined;
    return { pendingIn, time: this.#groupTime };
  }

  /** When the oldest record not known to be flushed was accepted, ms since 1970; undefined if this thread flushes. */
  get oldestAcceptedAtMs(): number | undefined {
    return this.#open?.flusher === undefined ? this.#open?.writer.oldestAcceptedAtMs : undefined;
  }

  /** Without a stream, {@link append} refuses the request. */
  coversIdempotent(heardTime: DatabaseTime): boolean {
    const open = this.#open;
    if (open === undefined) return this.#hasBegun;
    // Earlier requests may carry a time that the row does not cover.
    return open.coveredSince !== undefined && heardTime >= open.coveredSince;
  }

  append(group: readonly RecordBytes[], heardTime: DatabaseTime): Promise<Lsn> {
    const { availability, incrementLog } = this.#deps;
    const open = this.#open;
    if (open === undefined || open.writer.isOver) {
      availability.noticeRefusedGroup();
      throw new JournalError('journal-unavailable', `The shard has no stream in ${incrementLog.place} now.`);
    }
    this.#appendingTo = open;
    this.#groupTime = heardTime;
    return this.#append(open, group);
  }

  async #append(open: OpenStream, group: readonly RecordBytes[]): Promise<Lsn> {
    const sentAtMs = this.#clock.monotonic();
    try {
      const lsn = await open.writer.append(group, this.#groupTime);
      this.#appendSeconds.observe((this.#clock.monotonic() - sentAtMs) / 1000);
      this.noticeAvailable();
      return lsn;
    } catch (error) {
      this.#appendingTo = undefined;
      if (error instanceof JournalError && error.code === 'journal-unavailable')
        this.#deps.availability.noticeRefusedGroup();
      throw error;
    } finally {
      if (open.writer.isOver) this.#leave(open);
    }
  }

  /** Begins a stream. After a lost reply the next attempt begins another one and leaves this one. */
  async begin(): Promise<void> {
    const { incrementLog, context, left, newStreamId = randomUUID, makeFlusher, unavailable } = this.#deps;
    const { ackTimeoutMs, log } = context.deps;
    const attempted = newStreamId();
    left.attempt(attempted);
    const begun = await incrementLog.begin(attempted);
    left.begun(attempted);
    const { stream } = begun;
    const doubtMaxMs = DOUBT_SHARE * ackTimeoutMs;
    const writer = incrementLog.makeWriter(begun, { clock: this.#clock, doubtMaxMs, unavailable });
    const pendingSums = new PendingSums(stream, begun);
    const journal = {
      segments: 0,
      get bytes(): number {
        return writer.bytes;
      },
    };
    const { isRegistered } = begun;
    const fenced = (): Promise<void> => {
      // A stream whose flushes were taken must also end for its writer.
      this.#leave(open);
      return Promise.resolve();
    };
    const open: OpenStream = {
      writer,
      epoch: begun.epoch,
      journal,
      pendingSums,
      coveredSince: isRegistered ? begun.time : undefined,
      withoutRowSince: undefined,
      flusher: isRegistered ? makeFlusher?.(pendingSums, fenced) : undefined,
    };
    // The opening record is already in the journal.
    if (open.flusher !== undefined && writer.endLsn > begun.lsn)
      pendingSums.apply(writer.endLsn, NO_ENTRIES, 0, 0, begun.time);
    this.#time = Math.max(this.#time, begun.time);
    this.#open = open;
    this.#hasBegun = true;
    // Last, because from now on batches are opened for this stream.
    context.balance.count(STAT.generation);
    open.flusher?.start();
    this.#deps.begun();
    log('info', { stream }, `Began a stream in ${incrementLog.store}`);
  }

  /** The journal takes records, if none is in doubt. */
  noticeAvailable(): void {
    const { availability, published } = this.#deps;
    if (!availability.isRefusing || this.#open === undefined || this.#open.writer.isInDoubt) return;
    availability.accept();
    published();
  }

  /** Checks whether the journal takes records again, and sends heartbeats there if the database is unavailable. */
  async heartbeatWhenDue(isDatabaseAvailable: boolean): Promise<void> {
    const open = this.#open;
    if (open === undefined || !this.#isHeartbeatDue(open, isDatabaseAvailable)) return;
    try {
      await this.#appendHeartbeat(open);
    } catch (error) {
      if (!open.writer.isOver) throw error;
      this.#leave(open);
    }
  }

  #isHeartbeatDue({ writer, coveredSince }: OpenStream, isDatabaseAvailable: boolean): boolean {
    const { availability, context } = this.#deps;
    if (writer.isAppending || writer.isOver || context.phase === 'draining') return false;
    if (availability.isRefusing) return true;
    // No row is made for a stream that a broker has lost. Without requests only a heartbeat record notices the loss.
    const isAlone = !isDatabaseAvailable || coveredSince === undefined;
    return writer.isBeatDue(isAlone && this.#clock.monotonic() >= this.#heartbeatDueAt);
  }

  /** Appends a heartbeat record, which has no increments. */
  async #appendHeartbeat(open: OpenStream): Promise<void> {
    const time = this.#time;
    const lsn = await open.writer.beat(time);
    if (open === this.#open && open.flusher !== undefined) open.pendingSums.apply(lsn, NO_ENTRIES, 0, 0, time);
    this.#heartbeatDueAt = this.#clock.monotonic() + this.#deps.intervals.heartbeatMs / RECORDS_A_HEARTBEAT;
    this.noticeAvailable();
  }

  /** Reads the row: whether it is open, the database's time and, for a role that does not flush, the checkpoint. */
  async ask(): Promise<void> {
    const { incrementLog, intervals, left, published } = this.#deps;
    const open = this.#open;
    if (open === undefined || this.#clock.monotonic() < this.#askDueAt) return;
    const row = await incrementLog.ask(open.writer.stream);
    if (open !== this.#open) return;
    if (row === undefined || (open.flusher !== undefined && row.epoch !== open.epoch)) {
      this.#leave(open);
      return;
    }
    this.#time = Math.max(this.#time, row.time);
    if (row.time > 0) open.coveredSince ??= row.time;
    else if (this.#hasWaitedForRow(open)) {
      await this.#leaveWithoutRow(open);
      return;
    }
    if (open.flusher === undefined) {
      open.writer.noteCheckpoint(row.lsn);
      await left.forgetCommitted();
    }
    const waitMs = open.coveredSince === undefined ? intervals.roundMs : intervals.askMs;
    this.#askDueAt = this.#clock.monotonic() + waitMs;
    published();
  }

  #hasWaitedForRow(open: OpenStream): boolean {
    const now = this.#clock.monotonic();
    open.withoutRowSince ??= now;
    return now - open.withoutRowSince >= this.#deps.intervals.rowWaitMs && this.#deps.context.phase !== 'draining';
  }

  /**
   * A flusher may have made the row, and a failover may have undone that: then nobody makes it again, and nobody counts what is
   * appended. The next stream gets its row before its first record.
   */
  async #leaveWithoutRow(open: OpenStream): Promise<void> {
    const { context, incrementLog } = this.#deps;
    const { stream } = open.writer;
    const what =
      'PostgreSQL has no row of the stream, which began while it was unavailable: no server has made it, or a failover has taken it ' +
      'back. Closing the stream';
    context.deps.log('warn', { stream }, what);
    try {
      // As at a clean stop, so that whoever makes its row retires it.
      await incrementLog.endHeartbeats([stream]);
    } finally {
      this.#leave(open);
    }
  }

  /** Notes once a minute that everything accepted before is in the journal. The flusher of the stream passes it on. */
  async advanceAcceptedThrough(): Promise<void> {
    const open = this.#open;
    if (open === undefined || open.flusher !== undefined || open.writer.isAppending || open.writer.isOver) return;
    if (this.#clock.monotonic() < this.#wordDueAt) return;
    const isGiven = await open.writer.advanceAcceptedThrough(this.#time);
    if (open !== this.#open) return;
    // Adopted, but not finished. It would stay open while this writer is idle and sends heartbeats.
    if (!isGiven) this.#leave(open);
    this.#wordDueAt = this.#clock.monotonic() + this.#deps.intervals.wordMs;
  }

  /** Stops writing the stream. Whoever takes it flushes its records. A later round begins another stream. */
  #leave(open: OpenStream): void {
    const { context, left, ended } = this.#deps;
    const { writer, coveredSince } = open;
    writer.end('its rows are no longer those that this server left');
    const { stream, endLsn } = writer;
    left.note(stream, endLsn, coveredSince !== undefined);
    if (this.#open !== open) return;
    this.#open = undefined;
    // A failover may have undone its records, whether this thread notices that or not.
    context.window.clear();
    left.leave(writer, flushedOf(open));
    const why = writer.endedBecause;
    const what = `No longer writing the stream, because ${why}; beginning a new one`;
    context.deps.log('warn', { stream, endLsn }, what);
    ended();
  }
}

function flushedOf(open: OpenStream | undefined): FlushedStream | undefined {
  if (open?.flusher === undefined) return undefined;
  const { pendingSums, journal, flusher } = open;
  return { pendingSums, journal, flusher };
}
