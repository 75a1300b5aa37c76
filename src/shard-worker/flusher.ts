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
 * range. One flush is in flight at a time. Waits are 90 to 100 % of the interval, so that nodes do not beat in step.
 */
import type { Clock, Timer } from '../clock.js';
import { databaseAway, FlushWaiters } from './flush-waiters.js';
import type { CheckpointRow, FlushAttempt, FlushTarget } from './stream-database.js';
import type { FrozenRange, StreamLedger } from './stream-ledger.js';

const BACKOFF_FIRST_MS = 50;
const BACKOFF_MAX_MS = 1000;
const REFUSALS_UNTIL_UNAVAILABLE = 3;

/** What a committed flush came to, in increments where nothing else is said. */
export interface CommittedFlush {
  /** Rows written. */
  readonly keys: number;
  readonly increments: number;
  readonly rejected: number;
  /** Of requests whose token had been counted before. */
  readonly deduplicated: number;
  /** Tokens claimed. */
  readonly claimed: number;
  /** Tokens that had been claimed with other content. */
  readonly mismatches: number;
}

/** What the flusher tells its shard. */
export interface FlusherEvents {
  /** A range was committed: the journal may be pruned up to its end. */
  committed(range: FrozenRange, flush: CommittedFlush): void;
  /** The row of an idle stream was seen where this ledger left it: at its checkpoint. */
  confirmed(): void;
  /** Another owner has the stream, or its row is gone: this ledger must not flush again. */
  fenced(row: CheckpointRow | undefined): void;
  /** The database went away or came back. */
  databaseAvailable(available: boolean, error?: unknown): void;
  /** Something of ours failed: the shard cannot go on. */
  failed(error: unknown): void;
}

/** When to flush. */
export interface FlusherOptions {
  readonly intervalMs: number;
  /** A ledger with this many live keys is flushed early. */
  readonly keysMax: number;
  /** Makes what was applied durable before it is frozen. */
  readonly sync: () => void | Promise<void>;
  /** Everything that the stream accepted before this time (ms since 1970) has been applied. */
  readonly acceptedThroughMs: () => number;
  /** An idle stream's `accepted_through` moves this often. */
  readonly touchIntervalMs: number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
}

/** The flush loop of one stream. */
export class Flusher {
  readonly #ledger: StreamLedger;
  readonly #target: FlushTarget;
  readonly #clock: Clock;
  readonly #options: FlusherOptions;
  readonly #events: FlusherEvents;
  #state: 'running' | 'draining' | 'ended' = 'running';
  #available = true;
  readonly #waiters = new FlushWaiters();
  #timer: Timer | undefined;
  #wake: (() => void) | undefined;
  #touchedAt: number;
  #done: Promise<void> | undefined;

  constructor(ledger: StreamLedger, target: FlushTarget, clock: Clock, options: FlusherOptions, events: FlusherEvents) {
    this.#ledger = ledger;
    this.#target = target;
    this.#clock = clock;
    this.#options = options;
    this.#events = events;
    this.#touchedAt = clock.monotonic();
  }

