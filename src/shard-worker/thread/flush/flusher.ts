/**
 * Moves one stream's sums to PostgreSQL, a frozen range at a time. Shard thread. This file decides when to flush, when to try
 * again, and when the database counts as unavailable; `range-flush.ts` makes the attempts.
 *
 * ```text
 * waiting ──(interval | enough | request | stop)─────► flushing ──committed──► waiting
 *                                                       │   ▲  └──fenced──► ended: the owner recovers
 *                       refused, unreachable or unknown │   │ after a backoff: the same range again
 *                                                       ▼   │
 *                                                     backing off ──draining, database unavailable──► ended
 * ```
 *
 * A range stays frozen until its outcome is known. Nothing is merged into it, and its records are sent in no other range. One
 * flush is in flight at a time.
 *
 * Between flushes the loop checks the stream's row (a touch). A failover that loses commits must be noticed while the journal
 * still has the records. While the database is unavailable, the loop retries soon.
 */
import { Backoff } from '../../../core/backoff.js';
import type { Checkpoint, DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import { databaseProblem, type DatabaseProblem } from '../../../db/database-problem.js';
import { Pauses } from '../pauses.js';
import type { FrozenRange, PendingSums } from '../pending-sums.js';
import type { EarlyFlush } from './early-flush.js';
import { FlushSchedule, type FlushScheduleOptions } from './flush-schedule.js';
import { flushOfCommitted, RangeFlush, type CommittedFlush, type RangeDatabase } from './range-flush.js';
import { isDatabaseUnavailable, type ShardDatabase } from './shard-database.js';

const BACKOFF_FIRST_MS = 50;
const BACKOFF_MAX_MS = 1000;
/** For a range that PostgreSQL refuses without refusing a row. Another search is expensive, and only an operator can help. */
const SEARCH_BACKOFF_FIRST_MS = 1000;
const SEARCH_BACKOFF_MAX_MS = 30_000;
const REFUSALS_UNTIL_UNAVAILABLE = 3;
/** Most callers that wait for a flush at a time; one more is refused as overloaded. */
const WAITERS_MAX = 1024;

/** The database as the flusher needs it. */
export type FlusherDatabase = RangeDatabase & Pick<ShardDatabase, 'touch' | 'look'>;

/** What the flusher tells its shard. */
export interface FlusherEvents {
  /** A range was committed, so the journal may be pruned up to its end. `ms`: duration of the attempt. */
  committed(range: FrozenRange, flush: CommittedFlush, ms: number): void;
  /** An attempt did not commit, or could not take the stream's row. It will be repeated. */
  retried(): void;
  /** The row of the stream was seen where this process left it. */
  confirmed(): void;
  /**
   * Takes the row of a stream that has none yet. Rejects with CounterError `database-unavailable`, with JournalError
   * `journal-unavailable` where the disk refuses, or with an error that ends the shard.
   */
  register(): Promise<void>;
  /**
   * The row is not where this process left it. `over`: this process must not flush the stream again. Otherwise it has taken the
   * row again: `same` sends the frozen range again, `committed` does not.
   */
  fenced(row: Checkpoint | undefined): Promise<'over' | 'same' | 'committed'>;
  /** The database became unavailable, is unavailable for another cause, or became available (without a problem). */
  databaseAvailable(available: boolean, problem?: DatabaseProblem): void;
  /** Something other than the database failed. The shard must end. */
  failed(error: unknown): void;
}

/** When to flush. */
export interface FlusherOptions extends FlushScheduleOptions, EarlyFlush {
  /** Makes what was applied durable before it is frozen. */
  readonly sync: () => void;
  /**
   * The time of the database before which everything that an idle stream accepted is committed, as noted in the directory.
   * Undefined if that is not due, or impossible.
   */
  readonly touchTime: () => DatabaseTime | undefined;
}

/** The flush loop of one stream. */
export class Flusher {
  readonly #pendingSums: PendingSums;
  readonly #database: FlusherDatabase;
  readonly #clock: Clock;
  readonly #options: FlusherOptions;
  readonly #events: FlusherEvents;
  #state: 'running' | 'finishing' | 'draining' | 'ended' = 'running';
  #problem: DatabaseProblem | undefined;
  readonly #waiters = new FlushWaiters();
  readonly #pauses: Pauses;
  readonly #schedule: FlushSchedule;
  #done: Promise<void> | undefined;
  #isRoomWanted = false;

  constructor(
    pendingSums: PendingSums,
    database: FlusherDatabase,
    clock: Clock,
    options: FlusherOptions,
    events: FlusherEvents,
  ) {
    this.#pendingSums = pendingSums;
    this.#database = database;
    this.#clock = clock;
    this.#options = options;
    this.#events = events;
    this.#pauses = new Pauses(clock);
    this.#schedule = new FlushSchedule(clock, options);
  }

  /** Starts the loop. `unavailable`: why the database is unavailable, if it is known to be. */
  start(unavailable?: unknown): void {
    if (unavailable !== undefined) this.#setAvailable(false, unavailable);
    this.#done = this.#run().catch((error: unknown) => {
      this.#state = 'ended';
      this.#events.failed(error);
    });
  }

  /** Whether the database answered the last statement. */
  get isDatabaseAvailable(): boolean {
    return this.#available;
  }

  /** To be called after records were applied. Wakes the loop where enough is pending. */
  noticeApplied(): void {
    if (this.#holdsEnough) this.#wakeToFlush();
  }

  /** Flushes soon, because a request was refused for lack of room. */
  flushSoon(): void {
    if (this.#pendingSums.isSettled) return;
    this.#isRoomWanted = true;
    this.#wakeToFlush();
  }

  /** Touches the row of an idle stream soon. Does nothing if increments are pending, because their flush checks the row. */
  touchSoon(): void {
    if (!this.#pendingSums.isSettled) return;
    this.#schedule.askForTouch();
    this.#pauses.endAll();
  }

  /**
   * Commits everything applied before the call. Resolves to the number of keys written meanwhile. Rejects with CounterError
   * `database-unavailable`, or with `overloaded` where too many callers wait.
   */
  flushNow(): Promise<number> {
    const target = this.#pendingSums.appliedLsn;
    if (this.#pendingSums.checkpointLsn >= target) return Promise.resolve(0);
    if (this.#state === 'ended' || !this.#available) return Promise.reject(databaseUnavailable());
    const flushed = this.#waiters.add(target);
    this.#pauses.endAll();
    return flushed;
  }

  /**
   * Flushes what is pending and ends the loop. Ends at once if the database is unavailable, because the journal keeps what is
   * pending. Resolves to true if nothing is left.
   */
  drain(): Promise<boolean> {
    return this.#endWhen('draining');
  }

  /** As {@link drain}, but waits for the database: what is pending may be nowhere else. */
  finish(): Promise<boolean> {
    return this.#endWhen('finishing');
  }

  async #endWhen(state: 'draining' | 'finishing'): Promise<boolean> {
    if (this.#state === 'running' || (this.#state === 'finishing' && state === 'draining')) this.#state = state;
    this.#pauses.endAll();
    await this.#done;
    return this.#pendingSums.isSettled;
  }

  /**
   * Ends the loop without another flush and leaves what is pending to another owner. Settles when no statement is under way.
   */
  async abandon(): Promise<void> {
    this.#state = 'ended';
    this.#pauses.endAll();
    await this.#done;
  }

  async #run(): Promise<void> {
    while (this.#state !== 'ended') {
      if (!this.#isAsked()) await this.#pauses.pause(this.#schedule.restMs(this.#available));
      if (this.#isEnded) break;
      const isIdle = this.#pendingSums.isSettled;
      if (isIdle) this.#isRoomWanted = false;
      if (isIdle) this.#waiters.answer(this.#pendingSums.checkpointLsn);
      if (isIdle && this.#state !== 'running') break;
      // While the database is unavailable, a flush tells the loop when it is back.
      const isFlush = !isIdle && (this.#isAsked() || this.#schedule.isFlushDue || !this.#available);
      if (isFlush || this.#schedule.isFlushDue) this.#schedule.beginInterval();
      if (isFlush) {
        if (!(await this.#registered()) || !(await this.#flushRange())) break;
        this.#waiters.answer(this.#pendingSums.checkpointLsn);
      } else if (!(await this.#touchWhenDue(isIdle))) {
        break;
      }
    }
    this.#state = 'ended';
    this.#waiters.reject();
  }

  /** Whether the loop must flush before its interval ends. */
  #isAsked(): boolean {
    if (this.#state !== 'running' || !this.#waiters.isEmpty || this.#isRoomWanted) return true;
    // A range is frozen here only after its stream was taken again.
    return this.#pendingSums.frozen !== undefined || this.#holdsEnough;
  }

  get #holdsEnough(): boolean {
    const { liveKeys, liveBytes, liveRecordBytes } = this.#pendingSums;
    const { keysMax, bytesMax, recordBytesMax } = this.#options;
    return liveKeys >= keysMax || liveBytes >= bytesMax || liveRecordBytes >= recordBytesMax;
  }

  /** Ends a wait for an interval, not a wait between attempts of a flush. */
  #wakeToFlush(): void {
    if (this.#available && this.#pendingSums.frozen === undefined) this.#pauses.endAll();
  }

  /** Whether the stream has a row; false if it has none and the loop is draining. */
  async #registered(): Promise<boolean> {
    const backoff = new Backoff(BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
    while (!this.#pendingSums.isRegistered) {
      try {
        await this.#events.register();
        this.#setAvailable(true);
      } catch (error) {
        const isDiskFailure = error instanceof JournalError && error.code === 'journal-unavailable';
        if (!isDiskFailure && !isDatabaseUnavailable(error)) throw error;
        if (!isDiskFailure) this.#setAvailable(false, error);
        if (this.#state !== 'running') return false;
        this.#events.retried();
        await this.#pauses.pause(backoff.take() * (0.5 + 0.5 * this.#options.random()));
      }
    }
    return true;
  }

  /** Commits one range. False where the loop must end: fenced, or draining without a database. */
  async #flushRange(): Promise<boolean> {
    // Only synced records may be frozen. Otherwise a power loss could undo a committed record and give its LSN to another one.
    // Both steps are synchronous, so nothing is applied in between.
    if (this.#pendingSums.frozen === undefined) {
      this.#options.sync();
      if (this.#isEnded) return false;
    }
    const range = this.#pendingSums.frozen ?? this.#pendingSums.freeze();
    this.#isRoomWanted = false;
    const flush = new RangeFlush(this.#database, range);
    const sendBackoff = new Backoff(BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
    const readBackoff = new Backoff(BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
    const searchBackoff = new Backoff(SEARCH_BACKOFF_FIRST_MS, SEARCH_BACKOFF_MAX_MS);
    let refusals = 0;
    for (;;) {
      const sentAtMs = this.#clock.monotonic();
      const outcome = await flush.attempt();
      const ms = this.#clock.monotonic() - sentAtMs;
      let backoff = sendBackoff;
      switch (outcome.kind) {
        case 'committed':
          this.#settle(range, outcome.flush, ms);
          return true;
        case 'fenced':
          return this.#goesOn(range, await this.#events.fenced(outcome.row ?? (await this.#ownerOf(range.stream))), ms);
        case 'poison':
          // No row to blame was found; the next attempt searches again. Reported each time.
          this.#setAvailable(false, outcome.error, true);
          backoff = searchBackoff;
          break;
        case 'refused':
          // A lock or statement timeout is no outage; several refusals in a row count as one.
          refusals += 1;
          if (refusals >= REFUSALS_UNTIL_UNAVAILABLE) this.#setAvailable(false, outcome.error);
          readBackoff.reset();
          break;
        case 'unreachable':
          this.#setAvailable(false, outcome.error);
          break;
        case 'unknown':
          this.#setAvailable(false, outcome.error);
          backoff = readBackoff;
      }
      if (this.#isEnded || (this.#state === 'draining' && !this.#available)) return false;
      this.#events.retried();
      await this.#pauses.pause(backoff.take() * (0.5 + 0.5 * this.#options.random()));
      if (this.#isEnded) return false;
    }
  }

  /** {@link abandon} may end the loop during a wait. */
  get #isEnded(): boolean {
    return this.#state === 'ended';
  }

  /** Whether the loop goes on after it was fenced. An uncommitted range is sent again. */
  #goesOn(range: FrozenRange, outcome: 'over' | 'same' | 'committed', ms: number): boolean {
    if (outcome === 'committed') this.#settle(range, flushOfCommitted(range), ms);
    if (outcome === 'same') this.#events.retried();
    return outcome !== 'over';
  }

  /** Notes that the range is committed. */
  #settle(range: FrozenRange, flush: CommittedFlush, ms: number): void {
    this.#setAvailable(true);
    this.#pendingSums.settle();
    this.#schedule.noticeTouch();
    this.#waiters.count(flush.keys);
    this.#events.committed(range, flush, ms);
  }

  /** The row of a fenced stream; undefined if it cannot be read now. */
  async #ownerOf(stream: string): Promise<Checkpoint | undefined> {
    try {
      return await this.#database.readBack(stream);
    } catch (error) {
      this.#setAvailable(false, error);
      return undefined;
    }
  }

  /**
   * Touches the row if that is due. False where the row is not where this process left it: another owner has the stream, or the
   * database went back in time. The journal keeps committed records for a limited time, so the check cannot wait for the next
   * flush. `accepted_through` does not move while increments are pending.
   */
  async #touchWhenDue(isIdle: boolean): Promise<boolean> {
    if (this.#available && !this.#schedule.isTouchDue) return true;
    this.#schedule.noticeTouch();
    const { stream, checkpoint, isRegistered } = this.#pendingSums;
    let isOurs = true;
    try {
      if (isRegistered) {
        isOurs = await this.#database.touch(stream, checkpoint, isIdle ? this.#options.touchTime() : undefined);
      } else await this.#database.look();
    } catch (error) {
      this.#setAvailable(false, error);
      return true;
    }
    this.#setAvailable(true);
    if (isOurs) {
      if (isRegistered) this.#events.confirmed();
      return true;
    }
    return (await this.#events.fenced(await this.#ownerOf(stream))) !== 'over';
  }

  #setAvailable(available: boolean, error?: unknown, isReportedAgain = false): void {
    if (!available) this.#waiters.reject();
    const problem = available ? undefined : databaseProblem(error);
    if (problem?.cause === this.#problem?.cause && !isReportedAgain) return;
    this.#problem = problem;
    this.#events.databaseAvailable(available, problem);
  }

  get #available(): boolean {
    return this.#problem === undefined;
  }
}

interface Waiter {
  readonly target: Lsn;
  keys: number;
  readonly resolve: (keys: number) => void;
  readonly reject: (error: CounterError) => void;
}

/** Callers that wait for a stream's checkpoint to reach an LSN. */
class FlushWaiters {
  #waiters: Waiter[] = [];

  get isEmpty(): boolean {
    return this.#waiters.length === 0;
  }

  /**
   * Waits for the checkpoint to reach `target`. Resolves to the keys written meanwhile. Rejects with `database-unavailable`
   * through {@link reject}, with `overloaded` where too many wait.
   */
  add(target: Lsn): Promise<number> {
    if (this.#waiters.length >= WAITERS_MAX) {
      return Promise.reject(
        new CounterError(
          'overloaded',
          `${WAITERS_MAX} requests already wait for a flush of this shard, which is the limit; retry later.`,
        ),
      );
    }
    return new Promise((resolve, reject) => {
      this.#waiters.push({ target, keys: 0, resolve, reject });
    });
  }

  /** Adds to the written keys of every waiting caller. */
  count(keys: number): void {
    for (const waiter of this.#waiters) waiter.keys += keys;
  }

  /** Resolves callers whose LSN is committed. */
  answer(checkpoint: Lsn): void {
    if (this.#waiters.length === 0) return;
    const left: Waiter[] = [];
    for (const waiter of this.#waiters) {
      if (waiter.target <= checkpoint) waiter.resolve(waiter.keys);
      else left.push(waiter);
    }
    this.#waiters = left;
  }

  /** Rejects all callers: the database is unavailable. */
  reject(): void {
    for (const waiter of this.#waiters) waiter.reject(databaseUnavailable());
    this.#waiters = [];
  }
}

function databaseUnavailable(): CounterError {
  return new CounterError(
    'database-unavailable',
    'The database is unavailable; pending increments stay in the journal. Try again later.',
  );
}
