/**
 * One shard: its own stream with journal, pending sums and flusher, and the orphaned streams of earlier runs. Shard thread.
 *
 * ```text
 * start ──database available──► recover own and orphaned streams ──► serving, recovered
 *   │                             └─no room for all──► serving ──the rest, as others are flushed──► recovered
 *   └──database unavailable───► a new stream ──► serving ──database back: recover all earlier streams──► recovered
 * ```
 *
 * Without the database the shard begins a new stream. Only the checkpoint row says which LSNs of an earlier stream are
 * free: a record written without that knowledge could get an LSN that counts as flushed.
 */
import type { Checkpoint, DatabaseTime, Lsn } from '../../core/checkpoint.js';
import type { Clock } from '../../core/clock.js';
import { Episode } from '../../core/episode.js';
import { CounterError, JournalError } from '../../core/errors.js';
import type { Histogram } from '../../core/histogram.js';
import type { DatabaseProblem } from '../../db/database-problem.js';
import type { FoundStream, Journal, JournalStreams, RecordBytes } from '../journal/journal.js';
import { isTakenByOthers } from '../journal/ownership-claim.js';
import type {
  ControlMessage,
  HandedOverStream,
  HotKey,
  PendingAnswer,
  PendingRange,
  SeenCheckpoints,
} from '../protocol/control-messages.js';
import { readUint64, RECORD_HEADER_BYTES, RECORD_OFFSET } from '../protocol/record-layout.js';
import { shardHistogram, STAT, StatsSequence } from '../protocol/stats.js';
import type { EarlyFlush } from './flush/early-flush.js';
import { Flusher } from './flush/flusher.js';
import { RejectedLog } from './flush/rejected-log.js';
import { isDatabaseUnavailable, type ShardDatabase } from './flush/shard-database.js';
import type { GroupTarget } from './group-commit.js';
import type { CommittedFlush } from './flush/range-flush.js';
import { IdempotencyWindow, type KnownKey } from './idempotency/idempotency-window.js';
import { HotKeys } from './hot-keys.js';
import { PendingSums } from './pending-sums.js';
import { JournalUpkeep } from './streams/journal-upkeep.js';
import { OrphanedStreams } from './streams/orphaned-streams.js';
import {
  endStream,
  isJournalUnavailable,
  pendingIn,
  rangeOf,
  type OwnedStream,
  type ShardLog,
} from './streams/owned-stream.js';
import { recoverStream } from './streams/recover-stream.js';
import { StreamTaker } from './streams/stream-taker.js';
import { addTo, countFlush, publishOwn, publishStreams } from './streams/stream-stats.js';

/** Within this time an idle stream notices that its checkpoint went back. Its journal still holds what is then missing. */
const TOUCH_INTERVAL_MS = 15_000;
/** How often an idle stream says up to when everything is committed. Each time costs a sync of the disk. */
const TOUCH_TIME_INTERVAL_MS = 60_000;
/** Longest wait of a group for the row of its stream, and its share of ACK_TIMEOUT_MS: the answer must come in time. */
const ROW_WAIT_MAX_MS = 2000;
const ROW_WAIT_SHARE = 0.5;
/** Wait between attempts to take a stream again whose sums are in memory only. */
const TAKE_AGAIN_BACKOFF_MS = 500;

/** Waits between attempts to start while the journal is unavailable. */
const JOURNAL_BACKOFF_FIRST_MS = 250;
const JOURNAL_BACKOFF_MAX_MS = 5000;

/** Everything outside of a shard, so that a simulation can replace it. */
export interface ShardDeps {
  readonly journals: JournalStreams;
  readonly database: ShardDatabase;
  /** Why the database cannot be used at the start, where that is known. */
  readonly databaseProblem?: DatabaseProblem | undefined;
  readonly clock: Clock;
  readonly stats: Float64Array;
  /** What earlier threads of this shard had applied and not committed. */
  readonly handedOver: readonly HandedOverStream[];
  readonly random: () => number;
  readonly flushIntervalMs: number;
  readonly earlyFlush: EarlyFlush;
  /** ACK_TIMEOUT_MS. */
  readonly ackTimeoutMs: number;
  /** Instead of {@link TOUCH_INTERVAL_MS} and {@link TOUCH_TIME_INTERVAL_MS}. */
  readonly touchIntervals?: { readonly touchMs: number; readonly timeMs: number };
  readonly tell: (message: ControlMessage) => void;
  /** The shard cannot go on: the thread must end. */
  readonly fail: (error: unknown) => void;
  readonly log: ShardLog;
}

