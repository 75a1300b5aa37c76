/**
 * Control messages: requests of the main thread, answers and reports of a shard, and its task. Main thread and shard thread. An
 * Error loses its class on a port, so failures cross as code and detail.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Config, NatsConfig, SqsConfig } from '../../config/config.js';
import type { Checkpoint, Lsn } from '../../core/checkpoint.js';
import type { ErrorCode, JournalErrorCode } from '../../core/errors.js';
import type { Sum } from '../../core/increment.js';
import type { DatabaseProblem } from '../../db/database-problem.js';

/** The checkpoints that a read saw, by stream; null if the stream has no row. */
export type SeenCheckpoints = ReadonlyMap<string, Checkpoint | null>;

/** A key and its recent increments per second, approximately. */
export interface HotKey {
  readonly key: string;
  readonly perSecond: number;
}

/** Concatenates keys, each with its length before it. */
export function packKeys(keys: readonly Uint8Array[]): Uint8Array {
  const packed = new Uint8Array(keys.reduce((total, key) => total + 2 + key.length, 0));
  let at = 0;
  for (const key of keys) {
    packed[at] = key.length & 0xff;
    packed[at + 1] = key.length >> 8;
    packed.set(key, at + 2);
    at += 2 + key.length;
  }
  return packed;
}

/** The keys of {@link packKeys}, as views. */
export function unpackKeys(packed: Uint8Array): readonly Uint8Array[] {
  const keys: Uint8Array[] = [];
  for (let at = 0; at < packed.length;) {
    // In range: every length has two bytes.
    const end = at + 2 + (packed[at] as number) + ((packed[at + 1] as number) << 8);
    keys.push(packed.subarray(at + 2, end));
    at = end;
  }
  return keys;
}

/** The pending sum of each key of a read, null for none; `again`: the snapshot of the read is too old. */
export type PendingAnswer = readonly (Sum | null)[] | 'again';

/** Main thread → shard, on the control port. The shard answers each request once, with the same `id`. */
export type ControlRequest =
  | {
      readonly id: number;
      readonly kind: 'pending';
      /** See {@link packKeys}: one buffer crosses a port far faster than one for each key. */
      readonly keys: Uint8Array;
      readonly seen: SeenCheckpoints;
    }
  | { readonly id: number; readonly kind: 'flush' }
  | { readonly id: number; readonly kind: 'hotKeys'; readonly most: number }
  | { readonly id: number; readonly kind: 'drain' };

/** Shard → main thread: answers (with `id`) and events. */
export type ControlMessage =
  | { readonly id: number; readonly kind: 'pending'; readonly pending: PendingAnswer }
  | { readonly id: number; readonly kind: 'flushed'; readonly keys: number }
  | { readonly id: number; readonly kind: 'hotKeys'; readonly keys: readonly HotKey[] }
  | { readonly id: number; readonly kind: 'drained'; readonly left: readonly PendingRange[] }
  | { readonly id: number; readonly kind: 'failed'; readonly code: ErrorCode; readonly detail: string }
  /** The shard takes increments now. `recovered`: it has read all of its journals, so reads are exact. */
  | { readonly kind: 'serving'; readonly recovered: boolean }
  /** The streams for which this shard answers reads. */
  | { readonly kind: 'streams'; readonly streams: readonly string[] }
  /** Whether this shard can use the database. */
  | { readonly kind: 'database'; readonly state: ShardDatabaseState }
  /** An orphaned stream is in PostgreSQL up to its last LSN, and its journal is removed. `claims`: its last claims' ids. */
  | { readonly kind: 'finished'; readonly stream: string; readonly lsn: Lsn; readonly claims: readonly string[] }
  /** The shard has read a stream that an ended thread had handed over, and has counted the increments that it lacks. */
  | { readonly kind: 'takenOver'; readonly stream: string }
  /** The shard cannot use its journal; the thread ends next. */
  | {
      readonly kind: 'journal';
      readonly code: JournalErrorCode;
      readonly detail: string;
      /** With `checkpoint-missing`; else empty. */
      readonly missingRows: readonly MissingRow[];
    }
  /** Another process owns the stream: this process must stop accepting increments and end. */
  | { readonly kind: 'fenced'; readonly detail: string };

