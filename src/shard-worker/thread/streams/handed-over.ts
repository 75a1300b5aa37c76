/**
 * Compares what an ended thread applied to a stream with what its successor finds in the journal. Shard thread.
 *
 * After a failed sync, the system may have dropped acknowledged increments.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import type { HandedOverStream } from '../../protocol/control-messages.js';

/**
 * The LSN above which the journal must hold what was handed over, given the checkpoint of the stream. A flush under way
 * when the thread ended may have been committed.
 */
export function handedOverAbove({ checkpointLsn, frozenLsn }: HandedOverStream, checkpoint: Lsn): Lsn {
  return checkpoint >= frozenLsn ? frozenLsn : checkpointLsn;
}

/** Increments handed over above `above` and missing in a journal that ends at `endLsn` and holds `found` of them. */
export function missingIncrements(handedOver: HandedOverStream, above: Lsn, endLsn: Lsn, found: number): number {
  // All records are there, perhaps with some that were not acknowledged.
  if (endLsn >= handedOver.appliedLsn) return 0;
  const { frozenLsn, frozenIncrements, liveIncrements } = handedOver;
  const expected = liveIncrements + (above < frozenLsn ? frozenIncrements : 0);
  return Math.max(0, expected - found);
}
