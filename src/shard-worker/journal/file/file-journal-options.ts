/**
 * The options of a file journal and their limits. Shard thread and command.
 */
import type { Clock } from '../../../core/clock.js';
import type { LogFields } from '../../../core/logger.js';
import type { Disk } from './disk.js';
import type { DiskReserve } from './disk-reserve.js';

/** Bytes of a segment, unless the limit of the journal requires smaller segments. */
const SEGMENT_BYTES_DEFAULT = 16 * 1024 * 1024;

/** Bytes of the smallest segment. In smaller ones, headers would be most of the journal. */
const SEGMENT_BYTES_MIN = 64 * 1024;

/** Fewest segments of a full journal, so that room is freed in steps. */
const SEGMENTS_MIN = 4;

/** How long `everysec` leaves an append unsynced, in ms: one second, less time for the sync itself. */
export const DEFERRED_SYNC_MS = 900;

/** Options of the journal of one stream. */
export interface FileJournalOptions {
  readonly disk: Disk;
  /** The directory of all streams; its parent must exist. */
  readonly directory: string;
  readonly clock: Clock;
  /** `always`: an append is durable when it returns. `everysec`: within a second, or when `sync` returns. */
  readonly syncPolicy: 'always' | 'everysec';
  /** Most bytes of records and headers. A further append is refused with `journal-full`. */
  readonly bytesMax: number;
  /** How long committed records are kept, in seconds. */
  readonly keepSeconds: number;
  /** UUID of this node. */
  readonly nodeId: string;
  readonly shard: number;
  /** UUID of the database; undefined until the database was reached. */
  readonly databaseId: string | undefined;
  /** Bytes of a segment; a larger group gets a segment of its own size. */
  readonly segmentBytes?: number;
  /** Logs a warning. */
  readonly warn?: (fields: LogFields, message: string) => void;
  /** The reserve that a takeover may use on a full disk. */
  readonly reserve?: DiskReserve;
  /** Makes the id of a new stream; default: a random UUID. */
  readonly newStreamId?: () => string;
}

/** Options of an existing stream. */
export interface OpenFileJournalOptions extends FileJournalOptions {
  readonly stream: string;
  /** Read only: an orphaned stream, which is flushed to its end and then removed. */
  readonly forFinishing?: boolean;
  /** The operator wants the stream to move to another database. */
  readonly rebind?: boolean;
}

/** Bytes of a segment under `options`. */
export function segmentBytesOf({ segmentBytes, bytesMax }: FileJournalOptions): number {
  if (segmentBytes !== undefined) return segmentBytes;
  return Math.max(SEGMENT_BYTES_MIN, Math.min(SEGMENT_BYTES_DEFAULT, Math.floor(bytesMax / SEGMENTS_MIN)));
}