/** Whether a shard can use the database. `pending`: the increments that waited for it. */
export type ShardDatabaseState =
  | { readonly available: true; readonly pending: number }
  | { readonly available: false; readonly problem: DatabaseProblem };

/** The records that an ended thread had applied above the checkpoint. The journal must have them. */
export interface HandedOverStream {
  readonly stream: string;
  readonly checkpointLsn: Lsn;
  /** End of the range whose flush was under way and may be committed; the checkpoint if there was none. */
  readonly frozenLsn: Lsn;
  readonly appliedLsn: Lsn;
  /** Increments above the checkpoint, up to and above `frozenLsn`. */
  readonly frozenIncrements: number;
  readonly liveIncrements: number;
}

/** Records that a drained shard left in a stream of its journal. */
export interface PendingRange {
  readonly stream: string;
  readonly afterLsn: Lsn;
  /** Undefined where the end or the checkpoint is unknown, because the database was always unavailable. */
  readonly throughLsn: Lsn | undefined;
  /** Undefined for a stream that was not read. */
  readonly increments: number | undefined;
}

/** A stream in a directory that had a row in `journal_checkpoints` and has none. */
export interface MissingRow {
  readonly stream: string;
  /** DATA_DIR/journal/STREAM. */
  readonly location: string;
  /** What the journal holds. */
  readonly firstLsn: Lsn;
  readonly endLsn: Lsn;
  /** Whether `journal_claims` still has the stream. */
  readonly isClaimed: boolean;
}

/** An HTTP server, for the supervisor of the shards. */
export interface HttpServerLink {
  /** A shard has started and takes the batches of this HTTP server on `port`. */
  connect(shard: number, port: MessagePort): void;
  /** The thread of a shard has ended. */
  disconnect(shard: number): void;
}

/** The connection to a broker, and the stream. Survives structured cloning. Contains secrets, and is never logged. */
export interface NatsSettings extends NatsConfig {
  /** The stream of JetStream, and the prefix of its subjects. */
  readonly stream: string;
  /** Required replicas of the stream. */
  readonly replicas: number;
}

/** What has the records of a journal in a broker or a queue, and the database to which it belongs. */
export interface JournalStore {
  /** A UUID. */
  readonly id: string;
  readonly databaseId: string;
  /** An operator has said that streams that name no database belong to this one, too. */
  readonly isAdopted: boolean;
}

/** A broker whose stream belongs to the database of this server. */
export interface PairedNatsSettings extends NatsSettings {
  /** As the start found it. */
  readonly store: JournalStore;
}

/** A queue that belongs to the database of this server. */
export interface PairedSqsSettings extends SqsConfig {
  readonly store: JournalStore;
}

/** The task of a shard thread. All of it survives structured cloning. */
export interface ShardTask {
  readonly shard: number;
  readonly shards: number;
  readonly nodeId: string;
  readonly databaseUrl: string;
  readonly databaseId: string | undefined;
  /** Why the database cannot be used now, if the main thread knows: then the shard does not wait for it. */
  readonly databaseProblem: DatabaseProblem | undefined;
  readonly control: MessagePort;
  readonly batchPorts: readonly MessagePort[];
  readonly stats: SharedArrayBuffer;
  /** Streams of ended threads of this shard. */
  readonly handedOver: readonly HandedOverStream[];
  /** The connection to a journal outside of this machine, and its limit for a group. */
  readonly nats: (PairedNatsSettings & { readonly groupBytesMax: number }) | undefined;
  readonly sqs: (PairedSqsSettings & { readonly groupBytesMax: number }) | undefined;
  readonly settings: ShardSettings;
}

/** The part of the configuration that shards read. */
export type ShardSettings = Pick<
  Config,
  | 'role'
  | 'journal'
  | 'journalSync'
  | 'journalBytesMax'
  | 'journalKeepSeconds'
  | 'dataDir'
  | 'flushIntervalMs'
  | 'ackTimeoutMs'
  | 'flushKeysMax'
  | 'pendingKeysMax'
  | 'pendingBytesMax'
  | 'idempotencyWindowHours'
  | 'logLevel'
>;
