/**
 * Conservation: what came in is what went out and what is held. Main thread, from the gauges of all shards.
 */
import { STAT, statsRow } from './messages.js';

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
