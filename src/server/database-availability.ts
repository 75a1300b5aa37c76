/**
 * Whether the server can use its database, and the log lines about that. Main thread.
 *
 * The start and every shard report separately. One outage is one line: reports are gathered for a moment, and only a cause that
 * the log has not named yet gets another line. A lasting outage has a line each minute.
 *
 * ```text
 * available ──a report──► unavailable ──the last reporter can use it again──► available
 *                           └──a cause that was not named──► one more line
 * ```
 */
import type { Clock, Timer } from '../core/clock.js';
import type { Logger } from '../core/logger.js';
import type { DatabaseCause, DatabaseProblem } from '../db/database-problem.js';

/** How often a lasting outage is logged. */
const LASTS_MS = 60_000;
/** Shards flush once a second each, so most of them notice an outage within this time. */
const GATHER_MS = 1_000;
/** A cause that returns after this time is named again. Limits the lines of alternating causes. */
const REPEAT_MS = 10_000;

/** The start of the server, or a shard by its number. */
export type DatabaseUser = 'start' | number;

interface Outage {
  readonly sinceMs: number;
  readonly problems: Map<DatabaseUser, DatabaseProblem>;
  /** Shards that reported it at any time. */
  readonly shards: Set<number>;
  /** When the log named a cause. At most one entry for each cause. */
  readonly namedAtMs: Map<DatabaseCause, number>;
  lastNamed: DatabaseCause | undefined;
  /** Increments that were pending when the shards could flush again. */
  pending: number;
  timer: Timer | undefined;
  /** Logs that the outage lasts. */
  lasts: Timer | undefined;
}

/** See the file's head. */
export class DatabaseAvailability {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #consequence: string;
  readonly #pending: () => number;
  #outage: Outage | undefined;
  #lastReason = '';

  /**
   * `consequence`: what happens to increments meanwhile, as part of a sentence. `pending`: the number of pending increments.
   */
  constructor(clock: Clock, logger: Logger, consequence: string, pending: () => number) {
    this.#pending = pending;
    this.#clock = clock;
    this.#logger = logger;
    this.#consequence = consequence;
  }

  get isAvailable(): boolean {
    return this.#outage === undefined;
  }

  /** The reason of the current or last outage; '' before the first. */
  get lastReason(): string {
    return this.#lastReason;
  }

  /** A user cannot use the database. A repeated report of the same cause asks for another line. */
  unavailable(user: DatabaseUser, problem: DatabaseProblem): void {
    const now = this.#clock.monotonic();
    this.#outage ??= {
      sinceMs: now,
      problems: new Map(),
      shards: new Set(),
      namedAtMs: new Map(),
      lastNamed: undefined,
      pending: 0,
      timer: undefined,
      lasts: undefined,
    };
    const { problems, shards, namedAtMs } = this.#outage;
    const isRepeated = problems.get(user)?.cause === problem.cause;
    if (isRepeated && now - (namedAtMs.get(problem.cause) ?? now) >= REPEAT_MS) namedAtMs.delete(problem.cause);
    problems.set(user, problem);
    if (user !== 'start') shards.add(user);
    this.#lastReason = problem.reason;
    this.#outage.timer ??= this.#clock.schedule(GATHER_MS, () => {
      this.say();
    });
  }

  /** A user can use the database (again). `pending`: its increments that waited. */
  available(user: DatabaseUser, pending = 0): void {
    const outage = this.#outage;
    if (outage?.problems.has(user) !== true) return;
    if (outage.lastNamed === undefined) this.say();
    outage.problems.delete(user);
    outage.pending += pending;
    if (outage.problems.size > 0) return;
    outage.timer?.cancel();
    outage.lasts?.cancel();
    this.#outage = undefined;
    const seconds = secondsOf(this.#clock.monotonic() - outage.sinceMs);
    this.#logger.info(
      { shards: sorted(outage.shards), seconds, pending: outage.pending },
      `PostgreSQL available again after ${seconds} s; ${outage.pending} pending increments waited for it`,
    );
  }

  /** Writes the lines that are due now, without gathering more reports. */
  say(): void {
    const outage = this.#outage;
    if (outage === undefined) return;
    outage.timer?.cancel();
    outage.timer = undefined;
    const { problems, namedAtMs, sinceMs } = outage;
    const now = this.#clock.monotonic();
    const current = new Set([...problems.values()].map(({ cause }) => cause));
    for (const [cause, atMs] of namedAtMs) {
      if (!current.has(cause) && now - atMs >= REPEAT_MS) namedAtMs.delete(cause);
    }
    for (const cause of current) {
      if (namedAtMs.has(cause)) continue;
      const isFirst = outage.lastNamed === undefined;
      namedAtMs.set(cause, now);
      const concerned = [...problems].filter(([, problem]) => problem.cause === cause);
      const shards = sorted(concerned.flatMap(([user]) => (user === 'start' ? [] : [user])));
      const reason = concerned.at(-1)?.[1].reason ?? '';
      const still = `still unavailable after ${secondsOf(now - sinceMs)} s`;
      const event = isFirst ? 'unavailable' : cause === outage.lastNamed ? still : `${still}, now for another reason`;
      outage.lastNamed = cause;
      this.#sayThatItLasts(outage);
      this.#logger.warn({ cause, shards }, `PostgreSQL ${event}; ${this.#consequence} (reason: ${reason})`);
    }
  }

  /** Logs a minute after the last line, and each minute from then on, until the outage ends. */
  #sayThatItLasts(outage: Outage): void {
    outage.lasts?.cancel();
    outage.lasts = this.#clock.schedule(LASTS_MS, () => {
      const seconds = secondsOf(this.#clock.monotonic() - outage.sinceMs);
      const pending = this.#pending();
      const message = `PostgreSQL still unavailable after ${seconds} s; ${this.#consequence}; ${pending} are pending`;
      const fields = { cause: outage.lastNamed, shards: sorted(outage.shards), seconds, pending };
      this.#logger.warn(fields, `${message} (reason: ${this.#lastReason})`);
      this.#sayThatItLasts(outage);
    });
  }
}

function secondsOf(ms: number): number {
  return Math.round(ms / 100) / 10;
}

function sorted(shards: Iterable<number>): readonly number[] {
  return [...shards].sort((a, b) => a - b);
}
