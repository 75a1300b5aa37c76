/**
 * Moves one stream's sums to PostgreSQL, a frozen range at a time. Shard thread.
 *
 * ```text
 * waiting ──(interval | many keys | request | stop)──► flushing ──committed──► waiting
 *                                                     │   ▲
 *                              refused or unreachable │   │ after a backoff: the same range again
 *                                                     ▼   │
 *                                          reply lost: read the row back and compare exactly
 *                                            (my epoch, my target)  committed
 *                                            (my epoch, my old LSN) the same range again
 *                                            anything else          fenced: the owner recovers
 * ```
 *
 * A range stays frozen until its fate is known, so nothing is merged into it and nothing is sent twice under another
 * range. One flush is in flight at a time.
 *
 * However long the interval is, the loop looks at the stream's row now and then (a touch), since a failover that takes
 * commits back is to be noticed while the journal reaches back; and while the database is away it tries again soon, with a
 * flush where there is something to flush.
 */
import type { Clock, Timer } from '../../../core/clock.js';
import { committedFlush, type CommittedFlush } from './committed-flush.js';
import { FlushSchedule, type FlushScheduleOptions } from './flush-schedule.js';
import { databaseUnavailable, FlushWaiters } from './flush-waiters.js';
import type { Checkpoint } from '../../../core/checkpoint.js';
import type { FlushAttempt, FlushTarget } from './stream-database.js';
import type { FrozenRange, PendingSums } from '../pending-sums.js';

const BACKOFF_FIRST_MS = 50;
const BACKOFF_MAX_MS = 1000;
/** Where PostgreSQL refuses a range and none of its rows: to search it again is work, and only an operator can help. */
const SEARCH_BACKOFF_MAX_MS = 30_000;
const REFUSALS_UNTIL_UNAVAILABLE = 3;

/** What the flusher tells its shard. */
export interface FlusherEvents {
  /** A range was committed: the journal may be pruned up to its end. */
  committed(range: FrozenRange, flush: CommittedFlush): void;
  /** The row of an idle stream was seen where this ledger left it: at its checkpoint. */
  confirmed(): void;
  /** Another owner has the stream, or its row is gone: this ledger must not flush again. */
  fenced(row: Checkpoint | undefined): void;
  /** The database went away or came back. */
  databaseAvailable(available: boolean, error?: unknown): void;
  /** Something of ours failed: the shard cannot go on. */
  failed(error: unknown): void;
}

/** When to flush. */
export interface FlusherOptions extends FlushScheduleOptions {
  /** A ledger with this many live keys is flushed early. */
  readonly keysMax: number;
  /** Makes what was applied durable before it is frozen. */
  readonly sync: () => void | Promise<void>;
  /**
   * Applies what waits to be; everything that the stream accepted before the time returned (ms since 1970) is then applied.
   * So the ledger is to be looked at after this.
   */
  readonly acceptedThroughMs: () => number;
}

/** The flush loop of one stream. */
export class Flusher {
  readonly #pendingSums: PendingSums;
  readonly #target: FlushTarget;
  readonly #clock: Clock;
  readonly #options: FlusherOptions;
  readonly #events: FlusherEvents;
  #state: 'running' | 'draining' | 'ended' = 'running';
  #available = true;
  readonly #waiters = new FlushWaiters();
  #timer: Timer | undefined;
  #wake: (() => void) | undefined;
  readonly #schedule: FlushSchedule;
  #done: Promise<void> | undefined;

  constructor(
    pendingSums: PendingSums,
    target: FlushTarget,
    clock: Clock,
    options: FlusherOptions,
    events: FlusherEvents,
  ) {
    this.#pendingSums = pendingSums;
    this.#target = target;
    this.#clock = clock;
    this.#options = options;
    this.#events = events;
    this.#schedule = new FlushSchedule(clock, options);
  }

