/**
 * Control messages: what the main thread asks a shard, what the shard answers and reports, and what it is started with.
 * Both sides. An Error loses its class on a port, so failures cross as code and detail.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Checkpoint, Lsn } from '../../core/checkpoint.js';
import type { ErrorCode, JournalErrorCode } from '../../core/errors.js';
import type { Sum } from '../../core/increment.js';
import type { LogLevel } from '../../core/logger.js';

/** The checkpoints that a read saw, by stream; null where a stream that was asked for has no row. */
export type SeenCheckpoints = ReadonlyMap<string, Checkpoint | null>;

/** Main thread → shard, on the control port. Each is answered once, with the same `id`. */
export type ControlRequest =
  | {
      readonly id: number;
      readonly kind: 'pending';
      readonly key: Uint8Array;
      readonly seen: SeenCheckpoints;
    }
  | { readonly id: number; readonly kind: 'flush' }
  | { readonly id: number; readonly kind: 'drain' };

/** Shard → main thread, the answers and what happens unasked. `pending` is null where the shard does not hold the key. */
export type ControlMessage =
  | { readonly id: number; readonly kind: 'pending'; readonly pending: Sum | 'again' | null }
  | { readonly id: number; readonly kind: 'flushed'; readonly keys: number }
  | { readonly id: number; readonly kind: 'drained'; readonly left: readonly PendingRange[] }
  | { readonly id: number; readonly kind: 'failed'; readonly code: ErrorCode; readonly detail: string }
  /** Increments are taken from now on. `recovered`: everything that was in the journal is in memory, so reads are exact. */
  | { readonly kind: 'serving'; readonly recovered: boolean; readonly recoveredIncrements: number }
  /** The streams for which this shard answers reads. */
  | { readonly kind: 'streams'; readonly streams: readonly string[] }
  | { readonly kind: 'database'; readonly available: boolean; readonly reason: string }
  /** The journal cannot be used as it is; the thread ends next. */
  | { readonly kind: 'journal'; readonly code: JournalErrorCode; readonly detail: string }
  /** The stream belongs to another process: this node must stop accepting and end. */
  | { readonly kind: 'fenced'; readonly detail: string };

/** What a drained shard left in its journal. */
export interface PendingRange {
  readonly stream: string;
  readonly afterLsn: Lsn;
  /** Undefined for a stream of an earlier run that was not read, because the database was away all the time. */
  readonly throughLsn: Lsn | undefined;
  readonly increments: number;
}

/** A front end as the supervisor of the shards sees it. */
export interface HttpServerLink {
  /** A shard has started, and takes this front end's batches on `port`. */
  connect(shard: number, port: MessagePort): void;
  /** A shard is gone. */
  disconnect(shard: number): void;
}

/** What a shard thread is started with. Everything here survives structured cloning. */
export interface ShardTask {
  readonly shard: number;
  readonly shards: number;
  readonly nodeId: string;
  readonly databaseUrl: string;
  readonly databaseId: string | undefined;
  readonly control: MessagePort;
  readonly batchPorts: readonly MessagePort[];
  readonly stats: SharedArrayBuffer;
  readonly settings: ShardSettings;
}

/** The part of the configuration that shards read. */
export interface ShardSettings {
  readonly journal: 'memory' | 'file';
  readonly journalSync: 'always' | 'everysec';
  readonly journalBytesMax: number;
  readonly journalKeepSeconds: number;
  readonly dataDir: string;
  readonly flushIntervalMs: number;
  readonly flushKeysMax: number;
  readonly logLevel: LogLevel;
}
