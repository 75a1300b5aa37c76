/**
 * The nats journal as a shard uses it: records in a broker, rows of their streams in the database. Shard thread.
 *
 * A stream is taken in the database, by an epoch as everywhere, and its records are read after that. Its writer is fenced in the
 * broker, by a message in its subject. So increments are taken while the database is unavailable, and whoever flushes finds
 * streams that the database has never heard of in the broker.
 *
 * ```text
 * a subject the database does not know ──first record is LSN 1──► its row is made ──► taken like any other
 *                                       └──a higher one──► left alone, with an alert
 * the subject of a retired stream ──a record above its checkpoint──► opened again
 *                                  └──nothing but fences, long after──► its row is removed
 * ```
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { LogFields } from '../../../core/logger.js';
import { Turns } from '../../../core/turns.js';
import { END_LIFE, RELEASE_STREAM, SHOW_LIFE_WITHOUT_ROW, TAKE_FLUSHES } from '../../../db/log-statements.js';
import * as nats from '../../../db/nats-statements.js';
import { orUnavailable, type RunStatement, type ShardConnection } from '../../../db/shard-connection.js';
import * as sql from '../../../db/statements.js';
import type { JournalRecord } from '../journal.js';
import type {
  BegunStream,
  LogOwner,
  LogPosition,
  SharedLog,
  StreamFate,
  StreamState,
  StreamSurvey,
  StreamWriter,
  StreamWriterDeps,
  Survey,
  TakenLogStream,
} from '../stream-log.js';
import type { Broker, BrokerMessage } from './broker.js';
import {
  decodedOr,
  emptyRecord,
  encodeMessage,
  isFence,
  type MessageOrigin,
  type RecordMessage,
} from './message-format.js';
import { NatsWriter, sendHello } from './nats-writer.js';
import { PurgeSchedule, type PurgeMark } from './purge-schedule.js';
import { GROWTH_INTERVALS, StreamGrowth, type GrowthIntervals } from './stream-growth.js';
import { StreamReader } from './stream-reader.js';

const ROLLBACK = { text: sql.ROLL_BACK_TAKING };
/** What a thread has in place of an append epoch that ends a stream, or writes it. */
const ENDS = 'fence';
const INTERVALS: NatsLogIntervals = { ...GROWTH_INTERVALS, listMs: 800, checkedMs: 600_000, confirmAfterMs: 1000 };
/** By how much longer the interval between two lists is for each subject. */
const LIST_INTERVAL_A_SUBJECT_MS = 2;
/** Most subjects that one look checks. */
const CHECKS_MAX = 100;
const SCAN_MESSAGES = 16;
const STREAM_NAME = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/;

/** Intervals that a simulation shortens, in ms. */
export interface NatsLogIntervals extends GrowthIntervals {
  /** How often the subjects are listed, beside what the number of subjects adds. Not above the time between two surveys. */
  readonly listMs: number;
  /** How long a subject that needed nothing, and has as many messages as then, is left alone. */
  readonly checkedMs: number;
  /** Without an answer for so long the broker may have restarted, and have lost its last messages: less than a restart takes. */
  readonly confirmAfterMs: number;
}