  /** Starts the loop. */
  start(): void {
    this.#done = this.#run().catch((error: unknown) => {
      this.#state = 'ended';
      this.#events.failed(error);
    });
  }

  /** To be called after records were applied: wakes the loop where enough keys wait. */
  noticeApplied(): void {
    if (this.#ledger.liveKeys >= this.#options.keysMax && this.#wake !== undefined && this.#available) this.#wake();
  }

  /** Looks soon whether the row of an idle stream is where it was left. What is pending has its flush for that. */
  touchSoon(): void {
    if (!this.#ledger.isSettled) return;
    this.#touchedAt = Number.NEGATIVE_INFINITY;
    this.#wake?.();
  }

  /**
   * Commits everything applied before the call; resolves to the number of keys written meanwhile. Rejects with
   * `database-unavailable` as soon as that is known, with `overloaded` where too many wait.
   */
  flushNow(): Promise<number> {
    const target = this.#ledger.appliedLsn;
    if (this.#ledger.checkpoint >= target) return Promise.resolve(0);
    if (this.#state === 'ended' || !this.#available) return Promise.reject(databaseAway());
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
    return this.#ledger.isSettled;
  }

  async #run(): Promise<void> {
    while (this.#state !== 'ended') {
      if (this.#state === 'running' && this.#waiters.isEmpty) {
        await this.#wait(this.#options.intervalMs * (0.9 + 0.1 * this.#options.random()));
      }
      if (this.#ledger.isSettled) {
        this.#waiters.answer(this.#ledger.checkpoint);
        if (this.#state === 'draining') break;
        if (!(await this.#touchWhenIdle())) break;
        continue;
      }
      if (!(await this.#flushRange())) break;
      this.#waiters.answer(this.#ledger.checkpoint);
    }
    this.#state = 'ended';
    this.#waiters.reject();
  }

  /** Flushes one range to its end; false where the loop must end: fenced, or draining without a database. */
  async #flushRange(): Promise<boolean> {
    const acceptedThroughMs = this.#options.acceptedThroughMs();
    // Only synced records may be frozen: a flush that commits a record which a power loss then takes back would let its
    // LSN be given to another.
    if (this.#ledger.frozen === undefined) await this.#options.sync();
    const range = this.#ledger.frozen ?? this.#ledger.freeze(acceptedThroughMs);
    let backoffMs = BACKOFF_FIRST_MS;
    let poisoned = false;
    let refusals = 0;
    for (;;) {
      let attempt = poisoned
        ? await this.#target.flushSettingAside(this.#ledger, range)
        : await this.#target.flush(this.#ledger, range);
      if (attempt.kind === 'unknown') attempt = await this.#settleUnknown(range, attempt.error);
      switch (attempt.kind) {
        case 'committed': {
          this.#setAvailable(true);
          // Before the range is settled, which clears its map for another round.
          const flush = committedFlush(range, attempt);
          this.#ledger.settle();
          this.#touchedAt = this.#clock.monotonic();
          this.#waiters.count(attempt.keys);
          this.#events.committed(range, flush);
          return true;
        }
        case 'fenced':
          this.#events.fenced(attempt.row ?? (await this.#ownerOf(this.#ledger.stream)));
          return false;
        case 'poison':
          if (!poisoned) {
            poisoned = true;
            continue;
          }
          // It was not found, or has changed meanwhile; the next attempt looks again.
          this.#setAvailable(false, attempt.error);
          break;
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
      let row: CheckpointRow | undefined;
      try {
        row = await this.#target.readBack(this.#ledger.stream);
      } catch (error) {
        this.#setAvailable(false, error);
        if (this.#state === 'draining') return { kind: 'unknown', error };
        backoffMs = await this.#backOff(backoffMs);
        continue;
      }
      if (row?.epoch !== this.#ledger.epoch) return { kind: 'fenced', row };
      if (row.lsn === range.toLsn) return { kind: 'committed', keys: range.sums.size };
      return row.lsn === range.fromLsn ? { kind: 'refused', error: cause } : { kind: 'fenced', row };
    }
  }

  /** The row of a stream that was fenced, or undefined where it cannot be read now. */
  async #ownerOf(stream: string): Promise<CheckpointRow | undefined> {
    try {
      return await this.#target.readBack(stream);
    } catch (error) {
      this.#setAvailable(false, error);
      return undefined;
    }
  }

  /** Waits around `backoffMs`; returns the next one. */
  async #backOff(backoffMs: number): Promise<number> {
    await this.#wait(backoffMs * (0.5 + 0.5 * this.#options.random()));
    return Math.min(2 * backoffMs, BACKOFF_MAX_MS);
  }

  /**
   * False where the stream is not where this ledger left it: another owner has it, or the database went back in time. The
   * journal may still reach back so far, but not for ever: an idle stream has to notice as well.
   */
  async #touchWhenIdle(): Promise<boolean> {
    const now = this.#clock.monotonic();
    if (this.#available && now - this.#touchedAt < this.#options.touchIntervalMs) return true;
    this.#touchedAt = now;
    let isOurs: boolean;
    try {
      isOurs = await this.#target.touch(this.#ledger, this.#options.acceptedThroughMs());
    } catch (error) {
      this.#setAvailable(false, error);
      return true;
    }
    this.#setAvailable(true);
    if (isOurs) this.#events.confirmed();
    else this.#events.fenced(await this.#ownerOf(this.#ledger.stream));
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

  #setAvailable(available: boolean, error?: unknown): void {
    if (!available) this.#waiters.reject();
    if (available === this.#available) return;
    this.#available = available;
    this.#events.databaseAvailable(available, error);
  }
}

type CommittedAttempt = Extract<FlushAttempt, { readonly kind: 'committed' }>;

function committedFlush({ sums, tokened }: FrozenRange, attempt: CommittedAttempt): CommittedFlush {
  const { keys, rejected = 0, unclaimed = [], mismatches = 0 } = attempt;
  let deduplicated = tokened.duplicates;
  for (const token of unclaimed) deduplicated += tokened.get(token)?.increments ?? 0;
  const increments = sums.increments + tokened.increments;
  return { keys, increments, rejected, deduplicated, claimed: tokened.size - unclaimed.length, mismatches };
}
