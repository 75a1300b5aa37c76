/** The batch stats of an HTTP server, in shared memory that the main thread reads. HTTP thread and main thread. */
import {
  Histogram,
  histogramCells,
  readHistogram,
  type HistogramBounds,
  type HistogramReading,
} from '../../core/histogram.js';

/** The histograms of an HTTP server, in the order of its row. */
export const BATCH_HISTOGRAMS = {
  ackSeconds: [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  batchRequests: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048],
} as const satisfies Record<string, HistogramBounds>;
export type BatchHistogram = keyof typeof BATCH_HISTOGRAMS;

const ACK_CELLS = histogramCells(BATCH_HISTOGRAMS.ackSeconds);
/** Rounded up so that the rows of two threads do not share a cache line. */
const ROW_CELLS = Math.ceil((ACK_CELLS + histogramCells(BATCH_HISTOGRAMS.batchRequests)) / 16) * 16;

/** Makes the stats of `httpThreads` HTTP servers, all zero. */
export function makeBatchStats(httpThreads: number): SharedArrayBuffer {
  return new SharedArrayBuffer(httpThreads * ROW_CELLS * Float64Array.BYTES_PER_ELEMENT);
}

/** The writing end of one HTTP server. */
export class BatchStats {
  /** Seconds from the first request of a batch to its answer; every request of the batch counts. */
  readonly ackSeconds: Histogram;
  /** Requests of a batch. */
  readonly batchRequests: Histogram;

  /** `httpThread` is 0 for the main thread. */
  constructor(stats: SharedArrayBuffer, httpThread: number) {
    this.ackSeconds = new Histogram(cellsOf(stats, httpThread, 'ackSeconds'), BATCH_HISTOGRAMS.ackSeconds);
    this.batchRequests = new Histogram(cellsOf(stats, httpThread, 'batchRequests'), BATCH_HISTOGRAMS.batchRequests);
  }
}

/** A histogram of all HTTP servers together. */
export function readBatchHistogram(stats: SharedArrayBuffer, name: BatchHistogram): HistogramReading {
  const threads = stats.byteLength / (ROW_CELLS * Float64Array.BYTES_PER_ELEMENT);
  const parts = Array.from({ length: threads }, (_, thread) => cellsOf(stats, thread, name));
  return readHistogram(parts, BATCH_HISTOGRAMS[name]);
}

function cellsOf(stats: SharedArrayBuffer, httpThread: number, name: BatchHistogram): Float64Array {
  const cell = httpThread * ROW_CELLS + (name === 'ackSeconds' ? 0 : ACK_CELLS);
  return new Float64Array(stats, cell * Float64Array.BYTES_PER_ELEMENT, histogramCells(BATCH_HISTOGRAMS[name]));
}