/** What the log needs. */
export interface NatsLogDeps {
  /** For what is written. */
  readonly appends: Broker;
  /** For what is read, so that neither waits for the other. */
  readonly reads: Broker;
  /** The database, for signs of life and looks at all streams. */
  readonly statements: ShardConnection;
  /** The connection of the flushes, and the turns in which it is used. */
  readonly flushes: ShardConnection;
  readonly flushTurns: Turns;
  readonly clock: Clock;
  readonly owner: LogOwner;
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  /** JOURNAL_KEEP_SECONDS. */
  readonly keepSeconds: number;
  /** IDEMPOTENCY_WINDOW_HOURS. */
  readonly windowHours: number;
  readonly intervals?: NatsLogIntervals;
  readonly log: (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;
}

interface TakenRow {
  readonly epoch: string;
  readonly lsn: string;
  readonly covered_from: number;
}

interface SurveyRow {
  readonly stream: string;
  readonly epoch: string;
  readonly lsn: string;
  readonly owner: string | null;
  readonly node: string;
  readonly shard: number;
  readonly is_owned: boolean;
  readonly is_written: boolean;
  /** Since the last sign of life of the writer; null: there is none. */
  readonly silent_ms: number | null;
  readonly self_flushed: boolean;
  readonly flushers: number;
}

interface KnownRow {
  readonly stream: string;
  readonly epoch: string;
  readonly lsn: string;
  readonly retired: boolean;
  readonly due: boolean;
  readonly old: boolean;
}

/** Looks after a subject. True where nothing is left to do for now. */
type StreamCheck = (stream: string) => Promise<boolean>;

/** A stream whose first message is not acknowledged yet. */
interface Beginning {
  readonly begun: BegunStream;
  readonly hello: Uint8Array;
}

/** The first record of a subject. */
interface FirstRecord extends MessageOrigin {
  readonly lsn: Lsn;
  /** The first message is a fence. What records follow may be copies of counted ones. */
  readonly isBehindFence: boolean;
}

/** What a subject holds. */
interface Content {
  readonly hasRecords: boolean;
  /** Up to where the records follow the checkpoint without a gap; the checkpoint where none does. */
  readonly lastLsn: Lsn;
  /** The first record behind a gap. */
  readonly gapAt: Lsn | undefined;
  readonly firstFence: number | undefined;
}

/** One shard's part of the journal. */
export class NatsLog implements SharedLog {
  readonly place = 'NATS';
  readonly store = 'NATS';
  readonly isInDatabase = false;
  readonly groupBytesMax: number;
  readonly #deps: NatsLogDeps;
  readonly #intervals: NatsLogIntervals;
  readonly #statementTurns = new Turns();
  #beginning: Beginning | undefined;
  /** The stream that this thread writes. */
  #writer: NatsWriter | undefined;
  /** The first message of the stream that was begun last: its sequence, and when it was sent. */
  #hello = { sequence: 0, confirmedAt: 0 };
  /** Streams that this thread has begun without a row. */
  readonly #unregistered = new Set<string>();
  readonly #readers = new Map<string, StreamReader>();
  readonly #purges = new Map<string, PurgeSchedule>();
  readonly #growth: StreamGrowth;
  readonly #checked = new Map<string, { readonly messages: number; readonly at: number }>();
  /** The last subject that a look has checked. */
  #lastChecked: string | undefined;
  #listDueAt = Number.NEGATIVE_INFINITY;
  readonly #listing = new Errand();
  readonly #discovering = new Errand();
  readonly #checking = new Errand();
  readonly #purging = new Errand();
  #isClosing = false;

  constructor(deps: NatsLogDeps) {
    this.#deps = deps;
    this.#intervals = deps.intervals ?? INTERVALS;
    this.#growth = new StreamGrowth(this.#intervals);
    this.groupBytesMax = deps.groupBytesMax;
  }

  get flusher(): string | undefined {
    return this.#deps.owner.flusher;
  }

  /**
   * Makes the row of a new stream, then its first message: LSN 1, without increments. Where the database is unavailable there is no
   * row: whoever reads LSN 1 makes it. Rejects with `journal-unavailable`; the next call then goes on with this stream.
   */
  async begin(stream: string): Promise<BegunStream> {
    this.#beginning ??= await this.#prepare(stream);
    const { begun, hello } = this.#beginning;
    const confirmedAt = this.#deps.clock.monotonic();
    const sequence = await sendHello(this.#deps.appends, begun.stream, hello);
    this.#beginning = undefined;
    if (sequence === 'over')
      throw new JournalError('journal-unavailable', 'The stream was ended before it had begun; beginning another one.');
    if (begun.isUnregistered === true) this.#unregistered.add(begun.stream);
    this.#hello = { sequence, confirmedAt };
    return begun;
  }

  async #prepare(stream: string): Promise<Beginning> {
    const { owner, clock } = this.#deps;
    const begun = await this.#makeOwnRow(stream);
    const hello = encodeMessage([emptyRecord(clock.now())], 1, begun.time, owner);
    return { begun, hello };
  }

