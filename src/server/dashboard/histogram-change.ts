/** The change of a histogram between two readings. Main thread. */
import type { HistogramBounds, HistogramReading } from '../../core/histogram.js';

/**
 * The quantile `share` (0 to 1) of the gained values, interpolated within its bucket; undefined without gained values. Values
 * above the last bound count as that bound.
 */
export function quantileOf(
  before: readonly number[],
  after: readonly number[],
  bounds: HistogramBounds,
  share: number,
): number | undefined {
  const gained = after.map((count, bucket) => count - (before[bucket] ?? 0));
  const count = gained.at(-1) ?? 0;
  if (count <= 0) return undefined;
  const rank = share * count;
  const bucket = gained.findIndex((below) => below >= rank);
  const upper = bounds[bucket];
  if (upper === undefined) return bounds.at(-1);
  const lower = bounds[bucket - 1] ?? 0;
  const below = gained[bucket - 1] ?? 0;
  const inBucket = (gained[bucket] ?? 0) - below;
  return inBucket === 0 ? upper : lower + ((upper - lower) * (rank - below)) / inBucket;
}

/** The mean of the gained values; undefined without any. */
export function meanOf(before: HistogramReading, after: HistogramReading): number | undefined {
  const count = after.count - before.count;
  return count <= 0 ? undefined : (after.sum - before.sum) / count;
}
