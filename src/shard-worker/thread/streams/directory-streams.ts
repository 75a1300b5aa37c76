/**
 * The streams of a shard with a journal of its own, in memory or in a directory: the one that it writes and flushes, and
 * orphaned ones of earlier runs. Shard thread.
 *
 * ```text
 * start ──database available──► recover own and orphaned streams ──► serving, recovered
 *   │                             └─no room for all──► serving ──the rest, as others are flushed──► recovered
 *   └──database unavailable───► a new stream ──► serving ──database back: recover all earlier streams──► recovered
 * ```
 *
 * Without the database the shard begins a new stream. Only the checkpoint row tells which LSNs of an earlier stream are free; a
 * new record could otherwise get an LSN that counts as flushed.
 */
import { Backoff } from '../../../core/backoff.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { Episode } from '../../../core/episode.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { DatabaseProblem } from '../../../db/database-problem.js';
import type { FoundStream, Journal, JournalStreams, RecordBytes } from '../../journal/journal.js';
import { MissingRowsError } from '../../journal/missing-rows.js';
import type { HandedOverStream, MissingRow, PendingRange, SeenCheckpoints } from '../../protocol/control-messages.js';
import { STAT } from '../../protocol/stats.js';
import { isDatabaseUnavailable } from '../flush/shard-database.js';
import { PendingSums } from '../pending-sums.js';
import { addTo, publishOwn, publishStreams, type MovedIncrements } from '../shard-balance.js';
import type { ShardContext } from '../shard-context.js';
import { FencedStreams } from './fenced-streams.js';
import { JournalUpkeep } from './journal-upkeep.js';
import { makeFlusher } from './make-flusher.js';
import { NotedTime } from './noted-time.js';
import { OrphanedStreams } from './orphaned-streams.js';
import { OwnRow } from './own-row.js';
import { endStream, isJournalUnavailable, pendingOfAll, type OwnedStream } from './owned-stream.js';
import { recoverStream } from './recover-stream.js';
import type { AppendedGroup, ShardStreams } from './shard-streams.js';
import { closeDrained, findUntaken } from './stopped-streams.js';
import { StreamTaker } from './stream-taker.js';

/** An idle stream notices within this time that its checkpoint went back. Its journal then still holds the missing records. */
const TOUCH_INTERVAL_MS = 15_000;
/** How often an idle stream advances `accepted_through`. Each time costs a sync of the disk. */
const TOUCH_TIME_INTERVAL_MS = 60_000;
/** Waits between attempts to start while the journal is unavailable. */
const JOURNAL_BACKOFF_FIRST_MS = 250;
const JOURNAL_BACKOFF_MAX_MS = 5000;

/** What the streams need besides the context of the shard. */
export interface DirectoryStreamsDeps {
  readonly journals: JournalStreams;
  /** Why the database is unavailable at the start, if it is known to be. */
  readonly databaseProblem?: DatabaseProblem | undefined;
  /** What earlier threads of this shard applied and did not commit. */
  readonly handedOver: readonly HandedOverStream[];
  /** Instead of {@link TOUCH_INTERVAL_MS} and {@link TOUCH_TIME_INTERVAL_MS}. */
  readonly touchIntervals?: { readonly touchMs: number; readonly timeMs: number };
}

/** The streams of a shard with a journal of its own. */
export class DirectoryStreams implements ShardStreams {
  readonly #context: ShardContext;
  readonly #deps: DirectoryStreamsDeps;
  /** Increments of recovered streams that the stats do not count yet. */
  readonly #uncounted = new Map<PendingSums, number>();
  #own: OwnedStream | undefined;
  readonly #orphaned: OrphanedStreams;
  readonly #upkeep: JournalUpkeep;
  readonly #taker: StreamTaker;
  readonly #ownRow: OwnRow;
  readonly #fencedStreams: FencedStreams;
  readonly #time: NotedTime;
  /** The time that the records of the latest group carry. */
  #groupTime: DatabaseTime = 0;
  /** Handed-over streams that this thread has not read yet, by stream. */
  readonly #handedOver: Map<string, HandedOverStream>;
  #started: Promise<void> = Promise.resolve();
  #isStartEnding = false;
  /** Pending increments that neither disk nor database took at the stop. */
  #lostAtEnd = 0;