  async #makeOwnRow(stream: string): Promise<BegunStream> {
    const { flusher } = this.#deps.owner;
    try {
      const row = await this.#makeRow(stream, this.#deps.owner, flusher, true);
      if (row !== undefined) return { ...takenStream(stream, row, ENDS), appendEpoch: ENDS, time: row.database_time };
    } catch (error) {
      if (!(error instanceof CounterError) || error.code !== 'database-unavailable') throw error;
      this.#deps.log('debug', { err: error, stream }, 'Beginning a stream without its row');
    }
    return { stream, epoch: 0, lsn: 0, coveredFrom: 0, appendEpoch: ENDS, time: 0, isUnregistered: true };
  }

  /** Undefined where the stream has a row. */
  #makeRow(
    stream: string,
    { node, shard }: MessageOrigin,
    flusher: string | undefined,
    isWriter: boolean,
  ): Promise<(TakenRow & { readonly database_time: number }) | undefined> {
    const values = [stream, node, shard, flusher ?? null, isWriter];
    const make = async (run: RunStatement): Promise<(TakenRow & { readonly database_time: number }) | undefined> => {
      await run({ text: sql.BEGIN_TAKING });
      await run({ text: sql.LOCK_PRUNED_BEFORE });
      const rows = await run<TakenRow & { database_time: number }>({ text: nats.MAKE_NATS_STREAM, values });
      await run({ text: sql.COMMIT_TAKING });
      return rows[0];
    };
    return this.#inStatementTurn(() => this.#deps.statements.transaction(make, ROLLBACK));
  }

  makeWriter(begun: BegunStream, deps: StreamWriterDeps): StreamWriter {
    const { stream, appendEpoch } = begun;
    const purges = this.#purgesOf(stream);
    // The first message is LSN 1.
    const end = { stream, appendEpoch, lsn: 1, ...this.#hello };
    const writer = new NatsWriter(end, {
      ...deps,
      broker: this.#deps.appends,
      origin: this.#deps.owner,
      confirmAfterMs: this.#intervals.confirmAfterMs,
      stored: (lsn, sequence) => {
        purges.noteMessage(lsn, sequence);
      },
    });
    this.#writer = writer;
    return writer;
  }

  async ask(stream: string): Promise<StreamState | undefined> {
    return this.#inStatementTurn(async () => {
      const [row] = await this.#deps.statements.run<{
        lsn: string;
        epoch: string;
        open: boolean;
        database_time: number;
      }>({ text: nats.ASK_NATS_STREAM, values: [stream] });
      if (row === undefined) return this.#unregistered.has(stream) ? { epoch: 0, lsn: 0, time: 0 } : undefined;
      this.#unregistered.delete(stream);
      return row.open ? { epoch: Number(row.epoch), lsn: Number(row.lsn), time: row.database_time } : undefined;
    });
  }

  async fateOf(stream: string, endLsn: Lsn): Promise<StreamFate> {
    const [row] = await this.#inStatementTurn(() =>
      this.#deps.statements.run<{ lsn: string; open: boolean }>({ text: nats.ASK_NATS_STREAM, values: [stream] }),
    );
    if (row?.open === true) return { kind: 'open' };
    if (row !== undefined) {
      const lsn = Number(row.lsn);
      if (lsn >= endLsn) return { kind: 'ended', lsn };
      // Whoever finds records behind a fence opens the stream again.
      const content = await this.#contentOf(stream, lsn);
      return typeof content === 'object' && content.lastLsn === lsn ? { kind: 'ended', lsn } : { kind: 'open' };
    }
    const last = await this.#deps.reads.last(stream);
    return { kind: last === undefined ? 'nowhere' : 'open' };
  }

  async showLife(streams: readonly string[]): Promise<void> {
    const values = [this.#deps.owner.flusher ?? null, streams];
    await this.#inStatementTurn(() => this.#deps.statements.run({ text: SHOW_LIFE_WITHOUT_ROW, values }));
  }

  /** Also fences the stream of `ids` that this thread writes. */
  async endLife(ids: readonly string[]): Promise<void> {
    if (this.#writer !== undefined && ids.includes(this.#writer.stream)) await this.#writer.fence();
    await this.#inStatementTurn(() => this.#deps.statements.run({ text: END_LIFE, values: [ids] }));
  }

  /** A record without increments carries the word. */
  async giveWord(stream: string, _: string, time: DatabaseTime): Promise<boolean> {
    const writer = this.#writer;
    if (writer?.stream !== stream || writer.isOver) return false;
    if (time <= writer.lastTime) return true;
    try {
      await writer.beat(time);
      return true;
    } catch (error) {
      if (!writer.isOver) throw error;
      return false;
    }
  }

  async survey(): Promise<Survey> {
    const askedAt = this.#deps.clock.monotonic();
    const rows = await this.#inStatementTurn(() =>
      this.#deps.statements.run<SurveyRow>({ text: nats.SURVEY_NATS_STREAMS }),
    );
    // The row of a stream is made before its first message. Until then it is this thread's, and nobody writes it yet.
    const begun = rows.filter(({ stream }) => stream !== this.#beginning?.begun.stream);
    const now = this.#deps.clock.monotonic();
    const streams = begun.map((row) => this.#surveyOf(row, now));
    this.#forgetReaders(streams);
    // Nobody waits for the broker here.
    if (now >= this.#listDueAt) this.#runList(new Set(streams.map(({ stream }) => stream)));
    this.#runPurge(streams, askedAt);
    return { streams, flushers: rows[0]?.flushers ?? 0 };
  }

  async read(
    positions: readonly LogPosition[],
    recordsMax: number,
  ): Promise<ReadonlyMap<string, readonly JournalRecord[]>> {
    const reading = positions.map(async ({ stream, lsn }): Promise<[string, readonly JournalRecord[]]> => {
      const found = this.#readers.get(stream);
      const reader = found?.lsn === lsn ? found : this.#makeReader(stream, lsn, found?.ends === true);
      return [stream, await reader.read(recordsMax)];
    });
    // A failure waits for the others: a later read of a stream must not meet one that still runs, and takes what that one returns.
    await Promise.allSettled(reading);
    return new Map(await Promise.all(reading));
  }

  take(stream: string, epoch: number, adopt: boolean): Promise<TakenLogStream | undefined> {
    const take = async (run: RunStatement): Promise<TakenLogStream | undefined> => {
      await run({ text: sql.BEGIN_TAKING });
      await run({ text: sql.LOCK_PRUNED_BEFORE });
      const [found] = await run<{ epoch: string | null; retired: boolean }>({
        text: sql.LOCK_CHECKPOINT,
        values: [stream],
      });
      if (found === undefined || found.epoch === null || Number(found.epoch) !== epoch || found.retired) {
        await run(ROLLBACK);
        return undefined;
      }
      const [row] = await run<TakenRow>({ text: TAKE_FLUSHES, values: [stream, this.#deps.owner.flusher] });
      if (row === undefined) throw new TypeError('a row that is locked is gone');
      await run({ text: sql.COMMIT_TAKING });
      // Earlier commits of this thread are no longer its own.
      this.#purges.delete(stream);
      this.#makeReader(stream, Number(row.lsn), adopt);
      return takenStream(stream, row, adopt ? ENDS : undefined);
    };
    return this.#inFlushTurn(() => this.#deps.flushes.transaction(take, ROLLBACK));
  }

  touch(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#isApplied(nats.TOUCH_NATS_STREAM, [stream, at.epoch, at.lsn]);
  }

  release(stream: string, at: Checkpoint): Promise<boolean> {
    this.#readers.delete(stream);
    this.#purges.delete(stream);
    return this.#isApplied(RELEASE_STREAM, [stream, at.epoch, at.lsn]);
  }

  /** Ends this thread's own stream by a fence, another one where its fence was read. */
  async retire(stream: string, at: Checkpoint): Promise<boolean | undefined> {
    const writer = this.#writer;
    if (writer?.stream === stream) {
      if (writer.endLsn !== at.lsn || !(await writer.fence())) return false;
    } else {
      const reader = this.#readers.get(stream);
      if (reader?.hasEnded !== true || reader.lsn !== at.lsn) return undefined;
    }
    const isRetired = await this.#isApplied(nats.RETIRE_NATS_STREAM, [stream, at.epoch, at.lsn]);
    this.#readers.delete(stream);
    this.#purges.delete(stream);
    return isRetired;
  }

  committed(stream: string, at: Checkpoint): void {
    this.#purges.get(stream)?.noteCommitted(at, this.#deps.clock.monotonic());
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    const errands = [this.#listing, this.#discovering, this.#checking, this.#purging];
    await Promise.all(errands.map(({ ended }) => ended));
    await Promise.all([this.#deps.appends.close(), this.#deps.reads.close()]);
    await this.#deps.statements.close();
  }

  #purgesOf(stream: string): PurgeSchedule {
    const found = this.#purges.get(stream) ?? new PurgeSchedule(this.#deps.keepSeconds * 1000);
    this.#purges.set(stream, found);
    return found;
  }

  #makeReader(stream: string, lsn: Lsn, ends: boolean): StreamReader {
    const { reads, log, clock } = this.#deps;
    const purges = this.#purgesOf(stream);
    // What is purged follows from what this reader reads.
    purges.clear();
    const reader = new StreamReader(stream, lsn, ends, {
      broker: reads,
      purges,
      clock,
      confirmAfterMs: this.#intervals.confirmAfterMs,
      unreadable: (sequence, error) => {
        const what = `Stream ${stream} has a message in NATS that cannot be read; what follows it is not counted`;
        log('error', { stream, sequence, err: error }, what);
      },
      unfenced: (error) => {
        log('debug', { stream, err: error }, 'Cannot end a stream in NATS now; trying again');
      },
    });
    this.#readers.set(stream, reader);
    return reader;
  }

  #surveyOf(row: SurveyRow, now: number): StreamSurvey {
    const signAt = row.silent_ms === null ? Number.NEGATIVE_INFINITY : now - row.silent_ms;
    // Whoever has read the end of a stream knows that nobody writes it.
    const isOver = this.#readers.get(row.stream)?.isFenced === true;
    return {
      stream: row.stream,
      epoch: Number(row.epoch),
      lsn: Number(row.lsn),
      owner: row.owner ?? undefined,
      node: row.node,
      shard: row.shard,
      isOwned: row.is_owned,
      isWritten: !isOver && (row.is_written || this.#growth.mayBeWritten(row.stream, signAt, now)),
      isSelfFlushed: row.self_flushed,
    };
  }

  /** Other threads have taken these streams, or have ended them. */
  #forgetReaders(streams: readonly StreamSurvey[]): void {
    const owned = new Set(streams.filter(({ owner }) => owner === this.flusher).map(({ stream }) => stream));
    for (const stream of this.#readers.keys()) if (!owned.has(stream)) this.#readers.delete(stream);
    for (const [stream, purges] of this.#purges)
      if (purges.isEmpty && !owned.has(stream) && this.#writer?.stream !== stream) this.#purges.delete(stream);
  }

  #runPurge(streams: readonly StreamSurvey[], askedAt: number): void {
    this.#purging.run(
      () => this.#purge(streams, askedAt),
      (error) => {
        this.#sayLater(error, 'Cannot remove committed records from NATS now; trying again with later ones');
      },
    );
  }

  /** Removes what was committed long enough before these rows were read, and is committed there. Another round removes the rest. */
  async #purge(streams: readonly StreamSurvey[], askedAt: number): Promise<void> {
    const rows = new Map(streams.map((row) => [row.stream, row]));
    for (const [stream, purges] of [...this.#purges]) {
      if (this.#isClosing) return;
      const due = purges.takeDue(askedAt, rows.get(stream));
      if (due === undefined) continue;
      const isThere = await this.#purgeBelow(stream, due.sequence, (message) => isMarked(message, due));
      // The broker has gone back. What this stream has there by now is purged by whoever ends it.
      if (!isThere) purges.clear();
    }
  }

  /**
   * Removes what is below a message, if that is still the one that `isSame` knows. True where it is. Where the answer took too long
   * nothing is removed: what is committed next takes it along.
   */
  async #purgeBelow(stream: string, sequence: number, isSame: (message: BrokerMessage) => boolean): Promise<boolean> {
    const { clock, reads } = this.#deps;
    const until = clock.monotonic() + this.#intervals.confirmAfterMs;
    const [message] = await reads.read(stream, sequence, 1);
    if (message?.sequence !== sequence || !isSame(message)) return false;
    if (clock.monotonic() < until) await reads.purge(stream, sequence);
    return true;
  }

  /** Looks at the subjects of the broker. */
  #runList(open: ReadonlySet<string>): void {
    this.#listing.run(
      () => this.#lookAtSubjects(open),
      (error) => {
        this.#sayLater(error, 'Cannot look at the subjects in NATS now; trying again');
      },
    );
  }

  #sayLater(error: unknown, message: string): void {
    const isOutage =
      error instanceof JournalError || (error instanceof CounterError && error.code === 'database-unavailable');
    this.#deps.log(isOutage ? 'debug' : 'error', { err: error }, message);
  }

  async #lookAtSubjects(open: ReadonlySet<string>): Promise<void> {
    const { clock } = this.#deps;
    const askedAt = clock.monotonic();
    const subjects = await this.#deps.reads.streams();
    const now = clock.monotonic();
    this.#listDueAt = askedAt + this.#intervals.listMs + LIST_INTERVAL_A_SUBJECT_MS * subjects.size;
    this.#growth.noteList(subjects, open, askedAt);
    const due: string[] = [];
    for (const [stream, messages] of fromNext(subjects, this.#lastChecked)) {
      if (open.has(stream) || !STREAM_NAME.test(stream) || stream === this.#beginning?.begun.stream) continue;
      const checked = this.#checked.get(stream);
      if (checked?.messages === messages && now - checked.at < this.#intervals.checkedMs) continue;
      due.push(stream);
      if (due.length === CHECKS_MAX) break;
    }
    this.#lastChecked = due.at(-1);
    for (const stream of this.#checked.keys()) if (!subjects.has(stream)) this.#checked.delete(stream);
    if (due.length === 0) return;
    const known = await this.#known(due);
    const runChecks = (errand: Errand, streams: readonly string[], check: StreamCheck): void => {
      errand.run(
        () => this.#checkAll(streams, check, subjects, now),
        (error) => {
          this.#sayLater(error, 'Cannot look at streams without an open row in NATS now; trying again');
        },
      );
    };
    const isKnown = (stream: string): boolean => known.has(stream);
    // Nobody flushes a stream before it is found. One that has ended may have many messages, and can wait.
    runChecks(
      this.#discovering,
      due.filter((stream) => !isKnown(stream)),
      (stream) => this.#discover(stream),
    );
    runChecks(this.#checking, due.filter(isKnown), (stream) => this.#check(stream, known.get(stream)));
  }

  async #checkAll(
    streams: readonly string[],
    check: StreamCheck,
    subjects: ReadonlyMap<string, number>,
    now: number,
  ): Promise<void> {
    for (const stream of streams) {
      if (this.#isClosing) return;
      const isDone = await check(stream);
      if (isDone) this.#checked.set(stream, { messages: subjects.get(stream) ?? 0, at: now });
    }
  }

  async #known(streams: readonly string[]): Promise<ReadonlyMap<string, KnownRow>> {
    const { keepSeconds, windowHours, statements } = this.#deps;
    const values = [streams, keepSeconds, windowHours];
    const rows = await this.#inStatementTurn(() => statements.run<KnownRow>({ text: nats.KNOWN_NATS_STREAMS, values }));
    return new Map(rows.map((row) => [row.stream, row]));
  }

  /** Looks after a subject whose stream has ended. True where nothing is left to do for now. */
  async #check(stream: string, known: KnownRow | undefined): Promise<boolean> {
    if (known?.retired !== true || !known.due) return false;
    const checkpoint = Number(known.lsn);
    const content = await this.#contentOf(stream, checkpoint);
    if (content === 'unread') return false;
    if (content === 'unreadable') return true;
    if (content.lastLsn > checkpoint) {
      await this.#reopen(stream, known, content.lastLsn);
      return false;
    }
    if (content.gapAt !== undefined) {
      const what = 'A stream that was finished has a record behind a gap in NATS; it is not counted, and left alone';
      this.#deps.log('error', { stream, checkpoint, lsn: content.gapAt }, what);
      return true;
    }
    // The records are committed, as the row says that was just read.
    if (content.hasRecords) {
      if (content.firstFence === undefined) return true;
      return this.#purgeBelow(stream, content.firstFence, ({ data }) => isFence(data));
    }
    if (known.old) {
      const values = [stream, known.epoch, this.#deps.windowHours];
      await this.#inStatementTurn(() => this.#deps.statements.run({ text: nats.FORGET_NATS_STREAM, values }));
    }
    return true;
  }

  /** Makes the row of a subject whose stream has none. True where nothing is left to do for now. */
  async #discover(stream: string): Promise<boolean> {
    const first = await this.#firstRecord(stream);
    if (first === undefined) return true;
    const { lsn: firstLsn, isBehindFence, node, shard } = first;
    const origin = { node, shard };
    if (firstLsn !== 1 || isBehindFence) {
      // Another thread may have made its row since, and what it has flushed may be removed.
      if ((await this.#known([stream])).has(stream)) return false;
      const what =
        `Stream ${stream} is in NATS from ${isBehindFence ? 'a fence' : `LSN ${firstLsn}`} on and has no row in journal_checkpoints: nobody can tell what ` +
        'of it is counted, and it is left alone';
      this.#deps.log('error', { stream, firstLsn, ...origin }, what);
      return true;
    }
    const made = await this.#makeRow(stream, origin, undefined, false);
    if (made !== undefined)
      this.#deps.log('info', { stream, ...origin }, 'Found a stream in NATS that PostgreSQL had not heard of');
    return false;
  }

  async #reopen(stream: string, { lsn }: KnownRow, lastLsn: Lsn): Promise<void> {
    const reopen = async (run: RunStatement): Promise<boolean> => {
      await run({ text: sql.BEGIN_TAKING });
      await run({ text: sql.LOCK_PRUNED_BEFORE });
      await run({ text: sql.LOCK_CHECKPOINT, values: [stream] });
      const rows = await run({ text: nats.REOPEN_NATS_STREAM, values: [stream] });
      await run({ text: sql.COMMIT_TAKING });
      return rows.length === 1;
    };
    const isOpen = await this.#inFlushTurn(() => this.#deps.flushes.transaction(reopen, ROLLBACK));
    if (!isOpen) return;
    const facts = { stream, checkpoint: Number(lsn), lastLsn };
    this.#deps.log('warn', facts, 'A stream that was finished has records above its end; opened it again');
  }

  /** Undefined where the subject has none that can be read. */
  async #firstRecord(stream: string): Promise<FirstRecord | undefined> {
    let isBehindFence = false;
    for (let from = 1; ;) {
      const [message] = await this.#deps.reads.read(stream, from, 1);
      if (message === undefined) return undefined;
      if (!isFence(message.data)) {
        const group = this.#decoded(stream, message);
        return group && { lsn: group.firstLsn, node: group.node, shard: group.shard, isBehindFence };
      }
      isBehindFence = true;
      from = message.sequence + 1;
    }
  }

  #decoded(stream: string, { sequence, data }: BrokerMessage): RecordMessage | undefined {
    return decodedOr(data, (error) => {
      const what = `The subject of stream ${stream} in NATS has a message that cannot be read; it is left alone`;
      this.#deps.log('error', { stream, sequence, err: error }, what);
    });
  }

  /** `unread`: this log is being closed. `unreadable`: something of the subject cannot be read. */
  async #contentOf(stream: string, checkpoint: Lsn): Promise<Content | 'unread' | 'unreadable'> {
    let hasRecords = false;
    let lastLsn = checkpoint;
    let gapAt: Lsn | undefined;
    let firstFence: number | undefined;
    for (let from = 1; !this.#isClosing;) {
      const messages = await this.#deps.reads.read(stream, from, SCAN_MESSAGES);
      for (const message of messages) {
        from = message.sequence + 1;
        if (isFence(message.data)) {
          firstFence ??= message.sequence;
          continue;
        }
        const group = this.#decoded(stream, message);
        if (group === undefined) return 'unreadable';
        hasRecords = true;
        // Readers stop there.
        if (group.firstLsn > lastLsn + 1) gapAt ??= group.firstLsn;
        else if (gapAt === undefined) lastLsn = Math.max(lastLsn, group.lastLsn);
      }
      if (messages.length < SCAN_MESSAGES) return { hasRecords, lastLsn, gapAt, firstFence };
    }
    return 'unread';
  }

  #isApplied(text: string, values: readonly unknown[]): Promise<boolean> {
    return this.#inFlushTurn(async () => (await this.#deps.flushes.run({ text, values })).length === 1);
  }

  #inStatementTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#statementTurns.run(() => orUnavailable(statements));
  }

  #inFlushTurn<T>(statements: () => Promise<T>): Promise<T> {
    return this.#deps.flushTurns.run(() => orUnavailable(statements));
  }
}

/** All subjects, beginning behind one of them: those that are due for long must not keep a look from all others. */
function fromNext(
  subjects: ReadonlyMap<string, number>,
  last: string | undefined,
): readonly (readonly [string, number])[] {
  const all = [...subjects];
  const next = all.findIndex(([stream]) => stream === last) + 1;
  return [...all.slice(next), ...all.slice(0, next)];
}

/** Whether it is still the message of the mark. */
function isMarked({ sequence, data }: BrokerMessage, mark: PurgeMark): boolean {
  if (sequence !== mark.sequence) return false;
  return isFence(data) ? mark.lsn === undefined : decodedOr(data, () => undefined)?.lastLsn === mark.lsn;
}

function takenStream(stream: string, row: TakenRow, appendEpoch: string | undefined): TakenLogStream {
  const { epoch, lsn, covered_from: coveredFrom } = row;
  return { stream, epoch: Number(epoch), lsn: Number(lsn), coveredFrom, appendEpoch };
}

/** Work that nobody waits for, once at a time. */
class Errand {
  #ended: Promise<void> | undefined;

  get ended(): Promise<void> {
    return this.#ended ?? Promise.resolve();
  }

  run(work: () => Promise<void>, failed: (error: unknown) => void): void {
    this.#ended ??= work()
      .catch(failed)
      .finally(() => {
        this.#ended = undefined;
      });
  }
}
