/**
 * The nats journal: records in a broker, rows of their streams in the database. Shard thread.
 *
 * A flusher takes a stream in the database, by an epoch, and then reads its records. A message in the subject of the stream
 * fences its writer. So the journal accepts increments while the database is unavailable, and flushers find streams without a
 * row in the broker (`subject-discovery.ts`).
 */
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import { JournalError } from '../../../core/errors.js';
import { TOUCH_STREAM } from '../../../db/stream-statements.js';
import type { JournalRecord } from '../journal.js';
import { decodedOr, emptyRecord, encodeMessage } from '../shared/message-format.js';
import type { SharedStreamWriter } from '../shared/shared-stream-writer.js';
import { StreamRows, type StreamRowsDeps, type SurveyedStream } from '../shared/stream-rows.js';
import type {
  BegunStream,
  LogPosition,
  SharedLog,
  StreamFates,
  StreamGaps,
  StreamState,
  StreamSurvey,
  StreamWriter,
  StreamWriterDeps,
  Survey,
  TakenLogStream,
} from '../stream-log.js';
import type { Broker } from './broker.js';
import type { WriteLine } from './errand.js';
import { FENCE, isFence } from './nats-message.js';
import { natsWriter, sendOpeningRecord } from './nats-transport.js';
import { GROWTH_INTERVALS, StreamGrowth, type GrowthIntervals } from './stream-growth.js';
import { StreamReaders } from './stream-readers.js';
import { SubjectScan } from './subject-content.js';
import { SubjectDiscovery, type DiscoveryIntervals } from './subject-discovery.js';
import { SubjectPurge } from './subject-purge.js';

const INTERVALS: NatsJournalIntervals = { ...GROWTH_INTERVALS, listMs: 800, checkedMs: 600_000, confirmAfterMs: 1000 };

/** Intervals that a simulation shortens, in ms. */
export interface NatsJournalIntervals extends GrowthIntervals, DiscoveryIntervals {
  /** After this long without an answer the broker may have restarted and lost its last messages. Less than a restart takes. */
  readonly confirmAfterMs: number;
}

/** Collaborators and limits of the journal. */
export interface NatsJournalDeps extends StreamRowsDeps {
  /** For appends. */
  readonly appends: Broker;
  /** For reads, so that neither waits for the other. */
  readonly reads: Broker;
  readonly clock: Clock;
  /** Most bytes of the records of a group. */
  readonly groupBytesMax: number;
  /** JOURNAL_KEEP_SECONDS. */
  readonly keepSeconds: number;
  /** IDEMPOTENCY_WINDOW_HOURS. */
  readonly windowHours: number;
  readonly intervals?: NatsJournalIntervals;
  readonly log: WriteLine;
}

/** A stream whose opening record is not acknowledged yet. */
interface Beginning {
  readonly begun: BegunStream;
  readonly opening: Uint8Array;
}

/** The nats journal of one shard. */
export class NatsJournal implements SharedLog, StreamFates, StreamGaps {
  readonly place = 'NATS';
  readonly store = 'NATS';
  readonly isInDatabase = false;
  readonly groupBytesMax: number;
  readonly #deps: NatsJournalDeps;
  readonly #rows: StreamRows;
  readonly #purge: SubjectPurge;
  readonly #readers: StreamReaders;
  readonly #scan: SubjectScan;
  readonly #growth: StreamGrowth;
  readonly #discovery: SubjectDiscovery;
  #beginning: Beginning | undefined;
  /** Of the latest stream. */
  #storeId: string;
  /** The opening record of the latest stream: its sequence, and when it was sent. */
  #opening = { sequence: 0, confirmedAt: 0 };
  #writer: SharedStreamWriter | undefined;

  constructor(deps: NatsJournalDeps) {
    const { clock, groupBytesMax, keepSeconds, log, reads, windowHours, intervals = INTERVALS } = deps;
    const { confirmAfterMs } = intervals;
    this.#deps = deps;
    this.#storeId = deps.appends.store.id;
    this.groupBytesMax = groupBytesMax;
    const common = { broker: reads, clock, log };
    const rows = new StreamRows('nats', deps, reads);
    const purge = new SubjectPurge({ ...common, keepSeconds, confirmAfterMs });
    const scan = new SubjectScan(reads, log);
    const growth = new StreamGrowth(intervals);
    this.#rows = rows;
    this.#purge = purge;
    this.#scan = scan;
    this.#growth = growth;
    this.#readers = new StreamReaders({ ...common, purge, confirmAfterMs });
    const parts = { rows, scan, purge, growth };
    this.#discovery = new SubjectDiscovery({ ...common, ...parts, intervals, keepSeconds, windowHours });
  }

