/**
 * Stats: numbers that a shard writes and others read, in shared memory. Any thread.
 */

/**
 * Numbers that a thread writes and others read, one row of doubles a shard in shared memory. Each cell has one writer,
 * so plain stores do: a reader may see a value of a moment ago, never a mixture on the 64-bit machines we run on.
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
  /** Increments of requests whose token was claimed before. */
  deduplicated: 10,
  /** Idempotency keys that came again with other content. */
  mismatches: 11,
  /** Requests with tokens that are pending. */
  pendingIdempotent: 12,
  /** Tokens that this process claimed. */
  recordedIdempotencyKeys: 13,
  /** 1 while the disk refuses what the journal has to write. */
  journalRefused: 14,
} as const;

/** Cells of a row, rounded up so that rows of two threads do not share a cache line. */
const STAT_ROW_CELLS = 16;

/** The gauges of `shards` shards, all zero. */
export function makeStats(shards: number): SharedArrayBuffer {
  return new SharedArrayBuffer(shards * STAT_ROW_CELLS * Float64Array.BYTES_PER_ELEMENT);
}

/** The row of one shard. */
export function statsRow(stats: SharedArrayBuffer, shard: number): Float64Array {
  return new Float64Array(stats, shard * STAT_ROW_CELLS * Float64Array.BYTES_PER_ELEMENT, STAT_ROW_CELLS);
}

/** Increments of all shards since the process started. */
export interface Conservation {
  readonly accepted: number;
  readonly recovered: number;
  readonly flushed: number;
  readonly pending: number;
  /** Of requests whose token had been counted before. */
  readonly deduplicated: number;
  readonly rejected: number;
  readonly handedOver: number;
  readonly lost: number;
  /** Accepted + recovered − everything else; 0 unless there is a bug, or a shard is in the middle of a step. */
  readonly difference: number;
}

/** A gauge over all shards. */
export function statTotal(stats: SharedArrayBuffer, shards: number, cell: number): number {
  let sum = 0;
  for (let shard = 0; shard < shards; shard += 1) sum += statsRow(stats, shard)[cell] ?? 0;
  return sum;
}

/**
 * Closes the balance of a shard that died: what it had taken and not settled goes to `cell`, handed over to the next or
 * lost. Returns how many increments.
 */
export function closeBalance(row: Float64Array, cell: typeof STAT.handedOver | typeof STAT.lost): number {
  const at = (of: number): number => row[of] ?? 0;
  const settled = [STAT.flushed, STAT.deduplicated, STAT.rejected, STAT.handedOver, STAT.lost];
  const left = settled.reduce<number>((rest, of) => rest - at(of), at(STAT.accepted) + at(STAT.recovered));
  row[cell] = at(cell) + left;
  row[STAT.pendingIncrements] = 0;
  row[STAT.pendingKeys] = 0;
  row[STAT.pendingBytes] = 0;
  row[STAT.pendingIdempotent] = 0;
  return left;
}

/** Adds the gauges up. */
export function conservation(stats: SharedArrayBuffer, shards: number): Conservation {
  const total = (cell: number): number => statTotal(stats, shards, cell);
  const accepted = total(STAT.accepted);
  const recovered = total(STAT.recovered);
  const flushed = total(STAT.flushed);
  const pending = total(STAT.pendingIncrements);
  const deduplicated = total(STAT.deduplicated);
  const rejected = total(STAT.rejected);
  const handedOver = total(STAT.handedOver);
  const lost = total(STAT.lost);
  const difference = accepted + recovered - flushed - pending - deduplicated - rejected - handedOver - lost;
  return { accepted, recovered, flushed, pending, deduplicated, rejected, handedOver, lost, difference };
}