/** Increments that changed their place in the balance since the stats were published. */
interface Counted {
  readonly accepted?: number;
  readonly flush?: CommittedFlush;
  /** Of those in the pending sums. */
  readonly lost?: number;
}

/** A shard, as group commit and the control port use it. */
export class Shard implements GroupTarget {
  readonly #deps: ShardDeps;
  readonly #stats: Float64Array;
  readonly #sequence: StatsSequence;
  readonly #groupRecords: Histogram;
  readonly #hotKeys: HotKeys;
  readonly #flushSeconds: Histogram;
  readonly #flushKeys: Histogram;
  /** Increments of recovered streams that the stats do not count as recovered yet. */
  readonly #uncounted = new Map<PendingSums, number>();
  readonly #window = new IdempotencyWindow();
  #own: OwnedStream | undefined;
  readonly #orphaned: OrphanedStreams;
  readonly #upkeep: JournalUpkeep;
  readonly #taker: StreamTaker;
  /** The taking of the own stream's row that is under way. */
  #registering: Promise<void> | undefined;
  /** The row of another stream no longer covers idempotent requests in the own stream. */
  #isCoverOver = false;
  /** A group has waited for that row in vain. */
  #hasWaited = false;
  /** A stream's row is not where it was: nothing is taken until it is known why. */
  #isFencing = false;
  /** The time of the database that an earlier run has noted. */
  #notedTime: DatabaseTime = 0;
  /** The time that the records of the latest group carry. */
  #groupTime: DatabaseTime = 0;
  /** Streams whose flushes and touches fail. */
  readonly #failingStreams = new Map<string, DatabaseProblem>();
  readonly #rejectedLog: RejectedLog;
  /** By stream; those that this thread has not read yet. */
  readonly #handedOver: Map<string, HandedOverStream>;
  #state: 'starting' | 'serving' | 'draining' | 'failed' = 'starting';
  #started: Promise<void> = Promise.resolve();
  #isStartEnding = false;
  #endPause: (() => void) | undefined;

