/**
 * The contract across a port: the layout of a batch, which is the layout of a journal record, and the messages between
 * the threads. Both sides import this and nothing of each other.
 *
 * A batch is one piece of memory: a record header and the pairs of all requests that one event-loop turn of a front end
 * had for one shard. The shard fills in what only it knows (LSN, synced LSN, CRC) and the journal writes the
 * bytes as they are. All integers are little-endian.
 *
 * ```text
 * offset size field
 *      0    4 record bytes, header included
 *      4    4 CRC-32 (zlib's) of bytes 8 .. record bytes
 *      8    8 LSN
 *     16    8 synced LSN of the stream when the record was written
 *     24    8 time accepted, ms since 1970
 *     32    4 pairs
 *     36    4 flags, 0
 *     40      entries
 *
 * entry of a pair:    u16 key bytes (1..2048) | u32 key hash | f64 amount | key, UTF-8
 * entry of a request  u16 0x8000 | u8 token bytes (1..255) | u8 0 | u32 bytes of the pairs | digest (16) | token, ASCII
 * with a token:       | entries of its pairs
 * ```
 *
 * The digest says what the request's pairs come to, summed by key; the shard fills it in. Other values of 0x8000 and
 * above in an entry's first field are reserved for other kinds of entry.
 */
import type { ErrorCode, JournalErrorCode } from '../../core/errors.js';
import type { LogLevel } from '../../core/logger.js';
import type { Lsn, Sum } from '../../core/increment.js';
import type { MessagePort } from 'node:worker_threads';

/** Bytes of the record header. */
export const RECORD_HEADER_BYTES = 40;

/** Offsets within the record header. */
export const RECORD_OFFSET = {
  bytes: 0,
  crc: 4,
  lsn: 8,
  syncedLsn: 16,
  acceptedAt: 24,
  increments: 32,
  flags: 36,
} as const;

/** Bytes of a pair's entry before the key. */
export const INCREMENT_HEADER_BYTES = 14;

/** Offsets within a pair's entry. */
export const INCREMENT_OFFSET = { keyBytes: 0, hash: 2, amount: 6, key: 14 } as const;

/** In place of a pair's key bytes: the entry is a request with a token. */
export const IDEMPOTENT_MARK = 0x8000;

/** Bytes of a tokened request's entry before the token. */
export const IDEMPOTENT_HEADER_BYTES = 24;

/** Offsets within a tokened request's entry. */
export const IDEMPOTENT_OFFSET = {
  mark: 0,
  idempotencyKeyBytes: 2,
  incrementsBytes: 4,
  digest: 8,
  idempotencyKey: 24,
} as const;

/** Bytes of the digest of a tokened request: the first half of a SHA-256. */
export const DIGEST_BYTES = 16;

/** Largest record that a journal must be able to take, in bytes: a length beyond it is corruption. */
export const RECORD_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Most bytes that the pairs of a body of `bodyBytes` can need in a record: the shortest pair in JSON is `"k":1,`, six
 * bytes, whose entry has fifteen.
 */
export function recordBytesOfBody(bodyBytes: number): number {
  return (
    RECORD_HEADER_BYTES + IDEMPOTENT_HEADER_BYTES + 255 + Math.ceil((bodyBytes / 6) * (INCREMENT_HEADER_BYTES + 1))
  );
}

/**
 * What a pending key costs in a shard's memory besides its bytes, as MAX_PENDING_BYTES counts it: the summing map's
 * columns and slots with their slack. A front end reserves it for every pair that it sends.
 */
export const PENDING_KEY_OVERHEAD_BYTES = 104;

const TWO_TO_32 = 0x1_0000_0000;

/** Writes a safe non-negative integer as 64 bits, little-endian; several times faster than through a BigInt. */
export function writeUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % TWO_TO_32, true);
  view.setUint32(at + 4, Math.floor(value / TWO_TO_32), true);
}

