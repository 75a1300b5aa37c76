/**
 * What the owner of a file journal decides, and its limits.
 */
import type { Clock } from '../../../core/clock.js';
import type { Disk } from './disk.js';
import type { DiskReserve } from './disk-reserve.js';

/** Bytes of a segment where the bound on the journal does not ask for smaller ones. */
export const SEGMENT_BYTES_DEFAULT = 16 * 1024 * 1024;

/** Smallest segment: below it headers would be most of the journal. */
export const SEGMENT_BYTES_MIN = 64 * 1024;

/** A bound on the journal is divided into at least this many segments, so that room comes back in parts. */
const SEGMENTS_MIN = 4;

/** How long `everysec` leaves an append unsynced, in ms: a second less some time for the sync itself. */
export const DEFERRED_SYNC_MS = 900;

/** Settings of one stream's journal. */
export interface FileJournalOptions {
  readonly disk: Disk;
  /** The directory of all streams; its parent must exist. */
  readonly directory: string;
  readonly clock: Clock;
  /** `always`: an append is durable when it returns. `everysec`: within a second, or when `sync` returns. */
  readonly syncPolicy: 'always' | 'everysec';
  /** Most bytes of records and headers not yet removed; an append beyond it is refused with `journal-full`. */
  readonly bytesMax: number;
  /** How long what is committed stays, in seconds. */
  readonly keepSeconds: number;
  /** UUID of this node. */
  readonly nodeId: string;
  readonly shard: number;
  /** UUID of the database; undefined while it has not been reached. */
  readonly databaseId: string | undefined;
  /** Bytes of a segment; a larger group gets a segment of its own size. */
  readonly segmentBytes?: number;
  /** What a takeover may use of the disk where it is full otherwise. */
  readonly reserve?: DiskReserve;
  /** Instead of a random UUID as the id of a new stream. */
  readonly newStreamId?: () => string;
}

/** How an existing stream is opened. */
export interface OpenFileJournalOptions extends FileJournalOptions {
  readonly stream: string;
  /** Read only: a left-over stream that is flushed and then removed. */
  readonly forFinishing?: boolean;
  /** The stream is taken over by another database, knowingly. */
  readonly rebind?: boolean;
}

/** Bytes of a segment under `options`. */
export function segmentBytesOf({ segmentBytes, bytesMax }: FileJournalOptions): number {
  if (segmentBytes !== undefined) return segmentBytes;
  return Math.max(SEGMENT_BYTES_MIN, Math.min(SEGMENT_BYTES_DEFAULT, Math.floor(bytesMax / SEGMENTS_MIN)));
}
