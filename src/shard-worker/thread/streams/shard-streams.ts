/**
 * The streams of one shard: it writes at most one, and flushes any number. What a journal and a role decide is behind these
 * interfaces; all else of a shard is the same for all. Shard thread.
 *
 * ```text
 * journal, role                      writes                                      flushes
 * memory, file                       a stream of its own, here only              that one, and orphaned ones of earlier runs
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

/** A stream whose pending sums are here, with the loop that flushes them. */
export interface FlushedStream extends CountedStream {
  readonly flusher: Flusher;
}

/** Where the records of a group were appended. */
export interface AppendedGroup {
  /** Where its increments are pending here; undefined: others flush them. */
  readonly pendingIn: { readonly pendingSums: PendingSums; readonly flusher: Flusher } | undefined;
  /** The time that its records carry. */
  readonly time: DatabaseTime;
}

/** The streams of a shard. Two kinds: `directory-streams.ts`, `shared-streams.ts`. */
export interface ShardStreams extends Published {
  /** Begins. Settles when the shard takes requests, if only to refuse them. */
  start(): Promise<void>;

  /** Settles when the start has ended. It is retried no more. */
  endStart(): Promise<void>;

  /** Those that are flushed here. Reads add what is pending in them. */
  readonly flushed: readonly FlushedStream[];

  /** True where a read is older than the last flush of a stream that is flushed here no more. */
  isOlder(seen: SeenCheckpoints): boolean;

  /** What is pending in the stream that is written; undefined where nothing is known of it. */
  readonly written: PendingSums | undefined;

  /** The largest time of the database that the shard has heard. */
  readonly heardTime: DatabaseTime;

  /** Most bytes of a group; infinite: any number. */
  readonly groupBytesMax: number;

  /** Waits until the journal may take a first record. Undefined where there is nothing to wait for. */
  open(): Promise<void> | undefined;

  /** Whether idempotent requests can be taken now, in a record that carries `heardTime`. */
  coversIdempotent(heardTime: DatabaseTime): boolean;

  /** Whether a batch was opened before the stream began that it would be appended to. `generation`: see `STAT.generation`. */
  isStale(generation: number): boolean;

  /** Appends a group; its last LSN, a promise where the journal is over a network. Throws or rejects with JournalError. */
  append(group: readonly RecordBytes[], heardTime: DatabaseTime): Lsn | Promise<Lsn>;

  /** The group is in the journal, and is added to the sums now. */
  endAppend(): AppendedGroup;

  /** Whether the shard goes on although an append ended with this error. */
  survives(error: unknown): boolean;

  /** Commits everything applied before the call, or waits for who does. Resolves to the number of keys written. */
  flush(): Promise<number>;

  /** Flushes once more, then leaves the streams in order. Returns what stays in the journal. */
  drain(): Promise<readonly PendingRange[]>;
}
