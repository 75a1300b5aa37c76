/** The data of one scrape: a consistent copy of each shard's stats, and everything else at that moment. Main thread. */
import { pause } from '../../core/clock.js';
import type { Config } from '../../config/config.js';
import { CounterError } from '../../core/errors.js';
import { copyRow, statsRow, StatsSequence } from '../../shard-worker/protocol/stats.js';

/** The sources of a snapshot. */
export interface MetricsSources {
  readonly config: Config;
  readonly versions: { readonly version: string; readonly node: string; readonly uws: string };
  /** Written by the shards. */
  readonly stats: SharedArrayBuffer;
  /** Written by the HTTP servers: `http/request-stats.ts` and `shard-worker/client/batch-stats.ts`. */
  readonly requestStats: SharedArrayBuffer;
  readonly batchStats: SharedArrayBuffer;
  /** Bytes that HTTP servers have sent to a shard without an answer yet. */
  readonly inFlightBytes: (shard: number) => number;
  /** Open HTTP connections, about. */
  readonly connections: number;
  readonly isDatabaseAvailable: () => boolean;
  /** Whether the journals of all shards take records. */
  readonly isJournalAvailable: () => boolean;
  readonly isReady: () => boolean;
  /** Rows of the table of idempotency keys, about. */
  readonly idempotencyRows: () => number;
  readonly pruningHeldSeconds: () => number;
}

/** See the file's head. */
export interface MetricsSnapshot {
  readonly sources: MetricsSources;
  /** A copy of each shard's row. */
  readonly shards: readonly Float64Array[];
  /** ms since 1970. */
  readonly atMs: number;
}

/** A shard writes for well under a microsecond, unless its thread is interrupted. */
const COPIES_AT_ONCE = 100;
const RETRY_MS = 1;
const RETRIES_MAX = 1000;

/**
 * Takes a snapshot. Rejects with CounterError `overloaded` if a shard does not finish a change for a second, because its thread
 * does not run or has ended.
 */
export async function takeSnapshot(sources: MetricsSources): Promise<MetricsSnapshot> {
  const shards: Float64Array[] = [];
  for (let shard = 0; shard < sources.config.shards; shard += 1) {
    shards.push(await consistentCopy(statsRow(sources.stats, shard)));
  }
  return { sources, shards, atMs: Date.now() };
}

async function consistentCopy(row: Float64Array): Promise<Float64Array> {
  const sequence = new StatsSequence(row);
  const copy = new Float64Array(row.length);
  for (let retry = 0; retry <= RETRIES_MAX; retry += 1) {
    if (retry > 0) await pause(RETRY_MS);
    for (let attempt = 0; attempt < COPIES_AT_ONCE; attempt += 1) if (copyRow(row, sequence, copy)) return copy;
  }
  throw new CounterError('overloaded', 'A shard has not finished a change of its numbers for a second; scrape again.');
}
