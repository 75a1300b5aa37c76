/**
 * Histograms as numbers in shared memory: one thread counts, another reads. Any thread.
 *
 * A histogram is a run of doubles: the number of values in each bucket, then their sum. An observation is two additions and
 * makes no object.
 */

/** The upper bounds of the buckets, ascending. A last bucket takes larger values. */
export type HistogramBounds = readonly number[];

/** The number of cells of a histogram. */
export function histogramCells(bounds: HistogramBounds): number {
  return bounds.length + 2;
}

/** The writing end of one histogram. One thread writes. */
export class Histogram {
  readonly #cells: Float64Array;
  readonly #bounds: HistogramBounds;

  /** `cells` has {@link histogramCells} cells. */
  constructor(cells: Float64Array, bounds: HistogramBounds) {
    if (cells.length !== histogramCells(bounds)) throw new TypeError('the cells do not fit the bounds');
    this.#cells = cells;
    this.#bounds = bounds;
  }

  /** Counts `times` observations of `value`. */
  observe(value: number, times = 1): void {
    const bounds = this.#bounds;
    let bucket = 0;
    // In range by the condition before.
    while (bucket < bounds.length && value > (bounds[bucket] as number)) bucket += 1;
    this.#cells[bucket] = (this.#cells[bucket] ?? 0) + times;
    this.#cells[bounds.length + 1] = (this.#cells[bounds.length + 1] ?? 0) + value * times;
  }
}

/** The content of a histogram. */
export interface HistogramReading {
  /** For each bound, and last for infinity: the number of values at or below it. */
  readonly cumulative: readonly number[];
  readonly sum: number;
  readonly count: number;
}

/** Adds up the same histogram of several threads or shards. Each part has {@link histogramCells} cells. */
export function readHistogram(parts: readonly Float64Array[], bounds: HistogramBounds): HistogramReading {
  const cumulative: number[] = [];
  let count = 0;
  for (let bucket = 0; bucket <= bounds.length; bucket += 1) {
    for (const cells of parts) count += cells[bucket] ?? 0;
    cumulative.push(count);
  }
  const sum = parts.reduce((total, cells) => total + (cells[bounds.length + 1] ?? 0), 0);
  return { cumulative, sum, count };
}
