/**
 * Conservation: what came in is what went out and what is held. Main thread, from the gauges of all shards.
 */
import { GAUGE, gaugeRow } from './messages.js';

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
export function gaugeTotal(gauges: SharedArrayBuffer, shards: number, cell: number): number {
  let sum = 0;
  for (let shard = 0; shard < shards; shard += 1) sum += gaugeRow(gauges, shard)[cell] ?? 0;
  return sum;
}

/**
 * Closes the balance of a shard that died: what it had taken and not settled goes to `cell`, handed over to the next or
 * lost. Returns how many increments.
 */
export function closeBalance(row: Float64Array, cell: typeof GAUGE.handedOver | typeof GAUGE.lost): number {
  const at = (of: number): number => row[of] ?? 0;
  const settled = [GAUGE.flushed, GAUGE.deduplicated, GAUGE.rejected, GAUGE.handedOver, GAUGE.lost];
  const left = settled.reduce<number>((rest, of) => rest - at(of), at(GAUGE.accepted) + at(GAUGE.recovered));
  row[cell] = at(cell) + left;
  row[GAUGE.pendingIncrements] = 0;
  row[GAUGE.pendingKeys] = 0;
  row[GAUGE.pendingBytes] = 0;
  row[GAUGE.pendingTokens] = 0;
  return left;
}

/** Adds the gauges up. */
export function conservation(gauges: SharedArrayBuffer, shards: number): Conservation {
  const total = (cell: number): number => gaugeTotal(gauges, shards, cell);
  const accepted = total(GAUGE.accepted);
  const recovered = total(GAUGE.recovered);
  const flushed = total(GAUGE.flushed);
  const pending = total(GAUGE.pendingIncrements);
  const deduplicated = total(GAUGE.deduplicated);
  const rejected = total(GAUGE.rejected);
  const handedOver = total(GAUGE.handedOver);
  const lost = total(GAUGE.lost);
  const difference = accepted + recovered - flushed - pending - deduplicated - rejected - handedOver - lost;
  return { accepted, recovered, flushed, pending, deduplicated, rejected, handedOver, lost, difference };
}