  constructor(context: ShardContext, deps: DirectoryStreamsDeps) {
    this.#context = context;
    this.#deps = deps;
    const shared = { ...context.deps, journals: deps.journals };
    this.#handedOver = new Map(deps.handedOver.map((handedOver) => [handedOver.stream, handedOver]));
    const fail = (error: unknown): void => {
      context.fail(error);
    };
    this.#taker = new StreamTaker({
      ...shared,
      noteTime: (time) => {
        deps.journals.noteTime(time);
      },
    });
    this.#ownRow = new OwnRow(context, deps.journals, this.#taker);
    this.#fencedStreams = new FencedStreams(context, deps.journals, this.#taker);
    this.#time = new NotedTime(context.deps, deps.journals);
    this.#upkeep = new JournalUpkeep({ ...shared, streams: () => this.flushed, fail });
    this.#orphaned = new OrphanedStreams({
      ...shared,
      recover: (stream) => this.#recover(stream),
      registerOwn: async () => {
        if (this.#own !== undefined) await this.#ownRow.takeBeforeOthers(this.#own);
      },
      register: (found) => this.#registerFound(found),
      hasRoom: () => pendingOfAll(this.flushed, 'pendingKeys') < shared.earlyFlush.keysMax,
      changed: () => {
        this.#publish();
        this.#announceStreams();
        this.#forgetRemovedStreams();
      },
      finished: (stream, lsn, claims) => {
        shared.tell({ kind: 'finished', stream, lsn, claims });
      },
      fenced: async (owned, row) => {
        context.balance.count(STAT.fenced);
        return this.#fencedStreams.decide(owned, row);
      },
      fail,
    });
  }

  /**
   * Recovers, or starts without the database. Settles when the shard takes increments. Retries while the disk refuses.
   * {@link endStart} ends the retries; then it settles, and the shard takes nothing.
   */
  start(): Promise<void> {
    this.#started = this.#startWhenPossible();
    return this.#started;
  }

  /** Ends the retries of a start that the disk refuses, because the shard stops. Settles when the start has ended. */
  async endStart(): Promise<void> {
    this.#isStartEnding = true;
    this.#context.pauses.endAll();
    // Whoever started the shard handles the failure.
    await this.#started.catch(() => undefined);
  }

  async #startWhenPossible(): Promise<void> {
    const { log, clock } = this.#context.deps;
    const unavailable = new Episode(clock);
    const backoff = new Backoff(JOURNAL_BACKOFF_FIRST_MS, JOURNAL_BACKOFF_MAX_MS);
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
          log('warn', { err: error }, 'Journal unavailable; stopping the shard. Its increments stay in the journal');
          return;
        }
        const line = unavailable.notice();
        if (line !== undefined) {
          const event = line.kind === 'begins' ? 'unavailable' : `still unavailable after ${line.seconds} s`;
          const fields = { err: error, attempts: line.since };
          log('warn', fields, `Journal ${event}; retrying the start of the shard`);
        }
        await this.#context.pauses.pause(backoff.take());
      }
    }
  }

  async #start(): Promise<void> {
    const { journals, databaseProblem } = this.#deps;
    const { database, log } = this.#context.deps;
    const { own, orphaned } = journals.existing();
    this.#time.read();
    try {
      if (databaseProblem !== undefined) throw knownUnavailable(databaseProblem);
      journals.setDatabaseId(await database.databaseId());
      this.#own = await this.#continue(own?.stream);
      const rest = await this.#orphaned.recoverWithinRoom(orphaned);
      for (const found of rest) await this.#registerFound(found);
      this.#serve(rest);
    } catch (error) {
      if (error instanceof MissingRowsError) throw await this.#withAllMissing(error);
      if (!isDatabaseUnavailable(error)) throw error;
      // The main thread reports it once for all shards.
      log('debug', { err: error }, 'PostgreSQL unavailable; buffering increments in a new stream of the journal');
      this.#discard();
      this.#own = this.#begin(coverOf(journals, own));
      this.#serve(own === undefined ? orphaned : [own, ...orphaned], error);
    }
  }

  /** The same of all streams, so that an operator decides once. */
  async #withAllMissing({ rows }: MissingRowsError): Promise<MissingRowsError> {
    const { journals } = this.#deps;
    const { own, orphaned } = journals.existing();
    const others: MissingRow[] = [];
    for (const { stream } of own === undefined ? orphaned : [own, ...orphaned]) {
      if (rows.some((row) => row.stream === stream)) continue;
      try {
        const journal = journals.open(stream);
        others.push(...(await this.#taker.findMissing(journal)));
        journal.close();
      } catch (error) {
        // A later start says it.
        if (!isDatabaseUnavailable(error) && !(error instanceof JournalError)) throw error;
      }
    }
    return new MissingRowsError([...rows, ...others]);
  }

  open(): Promise<void> | undefined {
    return this.#ownRow.open(this.#ownStream());
  }

  coversIdempotent(): boolean {
    return this.#ownRow.covers(this.#ownStream(), this.heardTime);
  }

  /** The largest time of the database that this shard heard or noted. */
  get heardTime(): DatabaseTime {
    return this.#time.heard;
  }

  get groupBytesMax(): number {
    return Number.POSITIVE_INFINITY;
  }

  /** A stream of a directory lasts as long as its thread. */
  isStale(): boolean {
    return false;
  }

  append(group: readonly RecordBytes[]): Lsn {
    if (this.#fencedStreams.isDeciding)
      throw new JournalError('journal-fenced', 'Checking who owns the stream; try again.');
    this.#groupTime = this.heardTime;
    return this.#upkeep.append(this.#ownStream().journal, group, this.#groupTime);
  }

  endAppend(): AppendedGroup {
    return { pendingIn: this.#ownStream(), time: this.#groupTime };
  }

  /** Only the next thread can read what a failed journal holds. */
  survives(): boolean {
    return false;
  }

  get written(): PendingSums {
    return this.#ownStream().pendingSums;
  }

  isOlder(seen: SeenCheckpoints): boolean {
    return this.#orphaned.isOlder(seen);
  }

  /** Commits everything applied before the call. Resolves to the number of keys written. */
  async flush(): Promise<number> {
    const keys = await Promise.all(this.flushed.map(({ flusher }) => flusher.flushNow()));
    return keys.reduce((total, count) => total + count, 0);
  }

  /** Flushes every stream once more, then closes it. Returns what stays in the journal. */
  async drain(): Promise<readonly PendingRange[]> {
    this.#upkeep.stop();
    // First, so that a stream in recovery is also drained.
    await this.#orphaned.stop();
    // A row that is being made must also be closed.
    await this.#ownRow.settled();
    const { journals } = this.#deps;
    const { database, log } = this.#context.deps;
    const left = this.#own === undefined ? await findUntaken(journals, database, log) : [...this.#orphaned.unread];
    let lost = 0;
    for (const { journal, pendingSums, flusher } of this.flushed) {
      const isCommitted = await flusher.drain();
      if (isCommitted && pendingSums.isRegistered && flusher.isDatabaseAvailable) {
        await endStream(journal, pendingSums, journals.endsWithThread ? 'retire' : 'closeStream', database, log);
      }
      const range = closeDrained(journal, pendingSums, log);
      const lostOfStream = pendingSums.pendingIncrements - range.increments;
      lost += lostOfStream;
      if (!isCommitted && (lostOfStream === 0 || range.throughLsn > range.afterLsn)) left.push(range);
    }
    this.#lostAtEnd = lost;
    this.#publish({ lost });
    return left;
  }

  /**
   * Makes a stream durable before a flush. If the disk refuses, the records are flushed from memory, because only the database
   * can take them.
   */
  #sync(journal: Journal): void {
    if (journal.syncedLsn >= journal.endLsn) return;
    try {
      journal.sync();
    } catch (error) {
      if (!isJournalUnavailable(error)) throw error;
    }
  }

  #ownStream(): OwnedStream {
    if (this.#own === undefined) throw new TypeError('the shard has not started');
    return this.#own;
  }

  get flushed(): readonly OwnedStream[] {
    const { streams } = this.#orphaned;
    return this.#own === undefined ? streams : [this.#own, ...streams];
  }

  /** Takes increments from now on and recovers the unread streams. `unavailable`: why the database is unavailable. */
  #serve(unread: readonly FoundStream[], unavailable?: unknown): void {
    // Without the database the shard does not know its id, or whether its tables exist.
    const recovered = unread.length === 0 && unavailable === undefined;
    this.#context.serve();
    if (!recovered) {
      this.#orphaned.recoverLater(unread, () => {
        this.#context.tellServing(true);
      });
    }
    this.#publish();
    this.#announceStreams();
    this.#own?.flusher.start(unavailable);
    this.#orphaned.start();
    this.#upkeep.start();
    this.#context.tellServing(recovered);
    // Replaces the report of an earlier thread of this shard.
    if (unavailable === undefined) this.#context.reports.tellAvailable(pendingOfAll(this.flushed, 'pendingIncrements'));
  }

  /** A stream can be removed before it is flushed or touched again. */
  #forgetRemovedStreams(): void {
    const streams = new Set(this.flushed.map(({ pendingSums }) => pendingSums.stream));
    this.#context.reports.keepOnly(streams, pendingOfAll(this.flushed, 'pendingIncrements'));
  }

  #announceStreams(): void {
    this.#context.deps.tell({ kind: 'streams', streams: this.flushed.map(({ pendingSums }) => pendingSums.stream) });
  }

  /** Undoes a failed start. Nothing was appended, so the journals can be closed and read again. */
  #discard(): void {
    for (const { journal } of this.flushed) journal.close();
    this.#uncounted.clear();
    this.#own = undefined;
    this.#orphaned.clear();
  }

  /** Continues the shard's own stream of the last run if possible, or begins a new one. */
  async #continue(stream: string | undefined): Promise<OwnedStream> {
    if (stream === undefined) return this.#begin(undefined);
    const owned = await this.#recover(stream);
    if (owned.journal.takesRecords) return owned;
    // The disk has no room for more of it.
    this.#orphaned.add(owned);
    const next = this.#begin(undefined);
    this.#upkeep.expectRefusal(next.journal);
    return next;
  }

  /** Begins a new stream. Its row is made before its first record. */
  #begin(cover: string | undefined): OwnedStream {
    const journal = this.#deps.journals.create(cover);
    return this.#assemble(journal, new PendingSums(journal.stream, undefined));
  }

  /** Takes ownership of a stream of an earlier run, and reads it. */
  async #recover(stream: string): Promise<OwnedStream> {
    const journal = this.#deps.journals.open(stream);
    const handedOver = this.#handedOver.get(stream);
    const { pendingSums, increments, missing } = await recoverStream(
      journal,
      this.#taker,
      this.#context.deps.log,
      handedOver,
    );
    this.#uncounted.set(pendingSums, increments);
    if (handedOver !== undefined) this.#noteTakenOver(handedOver, missing, journal.endLsn);
    return this.#assemble(journal, pendingSums);
  }

  /** Counts handed-over increments that the journal lacks. */
  #noteTakenOver({ stream, appliedLsn }: HandedOverStream, missing: number, endLsn: Lsn): void {
    const { tell, log } = this.#context.deps;
    this.#handedOver.delete(stream);
    tell({ kind: 'takenOver', stream });
    if (missing === 0) return;
    // Both, because missing increments are not pending.
    this.#context.balance.move({ recovered: missing, lost: missing });
    const facts = { stream, lost: missing, afterLsn: endLsn, throughLsn: appliedLsn };
    const what = 'Acknowledged increments are lost: the journal no longer holds them after a failed sync or write';
    log('error', facts, what);
  }

  async #registerFound({ stream, mark }: FoundStream): Promise<void> {
    const { journals } = this.#deps;
    if (mark !== 'unregistered' || journals.markOf(stream) !== 'unregistered') return;
    const journal = journals.open(stream);
    try {
      await this.#taker.take(journal);
    } finally {
      journal.close();
    }
  }

  #assemble(journal: Journal, pendingSums: PendingSums): OwnedStream {
    const flusher = makeFlusher(this.#context, this, pendingSums, {
      database: this.#context.deps.database,
      touchIntervalMs: this.#deps.touchIntervals?.touchMs ?? TOUCH_INTERVAL_MS,
      sync: () => this.#sync(journal),
      touchTime: this.#time.forTouches(this.#deps.touchIntervals?.timeMs ?? TOUCH_TIME_INTERVAL_MS),
      committed: (toLsn, flush) => {
        journal.prune(toLsn);
        this.#publish({ flush });
        this.#orphaned.noticeCommitted(pendingSums.stream);
      },
      confirmed: () => {
        journal.prune(pendingSums.checkpointLsn);
        this.#publish();
      },
      register: () => this.#ownRow.take(owned),
      fenced: (row) => this.#fencedStreams.decide(owned, row),
    });
    const owned = { journal, pendingSums, flusher };
    return owned;
  }

  #publish(moved: MovedIncrements = {}): void {
    this.#context.balance.publish(this, moved);
  }

  publishTo(stats: Float64Array): void {
    const own = this.#own;
    if (this.#uncounted.size > 0) this.#countRecovered(stats);
    publishStreams(this.flushed, this.#orphaned.unreadBytes, stats);
    addTo(stats, STAT.pendingIncrements, -this.#lostAtEnd);
    if (own !== undefined) publishOwn(own.pendingSums, stats);
    const isRefused = own !== undefined && !own.flusher.isDatabaseAvailable && !this.coversIdempotent();
    stats[STAT.idempotentRefused] = isRefused ? 1 : 0;
  }

  /** Counts streams as recovered once they are flushed here, because only then they count as pending. */
  #countRecovered(stats: Float64Array): void {
    for (const { pendingSums } of this.flushed) {
      addTo(stats, STAT.recovered, this.#uncounted.get(pendingSums) ?? 0);
      this.#uncounted.delete(pendingSums);
    }
  }
}

/**
 * The stream whose open row covers idempotent requests in a new stream without a row: the shard's own stream of the last run
 * or, if its row was never taken, the one that covered it.
 */
function coverOf(journals: JournalStreams, own: FoundStream | undefined): string | undefined {
  if (own === undefined || own.mark === 'closed') return undefined;
  return own.mark === 'open' ? own.stream : journals.open(own.stream).ownership().cover;
}

/** The main thread has already waited for the database. */
function knownUnavailable(problem: DatabaseProblem): CounterError {
  return new CounterError('database-unavailable', `The database is unavailable: ${problem.reason}.`, {
    cause: problem,
  });
}
