/**
 * The streams of a shared journal that a thread flushes and does not write. Shard thread.
 *
 * Two implementations: `taken-streams.ts` follows streams by position, `received-streams.ts` receives them from a queue.
 */
import type { Checkpoint } from '../../../core/checkpoint.js';
import type { Survey } from '../../journal/stream-log.js';
import type { Flusher } from '../flush/flusher.js';
import type { PendingSums } from '../pending-sums.js';
import type { MovedIncrements } from '../shard-balance.js';
import type { ShardContext } from '../shard-context.js';
import type { FlushedStream } from './shard-streams.js';

/** The streams that one thread flushes for others. */
export interface FlushedStreams {
  readonly streams: readonly FlushedStream[];
  /** Whether the sums hold everything up to the end of the stream at the last read, as far as the journal can tell. */
  isReadToEnd(stream: string): boolean;
  /** The database did not answer. */
  noticeSilence(): void;
  /**
   * Takes, releases and retires streams, about once a second. Rejects with `database-unavailable`; the next call tries again.
   */
  look(): Promise<void>;
  /**
   * Adds new records to the sums while there is room. True if there are more, undefined if it did not read. Rejects with
   * `database-unavailable` and `journal-unavailable`.
   */
  readOn(): Promise<boolean | undefined>;
  /** A flush of this thread moved the checkpoint of a stream to `at`. */
  committed(stream: string, at: Checkpoint): void;
  /** Flushes what was read, retires streams that have ended, and releases the others. */
  drain(): Promise<void>;
}

/** What the streams need of their shard. */
export interface FlushedStreamsDeps {
  readonly context: FlushingContext;
  /** Whether this thread writes the stream. */
  readonly isWrittenHere: (stream: string) => boolean;
  /** Whether this server has stopped writing the stream. */
  readonly isLeft: (stream: string) => boolean;
  /** Called after a survey of all streams, before any is taken. Without streams if the journal does not list them. */
  readonly surveyed: (survey: Survey) => void;
  readonly makeFlusher: (pendingSums: PendingSums, fenced: () => Promise<void>) => Flusher;
  /** Pending keys and bytes of all streams of this thread. */
  readonly pending: () => { readonly keys: number; readonly bytes: number };
  /** Streams were added or removed. */
  readonly changed: () => void;
  /** Increments were received or handed over. */
  readonly moved: (moved: MovedIncrements) => void;
}

/** The part of {@link ShardContext} that they use. */
interface FlushingContext extends Pick<ShardContext, 'fail'> {
  readonly deps: Pick<ShardContext['deps'], 'clock' | 'log' | 'flushIntervalMs' | 'earlyFlush'>;
  readonly reports: Pick<ShardContext['reports'], 'isAvailable'>;
}

/** Nothing is read while more keys are pending than this multiple of an early flush. */
const READ_AHEAD = 4;

/** Whether there is room for more records. */
export function hasRoom({ context, pending }: Pick<FlushedStreamsDeps, 'context' | 'pending'>): boolean {
  const { keysMax, bytesMax } = context.deps.earlyFlush;
  const { keys, bytes } = pending();
  return keys < READ_AHEAD * keysMax && bytes < bytesMax;
}
