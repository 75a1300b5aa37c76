/**
 * Stats: numbers in shared memory that a shard writes and others read. Any thread.
 *
 * ```text
 * row of a shard: cells of STAT | histograms
 * sequence cell:  even ──beginChange──► odd (the balance is being written) ──endChange──► even
 * ```
 *
 * A reader that needs consistent cells copies the row, and uses the copy only if the sequence was even and has not changed
 * meanwhile (a sequence lock: the writer never waits). Only the shard's thread writes. After its end the main thread does, and
 * repairs the sequence if the thread ended during a change.
 */
import {
  Histogram,
  histogramCells,
  readHistogram,
  type HistogramBounds,
  type HistogramReading,
} from '../../core/histogram.js';

/**
 * Cells of a shard's row of doubles. Each cell except `roomWanted` has one writer. So plain stores are enough for a reader of
 * one cell: it may see an old value, but no torn one on 64-bit machines.
 */
export const STAT = {
  pendingKeys: 0,
  pendingBytes: 1,
  journalBytes: 2,
  accepted: 3,
  recovered: 4,
  flushed: 5,
  rejected: 6,
  handedOver: 7,
  lost: 8,
  pendingIncrements: 9,
  /** Increments of duplicates: requests whose idempotency key was recorded before. */
  deduplicated: 10,
  /** Idempotency keys that were reused with other content. */
  mismatches: 11,
  /** Idempotent requests that are pending. */
  pendingIdempotent: 12,
  /** Idempotency keys that this process recorded. */
  recordedIdempotencyKeys: 13,
  /** 1 while the disk refuses the writes of the journal, else 0. */
  journalRefused: 14,
  /**
   * 1 after a refusal for lack of room that a flush may make. HTTP threads write 1, the shard writes 0 when it flushes. If the two
   * cross, the next refusal writes 1 again.
   */
  roomWanted: 15,
  /** The shard's own stream: its checkpoint, the end of the range whose flush is under way, and the last LSN applied. */
  ownCheckpointLsn: 16,
  ownFrozenLsn: 17,
  ownAppliedLsn: 18,
  /** Increments of the own stream that are pending up to, and above, `ownFrozenLsn`. */
  ownFrozenIncrements: 19,
  ownLiveIncrements: 20,
  /** 1 while requests with an idempotency key are refused, because no row of a stream covers them; else 0. */
  idempotentRefused: 21,
  /** Seen as 32-bit integers: the sequence of the row. */
  sequence: 22,
  /** Increments taken over from other nodes. */
  adopted: 23,
  /** Idempotent requests that were answered as replays. */
  replays: 24,
  journalSegments: 25,
  /** When the oldest pending record was accepted, ms since 1970; 0 where nothing is pending. */
  oldestPendingAtMs: 26,
  /** Flush attempts that did not commit and were repeated. */
  flushRetries: 27,
  /** Number of times that another process had moved the stream's row. */
  fenced: 28,
  /** Number of restarts of the shard. Written by the main thread. */
  restarts: 29,
  /**
   * The stream generation: rises when the shard begins a stream of a shared journal. A batch carries the generation in which it was
   * opened. A process may be suspended meanwhile, and a request accepted under one stream must not be appended to a later one.
   */
  generation: 30,
} as const;

const CACHE_LINE_CELLS = 8;

function wholeCacheLines(cells: number): number {
  return Math.ceil(cells / CACHE_LINE_CELLS) * CACHE_LINE_CELLS;
}

/** Cells before the histograms, which begin on a new cache line. */
const STAT_CELLS = wholeCacheLines(Object.keys(STAT).length);

