/**
 * Finds streams that grow in the broker, by the number of messages in each list of the subjects. Shard thread.
 *
 * Growth is the only heartbeat of a writer that cannot reach the database. A writer that can has a newer heartbeat in the
 * database. So a message that came soon after an old heartbeat may be the last one of a dead writer.
 */

/** Intervals that a simulation shortens, in ms. */
export interface GrowthIntervals {
  /** The longest time between two heartbeats of a living writer in the database. */
  readonly signsApartMs: number;
  /** How long growth counts. An idle writer without the database appends a record each second. */
  readonly growthCountsMs: number;
  /** How long a new stream counts as written, whether it grows or not. */
  readonly firstSightMs: number;
}
export const GROWTH_INTERVALS: GrowthIntervals = { signsApartMs: 3500, growthCountsMs: 4500, firstSightMs: 3500 };

interface Seen {
  readonly messages: number;
  readonly firstSeenAt: number;
  /** The times of the list that showed more messages than the one before, and of the one before. */
  readonly grownAt: number;
  readonly grownAfter: number;
}

/** The growth of the open streams. Times are on the monotonic clock, in ms. */
export class StreamGrowth {
  #seen = new Map<string, Seen>();
  #listedAt = Number.NEGATIVE_INFINITY;
  readonly #intervals: GrowthIntervals;

  constructor(intervals: GrowthIntervals = GROWTH_INTERVALS) {
    this.#intervals = intervals;
  }

  /** Notes a list of the subjects with the numbers of their messages, requested at `now`, and the open streams. */
  noteList(subjects: ReadonlyMap<string, number>, open: ReadonlySet<string>, now: number): void {
    const seen = new Map<string, Seen>();
    for (const [stream, messages] of subjects) {
      if (!open.has(stream)) continue;
      const before = this.#seen.get(stream);
      const never = Number.NEGATIVE_INFINITY;
      // A purge makes the number smaller.
      const hasGrown = before !== undefined && messages > before.messages;
      seen.set(stream, {
        messages,
        firstSeenAt: before?.firstSeenAt ?? now,
        grownAt: hasGrown ? now : (before?.grownAt ?? never),
        grownAfter: hasGrown ? this.#listedAt : (before?.grownAfter ?? never),
      });
    }
    this.#seen = seen;
    this.#listedAt = now;
  }

  /** Whether a writer may be alive. `signAt`: of its last heartbeat in the database; minus infinity: it has none. */
  mayBeWritten(stream: string, signAt: number, now: number): boolean {
    const seen = this.#seen.get(stream);
    if (seen === undefined) return false;
    if (now - seen.firstSeenAt < this.#intervals.firstSightMs) return true;
    const { growthCountsMs, signsApartMs } = this.#intervals;
    return now - seen.grownAt < growthCountsMs && seen.grownAfter > signAt + signsApartMs;
  }
}
