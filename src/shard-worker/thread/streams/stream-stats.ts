/**
 * What streams contribute to the stats of their shard. Shard thread.
 */
import { STAT } from '../../protocol/stats.js';
import type { CommittedFlush } from '../flush/range-flush.js';
import type { PendingSums } from '../pending-sums.js';
import type { Journal } from '../../journal/journal.js';

/** What a stream contributes. */
export interface CountedStream {
  readonly pendingSums: PendingSums;
  readonly journal: Pick<Journal, 'bytes' | 'segments'>;
}

/** Adds to a cell of a shard's stats. */
export function addTo(stats: Float64Array, cell: number, amount: number): void {
  stats[cell] = (stats[cell] ?? 0) + amount;
}

/** Adds a committed flush to a shard's stats. */
export function countFlush(flush: CommittedFlush, stats: Float64Array): void {
  const { increments, deduplicated, recorded, mismatches } = flush;
  const rejected = flush.rejected + flush.uncovered.increments;
  addTo(stats, STAT.flushed, increments - rejected - deduplicated);
  addTo(stats, STAT.rejected, rejected);
  addTo(stats, STAT.deduplicated, deduplicated);
  addTo(stats, STAT.recordedIdempotencyKeys, recorded);
  addTo(stats, STAT.mismatches, mismatches);
}

/** Writes the totals of all streams into a shard's stats. `unreadBytes`: bytes of journals that are not read yet. */
export function publishStreams(streams: readonly CountedStream[], unreadBytes: number, stats: Float64Array): void {
  let keys = 0;
  let bytes = 0;
  let increments = 0;
  let journalBytes = unreadBytes;
  let segments = 0;
  let idempotencyKeys = 0;
  let oldestPendingAtMs = Number.POSITIVE_INFINITY;
  for (const { pendingSums, journal } of streams) {
    keys += pendingSums.pendingKeys;
    bytes += pendingSums.pendingBytes;
    increments += pendingSums.pendingIncrements;
    journalBytes += journal.bytes;
    segments += journal.segments;
    oldestPendingAtMs = Math.min(oldestPendingAtMs, pendingSums.oldestAcceptedAtMs);
    idempotencyKeys += pendingSums.pendingIdempotent;
  }
  stats[STAT.pendingKeys] = keys;
  stats[STAT.pendingBytes] = bytes;
  stats[STAT.pendingIncrements] = increments;
  stats[STAT.journalBytes] = journalBytes;
  stats[STAT.pendingIdempotent] = idempotencyKeys;
  stats[STAT.journalSegments] = segments;
  stats[STAT.oldestPendingAtMs] = Number.isFinite(oldestPendingAtMs) ? oldestPendingAtMs : 0;
}

/** Writes into a shard's stats what a successor of this thread must find in the shard's own stream. */
export function publishOwn(
  { checkpointLsn, appliedLsn, pendingIncrements, frozen }: PendingSums,
  stats: Float64Array,
): void {
  const frozenIncrements =
    frozen === undefined ? 0 : frozen.sums.increments + frozen.idempotent.increments + frozen.uncovered.increments;
  stats[STAT.ownCheckpointLsn] = checkpointLsn;
  stats[STAT.ownFrozenLsn] = frozen?.toLsn ?? checkpointLsn;
  stats[STAT.ownAppliedLsn] = appliedLsn;
  stats[STAT.ownFrozenIncrements] = frozenIncrements;
  stats[STAT.ownLiveIncrements] = pendingIncrements - frozenIncrements;
}
