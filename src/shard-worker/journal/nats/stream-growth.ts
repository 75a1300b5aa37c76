/**
 * Which streams grow in the broker, by the numbers of messages at each list of the subjects. Shard thread.
 *
 * A writer that cannot reach the database shows life in this way only. One that can has a newer sign of life in its row: where the
 * last one is old, a message that came not long after it may be the last one of a writer that is gone.
 */

/** What a simulation shortens, in ms. */
export interface GrowthIntervals {
  /** The longest time between two signs of life in the row of a living writer. */
  readonly signsApartMs: number;
  /** How long growth counts: longer than a few of the records that an idle writer appends without the database, one a second. */
  readonly growthCountsMs: number;
  /** How long a stream must have been seen before what was not seen counts. */
  readonly firstSightMs: number;
}

/** Those of the product. */
export const GROWTH_INTERVALS: GrowthIntervals = { signsApartMs: 3500, growthCountsMs: 4500, firstSightMs: 3500 };

interface Seen {
  readonly messages: number;
  readonly firstSeenAt: number;
  /** The list that saw more messages than the one before, and that one. */
  readonly grownAt: number;
  readonly grownAfter: number;
}

/** The growth of the streams that are open. Times are on the monotonic clock, in ms. */
export class StreamGrowth {
  #seen = new Map<string, Seen>();
  #listedAt = Number.NEGATIVE_INFINITY;
  readonly #intervals: GrowthIntervals;

  constructor(intervals: GrowthIntervals = GROWTH_INTERVALS) {
    this.#intervals = intervals;
  }

  /** The subjects with the numbers of their messages, as asked for at `now`, and the streams that are open. */
  noteList(subjects: ReadonlyMap<string, number>, open: ReadonlySet<string>, now: number): void {
    const seen = new Map<string, Seen>();
    for (const [stream, messages] of subjects) {
      if (!open.has(stream)) continue;
      const before = this.#seen.get(stream);
      const never = Number.NEGATIVE_INFINITY;
      // A purge makes them fewer.
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

  /** Whether a writer may be alive whose last sign of life in the database came at `signAt`; minus infinity: it has none. */
  mayBeWritten(stream: string, signAt: number, now: number): boolean {
    const seen = this.#seen.get(stream);
    if (seen === undefined) return false;
    if (now - seen.firstSeenAt < this.#intervals.firstSightMs) return true;
    const { growthCountsMs, signsApartMs } = this.#intervals;
    return now - seen.grownAt < growthCountsMs && seen.grownAfter > signAt + signsApartMs;
  }
}