  constructor(deps: ShardDeps) {
    this.#deps = deps;
    this.#stats = deps.stats;
    this.#sequence = new StatsSequence(deps.stats);
    this.#groupRecords = shardHistogram(deps.stats, 'groupRecords');
    this.#hotKeys = new HotKeys(() => deps.clock.monotonic(), deps.random);
    this.#flushSeconds = shardHistogram(deps.stats, 'flushSeconds');
    this.#flushKeys = shardHistogram(deps.stats, 'flushKeys');
    this.#handedOver = new Map(deps.handedOver.map((handedOver) => [handedOver.stream, handedOver]));
    this.#rejectedLog = new RejectedLog(deps.clock, (fields, message) => {
      deps.log('error', fields, message);
    });
    const fail = (error: unknown): void => {
      this.failed(error);
    };
    this.#taker = new StreamTaker({
      ...deps,
      noteTime: (time) => {
        deps.journals.noteTime(time);
      },
    });
    this.#upkeep = new JournalUpkeep({ ...deps, streams: () => this.#streams(), fail });
    this.#orphaned = new OrphanedStreams({
      ...deps,
      flushKeysMax: deps.earlyFlush.keysMax,
      recover: (stream) => this.#recover(stream),
      registerOwn: () => this.#registerOwn(),
      register: (found) => this.#registerFound(found),
      pendingKeys: () => this.#streams().reduce((total, { pendingSums }) => total + pendingSums.pendingKeys, 0),
      changed: () => {
        this.#publish();
        this.#announceStreams();
        this.#forgetRemovedStreams();
      },
      finished: (stream, lsn, claims) => {
        deps.tell({ kind: 'finished', stream, lsn, claims });
      },
      fenced: (owned, row) => this.#fenced(owned, row),
      fail,
    });
  }

  /**
   * Recovers, or starts without the database. Settles when the shard takes increments. Retries while the disk refuses, until
   * {@link endStart}: then it settles, and the shard takes nothing.
   */
  start(): Promise<void> {
    this.#started = this.#startWhenPossible();
    return this.#started;
  }

  /** Settles when the start has ended. A start that the disk refuses is retried no more, because the shard is to stop. */
  async endStart(): Promise<void> {
    this.#isStartEnding = true;
    this.#endPause?.();
    // Whoever started the shard handles the failure.
    await this.#started.catch(() => undefined);
  }

  async #startWhenPossible(): Promise<void> {
    const { log } = this.#deps;
    const unavailable = new Episode(this.#deps.clock);
    let backoffMs = JOURNAL_BACKOFF_FIRST_MS;
    for (;;) {
      try {
        await this.#start();
        const ended = unavailable.end();
        if (ended !== undefined) log('info', { seconds: ended.seconds }, 'Journal available again; the shard starts');
        return;
      } catch (error) {
        if (!isJournalUnavailable(error)) throw error;
        this.#discard();
        if (this.#isStartEnding) {
          log(
            'warn',
            { err: error },
            'Journal unavailable; stopping the shard, and its increments stay in the journal',
          );
          return;
        }
        const line = unavailable.notice();
        if (line !== undefined) {
          const event = line.kind === 'begins' ? 'unavailable' : `still unavailable after ${line.seconds} s`;
          const fields = { err: error, attempts: line.since };
          log('warn', fields, `Journal ${event}; retrying the start of the shard`);
        }
        await this.#pause(backoffMs);
        backoffMs = Math.min(2 * backoffMs, JOURNAL_BACKOFF_MAX_MS);
      }
    }
  }

  /** Waits, or until {@link endStart}. */
  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#deps.clock.schedule(ms, resolve);
      this.#endPause = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  async #start(): Promise<void> {
    const { journals, log, databaseProblem } = this.#deps;
    const { own, orphaned } = journals.existing();
    this.#notedTime = journals.notedTime();
    try {
      if (databaseProblem !== undefined) throw knownUnavailable(databaseProblem);
      journals.setDatabaseId(await this.#deps.database.databaseId());
      this.#own = await this.#continue(own?.stream);
      const rest = await this.#orphaned.recoverWithinRoom(orphaned);
      for (const found of rest) await this.#registerFound(found);
      this.#serve(rest);
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      // The main thread says it once for all shards.
      log('debug', { err: error }, 'PostgreSQL unavailable; buffering increments in a new stream of the journal');
      this.#discard();
      this.#own = this.#begin(coverOf(journals, own));
      this.#serve(own === undefined ? orphaned : [own, ...orphaned], error);
    }
  }

  /**
   * Waits for the row of a new stream, before a first record is written to it. Undefined where there is nothing to wait for:
   * the row is there, or the database is unavailable.
   */
  open(): Promise<void> | undefined {
    const own = this.#ownStream();
    if (own.pendingSums.isRegistered || !own.flusher.isDatabaseAvailable) return undefined;
    // Once there is a record, the flusher takes the row as soon as it can.
    return this.#hasWaited && own.journal.endLsn > 0 ? undefined : this.#waitForRow(own);
  }

  async #waitForRow(own: OwnedStream): Promise<void> {
    const { clock, ackTimeoutMs } = this.#deps;
    const waitMs = Math.min(ROW_WAIT_MAX_MS, ROW_WAIT_SHARE * ackTimeoutMs);
    let hasRow = false;
    await new Promise<void>((resolve) => {
      const timer = clock.schedule(waitMs, resolve);
      const end = (): void => {
        timer.cancel();
        resolve();
      };
      this.#register(own).then(
        () => {
          hasRow = true;
          end();
        },
        (error: unknown) => {
          if (!isDatabaseUnavailable(error) && !isJournalUnavailable(error)) this.failed(error);
          // A disk that refuses the stream refuses its records, too.
          hasRow = isJournalUnavailable(error);
          end();
        },
      );
    });
    this.#hasWaited = !hasRow;
  }

  /** Whether idempotent requests can be taken: a row is open that covers what is accepted now. */
  coversIdempotent(): boolean {
    const { pendingSums, journal } = this.#ownStream();
    if (pendingSums.isRegistered) return this.#time >= pendingSums.coveredFrom;
    const { cover } = journal.ownership();
    return cover !== undefined && !this.#isCoverOver && this.#deps.journals.markOf(cover) === 'open';
  }

  /** The largest time of the database that this shard has heard or noted. */
  get #time(): DatabaseTime {
    return Math.max(this.#notedTime, this.#deps.database.time);
  }

  /** A stream of a directory goes on for as long as its thread. */
  isStale(): boolean {
    return false;
  }

  append(group: readonly RecordBytes[]): Lsn | Promise<Lsn> {
    if (this.#isFencing) throw new JournalError('journal-fenced', 'It is being found out who owns the stream.');
    // The thread ends only after what runs now. Under a claim that was just lost or moved, a record could lie below the
    // checkpoint and be taken for committed.
    if (this.#state === 'failed') throw new JournalError('journal-fenced', 'The shard has failed and ends.');
    this.#groupTime = this.#time;
    return this.#upkeep.append(this.#ownStream().journal, group, this.#groupTime);
  }

  apply(group: readonly RecordBytes[], lastLsn: Lsn): void {
    const own = this.#ownStream();
    let increments = 0;
    let lsn = lastLsn - group.length;
    for (const record of group) {
      lsn += 1;
      const applied = own.pendingSums.apply(
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
    this.#publish({ accepted: increments });
    own.flusher.noticeApplied();
  }

  /** Looks in the shard's own stream only. New increments go there; a key of an orphaned stream counts as new. */
  holds(hash: number, bytes: Uint8Array, start: number, length: number): boolean {
    return this.#ownStream().pendingSums.holds(hash, bytes, start, length);
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

  failed(error: unknown): void {
    if (this.#state === 'failed') return;
    this.#state = 'failed';
    this.#deps.fail(error);
  }

  /** The pending sums of keys in all streams, above the checkpoints that a read saw. Null: no stream holds the key. */
  pendingOf(keys: readonly Uint8Array[], seen: SeenCheckpoints): PendingAnswer {
    return this.#orphaned.isOlder(seen) ? 'again' : pendingIn(this.#streams(), keys, seen);
  }

  /** The keys with the most increments now, at most `most`. */
  hotKeys(most: number): readonly HotKey[] {
    return this.#hotKeys.hottest(most);
  }

  /** Commits everything applied before the call. Resolves to the number of keys written. */
  async flush(): Promise<number> {
    const keys = await Promise.all(this.#streams().map(({ flusher }) => flusher.flushNow()));
    return keys.reduce((total, count) => total + count, 0);
  }

  /** Flushes every stream once more, then closes it. Returns what stays in the journal. */
  async drain(): Promise<readonly PendingRange[]> {
    this.#state = 'draining';
    this.#upkeep.stop();
    // First, so that a stream in recovery is drained with the others.
    await this.#orphaned.stop();
    // A row that is being made must be closed, too. Whoever asked for it handles a failure.
    await this.#registering?.catch(() => undefined);
    const left: PendingRange[] = this.#own === undefined ? await this.#untaken() : [...this.#orphaned.unread];
    let lost = 0;
    for (const { journal, pendingSums, flusher } of this.#streams()) {
      const isCommitted = await flusher.drain();
      if (isCommitted && pendingSums.isRegistered && flusher.isDatabaseAvailable) {
        const { database, journals, log } = this.#deps;
        await endStream(journal, pendingSums, journals.endsWithThread ? 'retire' : 'closeStream', database, log);
      }
      const unsynced = await this.#close(journal, pendingSums);
      lost += unsynced;
      if (!isCommitted && unsynced === 0) left.push(rangeOf(pendingSums));
      else if (!isCommitted && journal.syncedLsn > pendingSums.checkpointLsn) {
        const increments = pendingSums.pendingIncrements - unsynced;
        left.push({ ...rangeOf(pendingSums), throughLsn: journal.syncedLsn, increments });
      }
    }
    this.#publish({ lost });
    this.#rejectedLog.close();
    await this.#deps.database.close();
    return left;
  }

  /**
   * Makes a stream durable before a flush. Records that the disk refuses are flushed from memory: then the database is the
   * only place that takes them.
   */
  #sync(journal: Journal): void | Promise<void> {
    if (journal.syncedLsn >= journal.endLsn) return;
    try {
      return journal.sync();
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
    }
  }

  /** Closes a drained journal. Returns the increments that neither the disk nor the database has taken. */
  async #close(journal: Journal, { pendingIncrements }: PendingSums): Promise<number> {
    try {
      await journal.close();
      return 0;
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
      const lost = Math.min(journal.unsyncedIncrements, pendingIncrements);
      if (lost === 0) return 0;
      const what =
        'Acknowledged increments are lost: a sync of the journal failed, and neither the disk nor PostgreSQL took them ' +
        'before the stop. If the system still holds them, the next start counts them';
      this.#deps.log('error', { err: error, stream: journal.stream, lost, afterLsn: journal.syncedLsn }, what);
      return lost;
    }
  }

  /** What the streams hold above their checkpoints, where the disk refused to take them over. Changes nothing. */
  async #untaken(): Promise<PendingRange[]> {
    const { journals, database } = this.#deps;
    const ranges: PendingRange[] = [];
    try {
      const { own, orphaned } = journals.existing();
      for (const { stream } of own === undefined ? orphaned : [own, ...orphaned]) {
        const range = { stream, afterLsn: 0, throughLsn: undefined, increments: undefined };
        try {
          const afterLsn = (await database.readBack(stream))?.lsn ?? 0;
          const throughLsn = journals.open(stream).findEnd();
          if (throughLsn > afterLsn) ranges.push({ ...range, afterLsn, throughLsn });
        } catch (error) {
          if (!isDatabaseUnavailable(error) && !(error instanceof JournalError)) throw error;
          ranges.push(range);
        }
      }
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
      this.#deps.log('warn', { err: error }, 'Cannot list the streams of the journal; what they hold stays there');
    }
    return ranges;
  }

  #ownStream(): OwnedStream {
    if (this.#own === undefined) throw new TypeError('the shard has not started');
    return this.#own;
  }

  #streams(): readonly OwnedStream[] {
    const { streams } = this.#orphaned;
    return this.#own === undefined ? streams : [this.#own, ...streams];
  }

  /** Takes increments from now on, and recovers the unread streams. `unavailable`: why the database is unavailable. */
  #serve(unread: readonly FoundStream[], unavailable?: unknown): void {
    // Without the database the shard knows neither its id nor whether its tables exist.
    const recovered = unread.length === 0 && unavailable === undefined;
    if (this.#state === 'starting') this.#state = 'serving';
    if (!recovered) {
      this.#orphaned.recoverLater(unread, () => {
        this.#tellServing(true);
      });
    }
    this.#publish();
    this.#announceStreams();
    this.#own?.flusher.start(unavailable);
    this.#orphaned.start();
    this.#upkeep.start();
    this.#tellServing(recovered);
    // Replaces what an earlier thread of this shard has told.
    if (unavailable === undefined) this.#tellDatabase();
  }

  /** A shard can use the database where every one of its streams can. */
  #noticeDatabase(stream: string, problem: DatabaseProblem | undefined): void {
    this.#publish();
    if (problem === undefined) {
      if (this.#failingStreams.delete(stream) && this.#failingStreams.size === 0) this.#tellDatabase();
      return;
    }
    const isRepeated = this.#failingStreams.get(stream)?.cause === problem.cause;
    const isKnown = [...this.#failingStreams.values()].some(({ cause }) => cause === problem.cause);
    this.#failingStreams.set(stream, problem);
    // The streams of a shard share its connection.
    if (isRepeated || !isKnown) this.#tellDatabase(problem);
  }

  /** A stream can be removed before it is flushed or touched again. */
  #forgetRemovedStreams(): void {
    const streams = new Set(this.#streams().map(({ pendingSums }) => pendingSums.stream));
    for (const stream of this.#failingStreams.keys()) {
      if (!streams.has(stream)) this.#noticeDatabase(stream, undefined);
    }
  }

  #tellDatabase(problem?: DatabaseProblem): void {
    const pending = this.#streams().reduce((total, { pendingSums }) => total + pendingSums.pendingIncrements, 0);
    const state =
      problem === undefined ? { available: true as const, pending } : { available: false as const, problem };
    this.#deps.tell({ kind: 'database', state });
  }

  #tellServing(recovered: boolean): void {
    const recoveredIncrements = this.#stats[STAT.recovered] ?? 0;
    this.#deps.tell({ kind: 'serving', recovered, recoveredIncrements });
  }

  #announceStreams(): void {
    this.#deps.tell({ kind: 'streams', streams: this.#streams().map(({ pendingSums }) => pendingSums.stream) });
  }

  /** Undoes a start that failed half-way. Nothing was appended, so the journals can be closed and read again. */
  #discard(): void {
    for (const { journal } of this.#streams()) void Promise.resolve(journal.close()).catch(this.#deps.fail);
    this.#uncounted.clear();
    this.#own = undefined;
    this.#orphaned.clear();
  }

  /** Continues the shard's own stream of the last run where that is possible, and begins a new one otherwise. */
  async #continue(stream: string | undefined): Promise<OwnedStream> {
    if (stream === undefined) return this.#begin(undefined);
    const owned = await this.#recover(stream);
    if (owned.journal.takesRecords) return owned;
    // The disk has no room to go on with it.
    this.#orphaned.add(owned);
    const next = this.#begin(undefined);
    this.#upkeep.expectRefusal(next.journal);
    return next;
  }

  /** Begins a new stream. Its row is made when its first record is to be written. */
  #begin(cover: string | undefined): OwnedStream {
    const journal = this.#deps.journals.create(cover);
    return this.#assemble(journal, new PendingSums(journal.stream, undefined));
  }

  /** Takes ownership of a stream of an earlier run, and reads it. */
  async #recover(stream: string): Promise<OwnedStream> {
    const { journals, log } = this.#deps;
    const journal = journals.open(stream);
    const handedOver = this.#handedOver.get(stream);
    const { pendingSums, increments, missing } = await recoverStream(journal, this.#taker, log, handedOver);
    this.#uncounted.set(pendingSums, increments);
    if (handedOver !== undefined) this.#noteTakenOver(handedOver, missing, journal.endLsn);
    return this.#assemble(journal, pendingSums);
  }

  /** Counts what the journal lacks of what an ended thread has handed over. */
  #noteTakenOver({ stream, appliedLsn }: HandedOverStream, missing: number, endLsn: Lsn): void {
    this.#handedOver.delete(stream);
    this.#deps.tell({ kind: 'takenOver', stream });
    if (missing === 0) return;
    // Both at once: nothing that is missing is pending.
    this.#sequence.beginChange();
    addTo(this.#stats, STAT.recovered, missing);
    addTo(this.#stats, STAT.lost, missing);
    this.#sequence.endChange();
    const facts = { stream, lost: missing, afterLsn: endLsn, throughLsn: appliedLsn };
    const what = 'Acknowledged increments are lost: the journal no longer holds them after a failed sync or write';
    this.#deps.log('error', facts, what);
  }

  /**
   * Takes the row of the own stream before others are flushed. A stream that is not stored has no record, and needs no row
   * before its first; but from now on the row that covered it may be over at any time.
   */
  async #registerOwn(): Promise<void> {
    const own = this.#own;
    if (own === undefined) return;
    if (own.journal.endLsn > 0) await this.#register(own);
    else this.#isCoverOver = true;
  }

  async #registerFound({ stream, mark }: FoundStream): Promise<void> {
    const { journals } = this.#deps;
    if (mark !== 'unregistered' || journals.markOf(stream) !== 'unregistered') return;
    const journal = journals.open(stream);
    try {
      await this.#taker.take(journal);
    } finally {
      await journal.close();
    }
  }

  /** Takes the row of the own stream, once for all who ask meanwhile. */
  #register(own: OwnedStream): Promise<void> {
    if (own.pendingSums.isRegistered) return Promise.resolve();
    this.#registering ??= this.#takeRow(own).finally(() => {
      this.#registering = undefined;
    });
    return this.#registering;
  }

  async #takeRow({ journal, pendingSums }: OwnedStream): Promise<void> {
    const row = await this.#taker.take(journal);
    // What is not covered must be sorted out before it is found by idempotency key, so the journal is read again.
    if (pendingSums.hasOlderThan(row.coveredFrom) || pendingSums.take(row) !== 'same') {
      throw new JournalError(
        'journal-fenced',
        `Stream ${pendingSums.stream} has idempotent requests that its row does not cover; the shard reads its journal again.`,
      );
    }
  }

  #assemble(journal: Journal, pendingSums: PendingSums): OwnedStream {
    const { database, clock, random, flushIntervalMs, earlyFlush } = this.#deps;
    const options = {
      intervalMs: flushIntervalMs,
      ...earlyFlush,
      sync: () => this.#sync(journal),
      touchTime: this.#touchTimes(),
      touchIntervalMs: this.#deps.touchIntervals?.touchMs ?? TOUCH_INTERVAL_MS,
      random,
    };
    const flusher: Flusher = new Flusher(pendingSums, database, clock, options, {
      committed: ({ toLsn, acceptedThrough }, flush, ms) => {
        this.#flushSeconds.observe(ms / 1000);
        this.#flushKeys.observe(flush.keys);
        this.#noteSetAside(pendingSums.stream, flush, acceptedThrough);
        journal.prune(toLsn);
        this.#publish({ flush });
        this.#orphaned.noticeCommitted(pendingSums.stream);
      },
      retried: () => {
        addTo(this.#stats, STAT.flushRetries, 1);
      },
      confirmed: () => {
        journal.prune(pendingSums.checkpointLsn);
        this.#publish();
      },
      register: () => this.#register(owned),
      fenced: (row) => this.#fenced(owned, row),
      databaseAvailable: (_, problem) => {
        this.#noticeDatabase(pendingSums.stream, problem);
      },
      failed: (error) => this.failed(error),
    });
    const owned = { journal, pendingSums, flusher };
    return owned;
  }

  /** The times for the touches of a stream, once a minute: noted first, so that a later start accepts under no earlier one. */
  #touchTimes(): () => DatabaseTime | undefined {
    const { clock, journals, log } = this.#deps;
    let dueAt = Number.NEGATIVE_INFINITY;
    return () => {
      const time = this.#time;
      if (time === 0 || clock.monotonic() < dueAt) return undefined;
      try {
        journals.noteTime(time);
      } catch (error) {
        if (!isJournalUnavailable(error)) throw error;
        log('debug', { err: error }, 'The disk refuses to note the time of the database');
        return undefined;
      }
      dueAt = clock.monotonic() + (this.#deps.touchIntervals?.timeMs ?? TOUCH_TIME_INTERVAL_MS);
      return time;
    };
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

  /** A compare-and-set did not match. `row`: where it is; undefined if that could not be read. */
  async #fenced(owned: OwnedStream, row: Checkpoint | undefined): Promise<'over' | 'same' | 'committed'> {
    const { journals, tell } = this.#deps;
    const { pendingSums } = owned;
    addTo(this.#stats, STAT.fenced, 1);
    this.#isFencing = true;
    try {
      const isVolatile = journals.endsWithThread;
      if (row !== undefined && row.epoch !== pendingSums.epoch && (await this.#isTakenByOthers(owned))) {
        const detail = takenOver(pendingSums, row, isVolatile);
        tell({ kind: 'fenced', detail });
        this.failed(new JournalError('journal-fenced', detail));
        return 'over';
      }
      const outcome = isVolatile && row !== undefined ? await this.#takeAgain(owned) : 'elsewhere';
      if (outcome !== 'elsewhere') return outcome;
      this.failed(new JournalError('journal-fenced', movedBack(pendingSums, row, isVolatile)));
      return 'over';
    } finally {
      this.#isFencing = this.#state === 'failed';
    }
  }

  /** False also where the database does not say; then the recovery finds out. */
  async #isTakenByOthers({ journal, pendingSums }: OwnedStream): Promise<boolean> {
    try {
      const claims = await this.#deps.database.readClaims(pendingSums.stream);
      return isTakenByOthers(journal.ownership().claims, pendingSums.epoch, claims);
    } catch (error) {
      if (!isDatabaseUnavailable(error)) throw error;
      return false;
    }
  }

  /** Takes a stream again that was retired while its process lives, and keeps its sums: no journal has them. */
  async #takeAgain({ journal, pendingSums }: OwnedStream): Promise<'same' | 'committed' | 'elsewhere'> {
    const { log } = this.#deps;
    for (;;) {
      try {
        const outcome = pendingSums.take(await this.#taker.take(journal));
        log('warn', { stream: pendingSums.stream, outcome }, 'Took a stream again that had been retired');
        return outcome;
      } catch (error) {
        if (error instanceof JournalError) return 'elsewhere';
        if (!isDatabaseUnavailable(error) || this.#state === 'draining') throw error;
        await this.#pause(TAKE_AGAIN_BACKOFF_MS);
      }
    }
  }

  /**
   * Publishes what has changed since the last call, as one change: readers of the stats see that increments were accepted,
   * recovered or flushed together with what is pending since then, so that the balance holds at every moment.
   */
  #publish({ accepted = 0, flush, lost = 0 }: Counted = {}): void {
    const own = this.#own;
    const isRefused = own !== undefined && !own.flusher.isDatabaseAvailable && !this.coversIdempotent();
    this.#sequence.beginChange();
    addTo(this.#stats, STAT.accepted, accepted);
    addTo(this.#stats, STAT.lost, lost);
    if (flush !== undefined) countFlush(flush, this.#stats);
    if (this.#uncounted.size > 0) this.#countRecovered();
    publishStreams(this.#streams(), this.#orphaned.unreadBytes, this.#stats);
    addTo(this.#stats, STAT.pendingIncrements, -lost);
    if (own !== undefined) publishOwn(own.pendingSums, this.#stats);
    this.#stats[STAT.idempotentRefused] = isRefused ? 1 : 0;
    this.#sequence.endChange();
  }

  /** Counts streams as recovered that have joined the others since, because only these count as pending. */
  #countRecovered(): void {
    for (const { pendingSums } of this.#streams()) {
      addTo(this.#stats, STAT.recovered, this.#uncounted.get(pendingSums) ?? 0);
      this.#uncounted.delete(pendingSums);
    }
  }
}

/** When the HTTP thread made the record, ms since 1970. */
function acceptedAt(record: RecordBytes): number {
  return readUint64(new DataView(record.buffer, record.byteOffset, record.byteLength), RECORD_OFFSET.acceptedAt);
}

/**
 * The stream whose open row covers idempotent requests in a new stream, until that has a row: the shard's own stream of the
 * last run or, if its row was never taken, the one that covered it.
 */
function coverOf(journals: JournalStreams, own: FoundStream | undefined): string | undefined {
  if (own === undefined || own.mark === 'closed') return undefined;
  return own.mark === 'open' ? own.stream : journals.open(own.stream).ownership().cover;
}

/** The main thread has waited for the database already. */
function knownUnavailable(problem: DatabaseProblem): CounterError {
  return new CounterError('database-unavailable', `The database is unavailable: ${problem.reason}.`, {
    cause: problem,
  });
}

/** For the operator: `row` has a later epoch, so the stream has another owner, or none. */
function takenOver(pendingSums: PendingSums, row: Checkpoint, isVolatile: boolean): string {
  return (
    `Journal stream ${pendingSums.stream} no longer belongs to this process: ${positions(pendingSums, row)}. Another ` +
    'process has taken it over, because this data directory is a copy or was copied, or an operator has retired it. This ' +
    'process ends, because what it flushed now could count twice. ' +
    (isVolatile
      ? 'What it acknowledged and had not flushed is lost.'
      : 'What it acknowledged and had not flushed stays in its journal: start it again. If only this journal holds ' +
        'those records, the start names the command that moves them to a stream of their own.')
  );
}

/** For the operator: no other process owns the stream, but its row is not what this process made it. */
function movedBack(pendingSums: PendingSums, row: Checkpoint | undefined, isVolatile: boolean): string {
  return (
    `The checkpoint of stream ${pendingSums.stream} is not where this process left it: ${positions(pendingSums, row)}. ` +
    (isVolatile
      ? 'The shard starts again without what was pending in its memory.'
      : 'The shard drops its sums and recovers them from the journal.')
  );
}

function positions({ epoch, checkpointLsn }: PendingSums, row: Checkpoint | undefined): string {
  const inDatabase =
    row === undefined ? 'the row is missing or cannot be read' : `the row has epoch ${row.epoch} and LSN ${row.lsn}`;
  return `the shard had epoch ${epoch} and LSN ${checkpointLsn}, ${inDatabase}`;
}