/** Reads 64 bits, little-endian; beyond 2^53 the result is not exact, which a caller treats as corruption. */
export function readUint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_TO_32;
}

/**
 * How a batch is to be taken: as it is; or, one request at the key bound, only if all of its keys are pending already;
 * or, requests with tokens, without those that the shard knows; or, requests with tokens for which there is no room, none
 * but those that it knows.
 */
export const BATCH_KINDS = ['plain', 'onlyPendingKeys', 'idempotent', 'onlyKnownKeys'] as const;
export type BatchKind = (typeof BATCH_KINDS)[number];

/** Front end → shard: a batch. Each is answered, in the order of their arrival, by {@link BatchAnswer}. */
export interface BatchMessage {
  readonly kind: BatchKind;
  /** The record begins at its start; shared memory is the shard's until the answer, any other for good. */
  readonly memory: ArrayBufferLike;
}

/**
 * A {@link BatchMessage} as it crosses the port, to be as cheap as can be. Memory is given whole the first time and, where
 * it is shared, known by its number from then on, in the order of its first appearance: number × kinds + kind.
 */
export type PostedBatch = BatchMessage | number;

/**
 * Shard → front end: that many batches are in the journal; or that many were refused with a code; or, for one batch of
 * requests with tokens, the {@link IDEMPOTENT_OUTCOME} of each in order.
 */
export type BatchAnswer =
  number | { readonly refused: number; readonly code: ErrorCode } | { readonly outcomes: Uint8Array };

/** What became of a request with a token; `refused` plus a code's index in the catalogue is a refusal. */
export const IDEMPOTENT_OUTCOME = { journaled: 0, replayed: 1, mismatch: 2, refused: 3 } as const;

/** A checkpoint row as a read saw it; null where the stream was asked for and has no row. */
export type SeenCheckpoint = { readonly epoch: number; readonly lsn: Lsn } | null;

/** Main thread → shard, on the control port. Each is answered once, with the same `id`. */
export type ControlRequest =
  | {
      readonly id: number;
      readonly kind: 'pending';
      readonly key: Uint8Array;
      readonly seen: ReadonlyMap<string, SeenCheckpoint>;
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

/** Whether a shard takes increments. */
export type Admission = 'open' | ErrorCode;

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

/**
 * Numbers that a thread writes and others read, one row of doubles a shard in shared memory. Each cell has one writer,
 * so plain stores do: a reader may see a value of a moment ago, never a mixture on the 64-bit machines we run on.
 */
export const STAT = {
  pendingKeys: 0,
  pendingBytes: 1,
  journalBytes: 2,
  accepted: 3,
  recovered: 4,
  flushed: 5,
  rejected: 6,
  handedOver: 7,
  lost: 8,
  flushes: 9,
  flushedKeys: 10,
  pendingIncrements: 11,
  /** Increments of requests whose token was claimed before. */
  deduplicated: 12,
  /** Tokens that came again with other content. */
  mismatches: 13,
  /** Requests with tokens that are pending. */
  pendingIdempotent: 14,
  /** Tokens that this process claimed. */
  recordedIdempotencyKeys: 15,
  /** 1 while the disk refuses what the journal has to write. */
  journalRefused: 16,
} as const;

/** Cells of a row, rounded up so that rows of two threads do not share a cache line. */
export const STAT_ROW_CELLS = 24;

/** The gauges of `shards` shards, all zero. */
export function makeStats(shards: number): SharedArrayBuffer {
  return new SharedArrayBuffer(shards * STAT_ROW_CELLS * Float64Array.BYTES_PER_ELEMENT);
}

/** The row of one shard. */
export function statsRow(stats: SharedArrayBuffer, shard: number): Float64Array {
  return new Float64Array(stats, shard * STAT_ROW_CELLS * Float64Array.BYTES_PER_ELEMENT, STAT_ROW_CELLS);
}