  /** Starts the loop; `away`: why the database cannot be reached, where that is known. */
  start(unavailable?: unknown): void {
    if (unavailable !== undefined) this.#setAvailable(false, unavailable);
    this.#done = this.#run().catch((error: unknown) => {
      this.#state = 'ended';
      this.#events.failed(error);
    });
  }

  /** To be called after records were applied: wakes the loop where enough keys wait. */
  noticeApplied(): void {
    if (this.#pendingSums.liveKeys >= this.#options.keysMax && this.#wake !== undefined && this.#available)
      this.#wake();
  }

  /** Looks soon whether the row of an idle stream is where it was left. What is pending has its flush for that. */
  touchSoon(): void {
    if (!this.#pendingSums.isSettled) return;
    this.#schedule.askForTouch();
    this.#wake?.();
  }

  /**
   * Commits everything applied before the call; resolves to the number of keys written meanwhile. Rejects with
   * `database-unavailable` as soon as that is known, with `overloaded` where too many wait.
   */
  flushNow(): Promise<number> {
    const target = this.#pendingSums.appliedLsn;
    if (this.#pendingSums.checkpoint >= target) return Promise.resolve(0);
    if (this.#state === 'ended' || !this.#available) return Promise.reject(databaseUnavailable());
    const flushed = this.#waiters.add(target);
    this.#wake?.();
    return flushed;
  }

  /**
   * Flushes what is left and ends the loop: at once where the database is away, since what is pending is in the journal.
   * True if nothing is left.
   */
  async drain(): Promise<boolean> {
    if (this.#state === 'running') this.#state = 'draining';
    this.#wake?.();
    await this.#done;
    return this.#pendingSums.isSettled;
  }

  async #run(): Promise<void> {
    while (this.#state !== 'ended') {
      if (!this.#isAsked()) await this.#wait(this.#schedule.restMs(this.#available));
      // First, since it may apply something.
      const acceptedThroughMs = this.#options.acceptedThroughMs();
      const isIdle = this.#pendingSums.isSettled;
      if (isIdle) this.#waiters.answer(this.#pendingSums.checkpoint);
      if (isIdle && this.#state === 'draining') break;
      // While the database is away a flush is how the loop learns that it is back.
      const isFlush = !isIdle && (this.#isAsked() || this.#schedule.isFlushDue || !this.#available);
      if (isFlush || this.#schedule.isFlushDue) this.#schedule.beginInterval();
      if (isFlush) {
        if (!(await this.#flushRange(acceptedThroughMs))) break;
        this.#waiters.answer(this.#pendingSums.checkpoint);
      } else if (!(await this.#touchWhenDue(isIdle ? acceptedThroughMs : undefined))) {
        break;
      }
    }
    this.#state = 'ended';
    this.#waiters.reject();
  }

  /** Whether there is a reason not to wait for an interval. */
  #isAsked(): boolean {
    return this.#state !== 'running' || !this.#waiters.isEmpty || this.#pendingSums.liveKeys >= this.#options.keysMax;
  }

  /** Flushes one range to its end; false where the loop must end: fenced, or draining without a database. */
  async #flushRange(acceptedThroughMs: number): Promise<boolean> {
    // Only synced records may be frozen: a flush that commits a record which a power loss then takes back would let its
    // LSN be given to another.
    if (this.#pendingSums.frozen === undefined) await this.#options.sync();
    const range = this.#pendingSums.frozen ?? this.#pendingSums.freeze(acceptedThroughMs);
    let backoffMs = BACKOFF_FIRST_MS;
    let searchBackoffMs = BACKOFF_MAX_MS;
    let poisoned = false;
    let refusals = 0;
    for (;;) {
      let attempt = poisoned
        ? await this.#target.flushSettingAside(this.#pendingSums, range)
        : await this.#target.flush(this.#pendingSums, range);
      if (attempt.kind === 'unknown') attempt = await this.#settleUnknown(range, attempt.error);
      switch (attempt.kind) {
        case 'committed': {
          this.#setAvailable(true);
          // Before the range is settled, which clears its map for another round.
          const flush = committedFlush(range, attempt);
          this.#pendingSums.settle();
          this.#schedule.noticeTouch();
          this.#waiters.count(attempt.keys);
          this.#events.committed(range, flush);
          return true;
        }
        case 'fenced':
          this.#events.fenced(attempt.row ?? (await this.#ownerOf(this.#pendingSums.stream)));
          return false;
        case 'poison':
          if (!poisoned) {
            poisoned = true;
            continue;
          }
          // It was not found, or has changed meanwhile; the next attempt looks again. Said each time.
          this.#setAvailable(false, attempt.error, true);
          if (this.#state === 'draining') return false;
          searchBackoffMs = await this.#backOff(searchBackoffMs, SEARCH_BACKOFF_MAX_MS);
          continue;
        case 'refused':
          // A lock or statement timeout is no outage; being refused again and again is as good as one.
          refusals += 1;
          if (refusals >= REFUSALS_UNTIL_UNAVAILABLE) this.#setAvailable(false, attempt.error);
          break;
        case 'unreachable':
        case 'unknown':
          this.#setAvailable(false, attempt.error);
      }
      if (this.#state === 'draining' && !this.#available) return false;
      backoffMs = await this.#backOff(backoffMs);
    }
  }

  /** Settles a flush whose reply was lost, by reading the row back until it can be read. */
  async #settleUnknown(range: FrozenRange, cause: unknown): Promise<FlushAttempt> {
    let backoffMs = BACKOFF_FIRST_MS;
    for (;;) {
      let row: Checkpoint | undefined;
      try {
        row = await this.#target.readBack(this.#pendingSums.stream);
      } catch (error) {
        this.#setAvailable(false, error);
        if (this.#state === 'draining') return { kind: 'unknown', error };
        backoffMs = await this.#backOff(backoffMs);
        continue;
      }
      if (row?.epoch !== this.#pendingSums.epoch) return { kind: 'fenced', row };
      if (row.lsn === range.toLsn) return { kind: 'committed', keys: range.sums.size };
      return row.lsn === range.fromLsn ? { kind: 'refused', error: cause } : { kind: 'fenced', row };
    }
  }

  /** The row of a stream that was fenced, or undefined where it cannot be read now. */
  async #ownerOf(stream: string): Promise<Checkpoint | undefined> {
    try {
      return await this.#target.readBack(stream);
    } catch (error) {
      this.#setAvailable(false, error);
      return undefined;
    }
  }

  /** Waits around `backoffMs`; returns the next one. */
  async #backOff(backoffMs: number, maxMs = BACKOFF_MAX_MS): Promise<number> {
    await this.#wait(backoffMs * (0.5 + 0.5 * this.#options.random()));
    return Math.min(2 * backoffMs, maxMs);
  }

  /**
   * False where the stream is not where this ledger left it: another owner has it, or the database went back in time. The
   * journal may still reach back so far, but not for ever, so this cannot be left to the next flush. `accepted_through`
   * stays where it is while something waits for a flush.
   */
  async #touchWhenDue(acceptedThroughMs: number | undefined): Promise<boolean> {
    if (this.#available && !this.#schedule.isTouchDue) return true;
    this.#schedule.noticeTouch();
    let isOurs: boolean;
    try {
      isOurs = await this.#target.touch(this.#pendingSums, acceptedThroughMs);
    } catch (error) {
      this.#setAvailable(false, error);
      return true;
    }
    this.#setAvailable(true);
    if (isOurs) this.#events.confirmed();
    else this.#events.fenced(await this.#ownerOf(this.#pendingSums.stream));
    return isOurs;
  }

  /** Waits for the delay, for a request, or for enough keys. */
  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const finish = (): void => {
        this.#timer?.cancel();
        this.#timer = undefined;
        this.#wake = undefined;
        resolve();
      };
      this.#wake = finish;
      this.#timer = this.#clock.schedule(delayMs, finish);
    });
  }

  #setAvailable(available: boolean, error?: unknown, isSaidAgain = false): void {
    if (!available) this.#waiters.reject();
    if (available === this.#available && !isSaidAgain) return;
    this.#available = available;
    this.#events.databaseAvailable(available, error);
  }
}
