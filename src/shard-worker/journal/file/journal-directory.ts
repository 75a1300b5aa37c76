/**
 * The directory of all streams: their headers and their removal. Any thread of the process that has the lock of the data
 * directory.
 */
import { join } from 'node:path';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import type { Lsn } from '../../../core/checkpoint.js';
import { isUuid } from '../../../core/uuid.js';
import { type Disk, orUnavailable } from './disk.js';
import { findSegments, type FoundSegment } from './stream-scan.js';

/** Suffix of the directory of a stream that is being removed. */
const REMOVED_SUFFIX = '.removed';

/** A stream on the disk, from its headers. */
export interface StreamInfo {
  readonly stream: string;
  /** Of the newest segment. */
  readonly nodeId: string;
  /** Of the newest segment. */
  readonly shard: number;
  /** Of the newest segment that names one; undefined if none does. */
  readonly databaseId: string | undefined;
  /** When the oldest segment was created, ms since 1970. */
  readonly createdAt: number;
  /** First LSN of the oldest segment. */
  readonly firstLsn: Lsn;
  readonly segments: number;
  /** Bytes of all segments. */
  readonly bytes: number;
}

/**
 * The streams in `directory`, ordered by shard, then age, then id. Omits streams without a segment, which have no record.
 * Throws JournalError `journal-corrupt` or `journal-format`, and `journal-unavailable` if the directory cannot be read.
 */
export function listStreams(disk: Disk, directory: string): StreamInfo[] {
  return orUnavailable(`${directory} cannot be read`, () => {
    const streams = disk.list(directory).filter(isUuid);
    const infos = streams.map((stream) => describeStream(disk, directory, stream));
    return infos.filter((info) => info !== undefined).sort(byShardAndAge);
  });
}

function byShardAndAge(a: StreamInfo, b: StreamInfo): number {
  return a.shard - b.shard || a.createdAt - b.createdAt || (a.stream < b.stream ? -1 : 1);
}

/** Most attempts to read a stream that another thread changes at the same time. */
const READS_MAX = 100;

/** One stream as in {@link listStreams}; undefined if it has no segments. */
function describeStream(disk: Disk, directory: string, stream: string): StreamInfo | undefined {
  const found = findSettledSegments(disk, join(directory, stream));
  const first = found[0];
  const last = found.at(-1);
  if (first === undefined || last === undefined) return undefined;
  return {
    stream,
    nodeId: last.header.nodeId,
    shard: last.header.shard,
    databaseId: databaseOf(found),
    createdAt: first.header.createdAt,
    firstLsn: first.header.firstLsn,
    segments: found.length,
    bytes: found.reduce((sum, { fileBytes }) => sum + fileBytes, 0),
  };
}

/** The segments. Reads again if the owner removes old segments between the reading of names and of files. */
function findSettledSegments(disk: Disk, path: string): FoundSegment[] {
  for (let reads = 1; ; reads += 1) {
    try {
      return findSegments(disk, path);
    } catch (error) {
      if (systemErrorCode(error) !== 'ENOENT' || reads === READS_MAX) throw error;
    }
  }
}

/** The database of a stream: the one that its newest segments name; undefined if none does. */
export function databaseOf(segments: readonly FoundSegment[]): string | undefined {
  return segments.findLast(({ header }) => header.databaseId !== undefined)?.header.databaseId;
}

/** Throws JournalError `journal-foreign` if the stream at `path` belongs to another database than the one in use. */
export function requireSameDatabase(path: string, bound: string | undefined, databaseId: string | undefined): void {
  if (bound === undefined || databaseId === undefined || bound === databaseId) return;
  const message =
    `${path} belongs to the database ${bound}, but the database in use is ${databaseId}. Correct DATABASE_URL, or run ` +
    '`npm run journal -- rebind --database`, which lists the records of the stream and how the database in use counts them.';
  throw new JournalError('journal-foreign', message);
}

/**
 * Removes a stream whose checkpoint row is retired. Renames its directory durably first, so that no crash leaves half a
 * stream. Throws the disk's errors.
 */
export function removeStream(disk: Disk, directory: string, stream: string): void {
  if (!disk.list(directory).includes(stream)) return;
  disk.rename(join(directory, stream), join(directory, stream + REMOVED_SUFFIX));
  disk.syncDirectory(directory);
  removeDirectory(disk, join(directory, stream + REMOVED_SUFFIX));
}

/**
 * Completes removals that a crash interrupted. Skips streams that another thread removes at the same time or that cannot be
 * removed. Throws JournalError `journal-unavailable` if the directory cannot be read.
 */
export function sweepRemovedStreams(disk: Disk, directory: string): void {
  for (const name of orUnavailable(`${directory} cannot be read`, () => disk.list(directory))) {
    if (!name.endsWith(REMOVED_SUFFIX)) continue;
    try {
      removeDirectory(disk, join(directory, name));
    } catch (error) {
      if (systemErrorCode(error) === undefined) throw error;
    }
  }
}

/** Removes a directory of files. Throws the disk's errors. */
export function removeDirectory(disk: Disk, path: string): void {
  for (const name of disk.list(path)) disk.remove(join(path, name));
  disk.removeDirectory(path);
}
