/**
 * Stats: numbers in shared memory that a shard writes and others read. Any thread.
 */

/**
 * Cells of a shard's row of doubles. Each cell but `roomWanted` has one writer, so plain stores are enough: a reader may see
 * an old value, but no torn one on the 64-bit machines that the server supports.
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
  /** Idempotency keys that came again with other content. */
  mismatches: 11,
  /** Idempotent requests that are pending. */
  pendingIdempotent: 12,
  /** Idempotency keys that this process recorded. */
  recordedIdempotencyKeys: 13,
  /** 1 while the disk refuses the writes of the journal, else 0. */
  journalRefused: 14,
  /**
   * 1 after a request was refused for lack of room that a flush may make. HTTP threads write 1, the shard writes 0 when it
   * flushes: where these cross, the next refusal writes 1 again.
   */
  roomWanted: 15,
  /** Of the shard's own stream: the checkpoint, the end of the range whose flush is under way, and the last LSN applied. */
  ownCheckpointLsn: 16,
  ownFrozenLsn: 17,
  ownAppliedLsn: 18,
  /** Increments of the own stream that are pending up to, and above, `ownFrozenLsn`. */
  ownFrozenIncrements: 19,
  ownLiveIncrements: 20,
  /** 1 while requests with an idempotency key are refused, because no row of a stream covers them; else 0. */
  idempotentRefused: 21,
} as const;

/** Cells of a row, rounded up so that the rows of two threads do not share a cache line. */
const STAT_ROW_CELLS = 24;

/** Makes the stats of `shards` shards, all zero. */
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
  /** Of duplicates: requests whose idempotency key was recorded before. */
  readonly deduplicated: number;
  readonly rejected: number;
  readonly handedOver: number;
  readonly lost: number;
  /** Accepted + recovered − all others. 0, except during a step of a shard; otherwise a bug. */
  readonly difference: number;
}

/** The sum of a cell over all shards. */
export function statTotal(stats: SharedArrayBuffer, shards: number, cell: number): number {
  let sum = 0;
  for (let shard = 0; shard < shards; shard += 1) sum += statsRow(stats, shard)[cell] ?? 0;
  return sum;
}

/**
 * Closes the balance of a shard whose thread has ended: its pending increments count as handed over or as lost, as
 * `cell` says. Returns their number.
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
  // The next thread writes them once it has a stream.
  row[STAT.ownCheckpointLsn] = 0;
  row[STAT.ownAppliedLsn] = 0;
  return left;
}

/** The balance of all shards. */
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
