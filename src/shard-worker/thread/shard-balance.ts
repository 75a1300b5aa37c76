/**
 * What a shard publishes in shared memory. Shard thread.
 *
 * Each change is published as one. Readers see the increments that were accepted, recovered or flushed together with what is
 * pending, so the balance holds at every moment.
 */
import type { Histogram } from '../../core/histogram.js';
import type { Journal } from '../journal/journal.js';
import { shardHistogram, STAT, StatsSequence } from '../protocol/stats.js';
import type { CommittedFlush } from './flush/range-flush.js';
import type { PendingSums } from './pending-sums.js';

/** Increments that moved within the balance since the last publication. */
export interface MovedIncrements {
  readonly accepted?: number;
  readonly recovered?: number;
  readonly adopted?: number;
  readonly handedOver?: number;
  readonly lost?: number;
  readonly rejected?: number;
  readonly flush?: CommittedFlush;
}

/** The state that is published with each change. */
export interface Published {
  /** Writes what is pending, and other cells of its own. */
  publishTo(stats: Float64Array): void;
}

/** The row of one shard in the stats. */
export class ShardBalance {
  readonly #stats: Float64Array;
  readonly #sequence: StatsSequence;
  readonly #groupRecords: Histogram;
  readonly #flushSeconds: Histogram;
  readonly #flushKeys: Histogram;

  constructor(stats: Float64Array) {
    this.#stats = stats;
    this.#sequence = new StatsSequence(stats);
    this.#groupRecords = shardHistogram(stats, 'groupRecords');
    this.#flushSeconds = shardHistogram(stats, 'flushSeconds');
    this.#flushKeys = shardHistogram(stats, 'flushKeys');
  }

  /** Publishes moved and pending increments as one change. */
  publish(published: Published, moved: MovedIncrements = {}): void {
    this.#sequence.beginChange();
    this.#add(moved);
    published.publishTo(this.#stats);
    this.#sequence.endChange();
  }

  /** Publishes a move that changes nothing pending. */
  move(moved: MovedIncrements): void {
    this.#sequence.beginChange();
    this.#add(moved);
    this.#sequence.endChange();
  }

  #add(moved: MovedIncrements): void {
    const { accepted = 0, recovered = 0, adopted = 0, handedOver = 0, lost = 0, rejected = 0, flush } = moved;
    const stats = this.#stats;
    addTo(stats, STAT.accepted, accepted);
    addTo(stats, STAT.recovered, recovered);
    addTo(stats, STAT.adopted, adopted);
    addTo(stats, STAT.handedOver, handedOver);
    addTo(stats, STAT.lost, lost);
    addTo(stats, STAT.rejected, rejected);
    if (flush !== undefined) countFlush(flush, stats);
  }

  /** Adds to a cell that is not part of the balance. */
  count(cell: number, amount = 1): void {
    addTo(this.#stats, cell, amount);
  }

  cell(cell: number): number {
    return this.#stats[cell] ?? 0;
  }

  observeGroup(records: number): void {
    this.#groupRecords.observe(records);
  }

  observeFlush(keys: number, ms: number): void {
    this.#flushSeconds.observe(ms / 1000);
    this.#flushKeys.observe(keys);
  }
}

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
function countFlush(flush: CommittedFlush, stats: Float64Array): void {
  const { increments, deduplicated, recorded, mismatches } = flush;
  const rejected = flush.rejected + flush.uncovered.increments;
  addTo(stats, STAT.flushed, increments - rejected - deduplicated);
  addTo(stats, STAT.rejected, rejected);
  addTo(stats, STAT.deduplicated, deduplicated);
  addTo(stats, STAT.recordedIdempotencyKeys, recorded);
  addTo(stats, STAT.mismatches, mismatches);
}

/** Writes the totals of all streams into a shard's stats. `unreadBytes`: bytes of unread journals. */
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

/** Writes into a shard's stats what a successor of this thread must find in the own stream. */
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
