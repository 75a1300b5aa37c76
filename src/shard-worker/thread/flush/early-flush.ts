/**
 * How much a shard may hold before it flushes early, whatever FLUSH_INTERVAL_MS is. Shard thread.
 *
 * The limits of the server are divided by its shards. A flush starts at a third of a shard's share. A second third can arrive
 * while the first is written. The last third is for requests in flight, which reserve room until they are answered, and for
 * shards with more than average load. So a steady load is refused only where PostgreSQL cannot keep up.
 *
 * For the journal it is a quarter of JOURNAL_MAX_BYTES, counted from flush to flush. One quarter is written to PostgreSQL, one
 * arrives, and one is in a segment that both share. Committed records that must stay do not count. A flush does not remove
 * them, so a full journal would cause one flush after another.
 */
import type { ShardSettings } from '../../protocol/control-messages.js';

const SHARE_PARTS = 3;
const JOURNAL_PARTS = 4;

/** A stream that holds one of these is flushed. */
export interface EarlyFlush {
  /** Pending keys that a flush would write. */
  readonly keysMax: number;
  /** Bytes pending, as MAX_PENDING_BYTES counts them. */
  readonly bytesMax: number;
  /** Bytes of records since the last flush began. */
  readonly recordBytesMax: number;
}

/** The limits of each of `shards` shards. */
export function earlyFlush(settings: ShardSettings, shards: number): EarlyFlush {
  const { flushKeysMax, pendingKeysMax, pendingBytesMax, journal, journalBytesMax } = settings;
  const share = (max: number): number => Math.max(1, Math.floor(max / shards / SHARE_PARTS));
  return {
    keysMax: Math.min(flushKeysMax, share(pendingKeysMax)),
    bytesMax: share(pendingBytesMax),
    recordBytesMax: journal === 'memory' ? Number.POSITIVE_INFINITY : Math.floor(journalBytesMax / JOURNAL_PARTS),
  };
}