  get fates(): StreamFates {
    return this;
  }

  get gaps(): StreamGaps {
    return this;
  }

  get flusher(): string | undefined {
    return this.#rows.flusher;
  }

  /**
   * Makes the row of a new stream, then sends its opening record. Where the database is unavailable, whoever reads the opening
   * record makes the row. Rejects with `journal-unavailable`; the next call then continues with this stream.
   */
  async begin(stream: string): Promise<BegunStream> {
    await this.#connect();
    this.#beginning ??= await this.#prepare(stream);
    const { begun, opening } = this.#beginning;
    const confirmedAt = this.#deps.clock.uptime();
    const sequence = await sendOpeningRecord(this.#deps.appends, begun.stream, opening);
    this.#beginning = undefined;
    if (sequence === 'over')
      throw new JournalError('journal-unavailable', 'The new stream was fenced; beginning another one.');
    this.#opening = { sequence, confirmedAt };
    return begun;
  }

  /** The row of a new stream names the store that gets its records. */
  async #connect(): Promise<void> {
    const { appends, log, reads } = this.#deps;
    const before = this.#storeId;
    await Promise.all([appends.connect(), reads.connect()]);
    const store = appends.store.id;
    if (store !== reads.store.id)
      throw new JournalError('journal-unavailable', `JOURNAL leads to two stores: ${store} and ${reads.store.id}.`);
    this.#storeId = store;
    if (store === before) return;
    const what =
      'The stream of JetStream is another one than before, or is made anew. Records that the one before still has are not counted ' +
      'here; `npm run journal -- stores` lists its streams';
    log('warn', { before, store }, what);
  }

