/**
 * The streams of a shared journal that a thread flushes although it does not write them. Shard thread.
 *
 * Two implementations: `taken-streams.ts` follows streams by position, `received-streams.ts` receives what a queue hands out.
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
  /** Everything that the stream had at the last read is in sums here, as far as the journal can tell. */
  isReadToEnd(stream: string): boolean;
  /** The database did not answer. */
  noticeSilence(): void;
  /** Looks after the streams, about once a second. Rejects with `database-unavailable`: the next look tries again. */
  look(): Promise<void>;
  /**
   * Adds what is new to the sums, while there is room for it. True where there is more, undefined where it did not look. Rejects with
   * `database-unavailable` and `journal-unavailable`.
   */
  readOn(): Promise<boolean | undefined>;
  /** A flush of this thread has moved the checkpoint of a stream to `at`. */
  committed(stream: string, at: Checkpoint): void;
  /** Flushes what is here, ends streams whose records end, and leaves the others to others. */
  drain(): Promise<void>;
}

/** What they need of their shard. */
export interface FlushedStreamsDeps {
  readonly context: FlushingContext;
  /** Whether the stream is one that this thread writes now. */
  readonly isWrittenHere: (stream: string) => boolean;
  /** Whether this server has written the stream and writes it no more. */
  readonly isLeft: (stream: string) => boolean;
  /** All streams were looked at; called before any is taken. Without streams where the journal does not list them. */
  readonly surveyed: (survey: Survey) => void;
  readonly makeFlusher: (pendingSums: PendingSums, fenced: () => Promise<void>) => Flusher;
  /** Pending keys of all streams of this thread, and their bytes. */
  readonly pending: () => { readonly keys: number; readonly bytes: number };
  /** Streams were added or removed. */
  readonly changed: () => void;
  /** Increments came, or went to another thread. */
  readonly moved: (moved: MovedIncrements) => void;
}

/** What of a {@link ShardContext} they use. */
interface FlushingContext extends Pick<ShardContext, 'fail'> {
  readonly deps: Pick<ShardContext['deps'], 'clock' | 'log' | 'flushIntervalMs' | 'earlyFlush'>;
  readonly reports: Pick<ShardContext['reports'], 'isAvailable'>;
}

/** Pending keys beyond this multiple of an early flush: nothing more is read until then. */
const READ_AHEAD = 4;

/** Whether there is room for more records. */
export function hasRoom({ context, pending }: Pick<FlushedStreamsDeps, 'context' | 'pending'>): boolean {
  const { keysMax, bytesMax } = context.deps.earlyFlush;
  const { keys, bytes } = pending();
  return keys < READ_AHEAD * keysMax && bytes < bytesMax;
}
