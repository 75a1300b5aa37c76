/**
 * The streams of one shard: it writes at most one, and flushes any number. These interfaces hide the journal and the role from
 * the rest of a shard. Shard thread.
 *
 * ```text
 * journal, role                      writes                                      flushes
 * memory                             a stream of its own, here only              that one
 * file                               a stream of its own, here only              that one, and orphaned ones of earlier runs
 * postgres, nats; serve              a stream that others can read               that one, and streams of others
 * postgres, nats, sqs; ingest        such a stream                               none
 * postgres, nats; roll-up            none                                        streams of others
 * sqs; roll-up                       none                                        those of which it receives records
 * ```
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import type { RecordBytes } from '../../journal/journal.js';
import type { PendingRange, SeenCheckpoints } from '../../protocol/control-messages.js';
import type { Flusher } from '../flush/flusher.js';
import type { PendingSums } from '../pending-sums.js';
import type { CountedStream, Published } from '../shard-balance.js';

/** A stream with its pending sums and the loop that flushes them. */
export interface FlushedStream extends CountedStream {
  readonly flusher: Flusher;
}

/** Where a group was appended. */
export interface AppendedGroup {
  /** Where its increments are pending; undefined: others flush them. */
  readonly pendingIn: { readonly pendingSums: PendingSums; readonly flusher: Flusher } | undefined;
  /** The time that its records carry. */
  readonly time: DatabaseTime;
}

/** The streams of a shard. Two kinds: `directory-streams.ts`, `shared-streams.ts`. */
export interface ShardStreams extends Published {
  /** Begins. Settles when the shard takes requests, if only to refuse them. */
  start(): Promise<void>;

  /** Ends the retries of the start. Settles when the start has ended. */
  endStart(): Promise<void>;

  /** The streams flushed here. Reads add what is pending in them. */
  readonly flushed: readonly FlushedStream[];

  /** Whether a read is older than the last flush of a stream that is no longer flushed here. */
  isOlder(seen: SeenCheckpoints): boolean;

  /** The pending sums of the written stream, if they are known here. */
  readonly written: PendingSums | undefined;

  /** The largest time of the database that the shard has heard. */
  readonly heardTime: DatabaseTime;

  /** Most bytes of a group; infinite: any number. */
  readonly groupBytesMax: number;

  /** Waits until the journal may take a first record. Undefined if there is nothing to wait for. */
  open(): Promise<void> | undefined;

  /** Whether a record that carries `heardTime` can take idempotent requests now. */
  coversIdempotent(heardTime: DatabaseTime): boolean;

  /** Whether a batch was opened before the current stream began. `generation`: see `STAT.generation`. */
  isStale(generation: number): boolean;

  /**
   * Appends a group. Returns its last LSN, as a promise if the journal is over a network. Throws or rejects with JournalError.
   */
  append(group: readonly RecordBytes[], heardTime: DatabaseTime): Lsn | Promise<Lsn>;

  /** The group is in the journal and goes into the sums next. */
  endAppend(): AppendedGroup;

  /** Whether the shard goes on after an append failed with this error. */
  survives(error: unknown): boolean;

  /** Commits everything applied before the call, or waits until others have. Resolves to the number of keys written. */
  flush(): Promise<number>;

  /** Flushes once more, then closes or releases the streams. Returns what stays in the journal. */
  drain(): Promise<readonly PendingRange[]>;
}