  async #prepare(stream: string): Promise<Beginning> {
    const { clock, log, owner } = this.#deps;
    const begun = await this.#rows.beginElsewhere(stream, true, (error) => {
      log('debug', { err: error, stream }, 'Database unavailable; beginning a stream without a row');
    });
    return { begun, opening: encodeMessage([emptyRecord(clock.now())], 1, begun.time, owner) };
  }

  makeWriter({ stream }: BegunStream, deps: StreamWriterDeps): StreamWriter {
    const purges = this.#purge.of(stream);
    // The LSN of the opening record.
    const end = { stream, lsn: 1, ...this.#opening };
    this.#writer = natsWriter(end, {
      ...deps,
      broker: this.#deps.appends,
      origin: this.#deps.owner,
      confirmAfterMs: (this.#deps.intervals ?? INTERVALS).confirmAfterMs,
      stored: (lsn, sequence) => {
        purges.noteMessage(lsn, sequence);
      },
    });
    return this.#writer;
  }

  async ask(stream: string): Promise<StreamState | undefined> {
    const row = await this.#rows.askWritten(stream);
    return row?.isOpen === true ? row : undefined;
  }

  async countedTo(stream: string, endLsn: Lsn): Promise<Lsn | undefined> {
    const row = await this.#rows.ask(stream);
    if (row?.isOpen === true) return undefined;
    if (row === undefined) {
      const last = await this.#deps.reads.last(stream);
      return last === undefined ? 0 : undefined;
    }
    const { lsn } = row;
    if (lsn >= endLsn) return lsn;
    // A flusher that finds records behind a fence opens the stream again.
    const content = await this.#scan.content(stream, lsn);
    return typeof content === 'object' && content.lastLsn === lsn ? lsn : undefined;
  }

  sendHeartbeats(streams: readonly string[]): Promise<void> {
    return this.#rows.sendHeartbeats(streams);
  }

  /** Also fences the stream that this thread writes, if `ids` has it. */
  async endHeartbeats(ids: readonly string[]): Promise<void> {
    if (this.#writer !== undefined && ids.includes(this.#writer.stream)) await this.#writer.close();
    await this.#rows.endHeartbeats(ids);
  }

  async survey(): Promise<Survey> {
    const askedAt = this.#deps.clock.monotonic();
    const { streams: rows, flushers } = await this.#rows.survey();
    const beginning = this.#beginning?.begun.stream;
    // A stream has a row before its opening record. Until then only this thread uses it.
    const begun = rows.filter(({ stream }) => stream !== beginning);
    const now = this.#deps.clock.monotonic();
    const streams = begun.map((row) => this.#surveyOf(row, now));
    this.#forgetOthers(streams);
    // In the background: a survey does not wait for the broker.
    this.#discovery.run(new Set(streams.map(({ stream }) => stream)), beginning);
    this.#purge.run(streams, askedAt);
    return { streams, flushers };
  }

  #surveyOf({ silentMs, ...row }: SurveyedStream, now: number): StreamSurvey {
    const signAt = silentMs === undefined ? Number.NEGATIVE_INFINITY : now - silentMs;
    // A stream that was read up to a fence has no writer.
    const isOver = this.#readers.isFenced(row.stream);
    const isWritten = !isOver && (row.isWritten || this.#growth.mayBeWritten(row.stream, signAt, now));
    return { ...row, isWritten };
  }

  /** Other threads have taken or retired the other streams. */
  #forgetOthers(streams: readonly StreamSurvey[]): void {
    const owned = new Set(streams.filter(({ owner }) => owner === this.flusher).map(({ stream }) => stream));
    this.#readers.forgetAllBut(owned);
    this.#purge.forgetAllBut((stream) => owned.has(stream) || this.#writer?.stream === stream);
  }

  read(positions: readonly LogPosition[], recordsMax: number): Promise<ReadonlyMap<string, readonly JournalRecord[]>> {
    return this.#readers.read(positions, recordsMax);
  }

  async take(stream: string, epoch: number, adopt: boolean): Promise<TakenLogStream | undefined> {
    const taken = await this.#rows.takeFlushes(stream, epoch);
    if (taken === undefined) return undefined;
    // Earlier commits of this thread were under another epoch.
    this.#purge.forget(stream);
    this.#readers.begin(stream, taken.lsn, adopt);
    return { ...taken, isAdopted: adopt };
  }

  touch(stream: string, at: Checkpoint): Promise<boolean> {
    return this.#rows.isApplied(TOUCH_STREAM, [stream, at.epoch, at.lsn]);
  }

  release(stream: string, at: Checkpoint): Promise<boolean> {
    this.#forget(stream);
    return this.#rows.release(stream, at);
  }

  /** Fences this thread's own stream first. Retires another stream only after its fence was read. */
  async retire(stream: string, at: Checkpoint): Promise<boolean | undefined> {
    const writer = this.#writer;
    if (writer?.stream === stream) {
      if (writer.endLsn !== at.lsn || !(await writer.close())) return false;
    } else if (!this.#readers.hasEndedAt(stream, at.lsn)) return undefined;
    const isRetired = await this.#rows.retireElsewhere(stream, at);
    this.#forget(stream);
    return isRetired;
  }

  gapBefore(stream: string): Lsn | undefined {
    const missingLsn = this.#readers.missingLsn(stream);
    return missingLsn === undefined ? undefined : missingLsn + 1;
  }

  async endAtGap(stream: string, at: Checkpoint): Promise<boolean> {
    const { reads } = this.#deps;
    const content = await this.#scan.content(stream, at.lsn);
    if (typeof content !== 'object' || content.lastLsn !== at.lsn) return false;
    const last = await reads.last(stream);
    if (last === undefined || (content.gapAt === undefined && content.endLsn <= at.lsn)) return false;
    if (!isFence(last.data)) {
      const endLsn = decodedOr(last.data, () => undefined)?.lastLsn ?? at.lsn;
      const outcome = await reads.publish(stream, FENCE, last.sequence, endLsn);
      if (outcome.kind !== 'published') return false;
    }
    const isRetired = await this.#rows.retireElsewhere(stream, at);
    if (isRetired) this.#forget(stream);
    return isRetired;
  }

  #forget(stream: string): void {
    this.#readers.forget(stream);
    this.#purge.forget(stream);
  }

  committed(stream: string, at: Checkpoint): void {
    this.#purge.noteCommitted(stream, at);
  }

  async close(): Promise<void> {
    this.#scan.close();
    await Promise.all([this.#discovery.close(), this.#purge.close()]);
    await Promise.all([this.#deps.appends.close(), this.#deps.reads.close()]);
    await this.#rows.close();
  }
}
