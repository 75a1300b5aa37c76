/**
 * How much a shard may hold before it flushes early, whatever FLUSH_INTERVAL_MS is. Shard thread.
 *
 * The bounds of the server are divided over its shards, and a flush starts at a third of the shard's share. While that third
 * is written, a second third can arrive, which is the next flush. The last third is for requests in flight, which reserve
 * room for all of their increments until they are answered, and for shards that get more than others. So a steady load is
 * refused only where PostgreSQL cannot keep up with it.
 *
 * For the journal it is a quarter of JOURNAL_MAX_BYTES, counted from flush to flush: a quarter is written to PostgreSQL, a
 * quarter arrives, and a quarter is in the segment that both are still in. Committed records that must stay do not count.
 * A flush would not remove them, and a full journal would cause one flush after the other.
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

/** The bounds of each of `shards` shards. */
export function earlyFlush(settings: ShardSettings, shards: number): EarlyFlush {
  const { flushKeysMax, pendingKeysMax, pendingBytesMax, journal, journalBytesMax } = settings;
  const share = (max: number): number => Math.max(1, Math.floor(max / shards / SHARE_PARTS));
  return {
    keysMax: Math.min(flushKeysMax, share(pendingKeysMax)),
    bytesMax: share(pendingBytesMax),
    recordBytesMax: journal === 'memory' ? Number.POSITIVE_INFINITY : Math.floor(journalBytesMax / JOURNAL_PARTS),
  };
}