const SYNC_SECONDS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const FLUSH_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const GROUP_RECORDS = [1, 2, 3, 4, 6, 8, 16, 32, 64, 128];
const FLUSH_KEYS = [1, 10, 100, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/** The histograms of a shard, in the order in which they lie in its row. */
export const SHARD_HISTOGRAMS = {
  journalSyncSeconds: SYNC_SECONDS,
  flushSeconds: FLUSH_SECONDS,
  groupRecords: GROUP_RECORDS,
  flushKeys: FLUSH_KEYS,
} as const satisfies Record<string, HistogramBounds>;
export type ShardHistogram = keyof typeof SHARD_HISTOGRAMS;

/** Cells of a row. The rows of two threads share no cache line. */
const STAT_ROW_CELLS = Object.values(SHARD_HISTOGRAMS).reduce(
  (cells, bounds) => wholeCacheLines(cells + histogramCells(bounds)),
  STAT_CELLS,
);

/** Makes the stats of `shards` shards, all zero. */
export function makeStats(shards: number): SharedArrayBuffer {
  return new SharedArrayBuffer(shards * STAT_ROW_CELLS * Float64Array.BYTES_PER_ELEMENT);
}

/** The row of one shard. */
export function statsRow(stats: SharedArrayBuffer, shard: number): Float64Array {
  return new Float64Array(stats, shard * STAT_ROW_CELLS * Float64Array.BYTES_PER_ELEMENT, STAT_ROW_CELLS);
}

/** The cells of one histogram within a row. */
function histogramIn(row: Float64Array, name: ShardHistogram): Float64Array {
  let at = STAT_CELLS;
  for (const [other, bounds] of Object.entries(SHARD_HISTOGRAMS)) {
    const end = at + histogramCells(bounds);
    if (other === name) return row.subarray(at, end);
    at = end;
  }
  throw new TypeError(`no histogram is named ${name}`);
}

/** The writing end of a histogram of a shard. */
export function shardHistogram(row: Float64Array, name: ShardHistogram): Histogram {
  return new Histogram(histogramIn(row, name), SHARD_HISTOGRAMS[name]);
}

/** Adds up a histogram of shards, from their rows or from copies of these. */
export function readShardHistogram(rows: readonly Float64Array[], name: ShardHistogram): HistogramReading {
  return readHistogram(
    rows.map((row) => histogramIn(row, name)),
    SHARD_HISTOGRAMS[name],
  );
}

/** The sequence of a row. See the file's head. */
export class StatsSequence {
  readonly #cell: Int32Array;

  constructor(row: Float64Array) {
    this.#cell = new Int32Array(row.buffer, row.byteOffset + STAT.sequence * Float64Array.BYTES_PER_ELEMENT, 1);
  }

  /** Precedes stores to cells that belong together. */
  beginChange(): void {
    Atomics.add(this.#cell, 0, 1);
    // Keeps the following stores behind the addition: without this load arm64 could make them visible before it.
    Atomics.load(this.#cell, 0);
  }

  /** The cells belong together again. */
  endChange(): void {
    Atomics.add(this.#cell, 0, 1);
  }

  /** Begins a change after the writer has ended, perhaps in the middle of a change of its own. */
  beginRepair(): void {
    Atomics.or(this.#cell, 0, 1);
    Atomics.load(this.#cell, 0);
  }

  /** Where the sequence is; odd during a change. */
  get position(): number {
    return Atomics.load(this.#cell, 0);
  }

  /**
   * Whether the sequence is still at `position`. Adds 0 instead of loading: on arm64 earlier loads could happen after a load.
   */
  isAt(position: number): boolean {
    return Atomics.add(this.#cell, 0, 0) === position;
  }
}

/** Copies a consistent row into `copy`. False where the shard was writing: try again. */
export function copyRow(row: Float64Array, sequence: StatsSequence, copy: Float64Array): boolean {
  const before = sequence.position;
  if (before % 2 !== 0) return false;
  copy.set(row);
  return sequence.isAt(before);
}

/** Increments of all shards since the process started. */
export interface Conservation {
  readonly accepted: number;
  readonly recovered: number;
  /** Taken over from other nodes. */
  readonly adopted: number;
  readonly flushed: number;
  readonly pending: number;
  /** In duplicates: requests whose idempotency key was recorded before. */
  readonly deduplicated: number;
  readonly rejected: number;
  readonly handedOver: number;
  readonly lost: number;
  /** Accepted + recovered + adopted − all others. 0, except during a step of a shard; otherwise a bug. */
  readonly difference: number;
}

/** A cell of a shard's row. */
export function statOf(row: Float64Array, cell: number): number {
  return row[cell] ?? 0;
}

/** The sum of a cell over all shards. */
export function statTotal(stats: SharedArrayBuffer, shards: number, cell: number): number {
  let sum = 0;
  for (let shard = 0; shard < shards; shard += 1) sum += statOf(statsRow(stats, shard), cell);
  return sum;
}

/** When the oldest pending record of all shards was accepted, ms since 1970; undefined where nothing is pending. */
export function oldestPendingAtMs(stats: SharedArrayBuffer, shards: number): number | undefined {
  let oldest: number | undefined;
  for (let shard = 0; shard < shards; shard += 1) {
    const atMs = statOf(statsRow(stats, shard), STAT.oldestPendingAtMs);
    if (atMs > 0 && (oldest === undefined || atMs < oldest)) oldest = atMs;
  }
  return oldest;
}

/**
 * Closes the balance of a shard whose thread has ended: moves its pending increments to `cell`. Returns their number.
 */
export function closeBalance(row: Float64Array, cell: typeof STAT.handedOver | typeof STAT.lost): number {
  const at = (of: number): number => row[of] ?? 0;
  const settled = [STAT.flushed, STAT.deduplicated, STAT.rejected, STAT.handedOver, STAT.lost];
  const came = at(STAT.accepted) + at(STAT.recovered) + at(STAT.adopted);
  const left = settled.reduce<number>((rest, of) => rest - at(of), came);
  const sequence = new StatsSequence(row);
  sequence.beginRepair();
  row[cell] = at(cell) + left;
  row[STAT.pendingIncrements] = 0;
  row[STAT.pendingKeys] = 0;
  row[STAT.pendingBytes] = 0;
  row[STAT.pendingIdempotent] = 0;
  row[STAT.oldestPendingAtMs] = 0;
  // The next thread writes them once it has a stream.
  row[STAT.ownCheckpointLsn] = 0;
  row[STAT.ownAppliedLsn] = 0;
  sequence.endChange();
  return left;
}

/** The balance of all shards. */
export function conservation(stats: SharedArrayBuffer, shards: number): Conservation {
  const total = (cell: number): number => statTotal(stats, shards, cell);
  const accepted = total(STAT.accepted);
  const recovered = total(STAT.recovered);
  const adopted = total(STAT.adopted);
  const flushed = total(STAT.flushed);
  const pending = total(STAT.pendingIncrements);
  const deduplicated = total(STAT.deduplicated);
  const rejected = total(STAT.rejected);
  const handedOver = total(STAT.handedOver);
  const lost = total(STAT.lost);
  const settled = flushed + deduplicated + rejected + handedOver + lost;
  const difference = accepted + recovered + adopted - settled - pending;
  return { accepted, recovered, adopted, flushed, pending, deduplicated, rejected, handedOver, lost, difference };
}
