/**
 * The streams of a journal directory, by their headers. Any thread that holds the data directory's lock.
 */
import { join } from 'node:path';
import type { Lsn } from '../../../increment.js';
import type { Disk } from './disk.js';
import { isUuid, lsnOfSegmentName } from './segment-header.js';
import { findSegments, type FoundSegment } from './stream-scan.js';

/** What a stream on disk says of itself. */
export interface StreamInfo {
  readonly stream: string;
  /** Of the newest segment. */
  readonly nodeId: string;
  /** Of the newest segment. */
  readonly shard: number;
  /** The newest that a segment names; undefined if none does. */
  readonly databaseId: string | undefined;
  /** When the oldest segment was made, ms since 1970. */
  readonly createdAt: number;
  /** First LSN that is still there. */
  readonly firstLsn: Lsn;
  readonly segments: number;
  /** Bytes of all segments. */
  readonly bytes: number;
}

/**
 * Streams found in `directory`, for the owner to choose from; ordered by shard, then age, then id. A directory without a
 * segment is one whose first append never happened: it is not listed. Throws JournalError `journal-corrupt` or
 * `journal-format`, and the disk's errors.
 */
export function listStreams(disk: Disk, directory: string): StreamInfo[] {
  const streams = disk
    .list(directory)
    .filter(isUuid)
    .map((stream) => describeStream(disk, directory, stream))
    .filter((info) => info !== undefined);
  return streams.sort((a, b) => a.shard - b.shard || a.createdAt - b.createdAt || (a.stream < b.stream ? -1 : 1));
}

/** One stream as {@link listStreams} shows it; undefined where it has no segments. */
export function describeStream(disk: Disk, directory: string, stream: string): StreamInfo | undefined {
  const found = findSegments(disk, join(directory, stream), stream);
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

/** The database that a stream belongs to: the one that its newest segments name. Undefined if none does. */
export function databaseOf(segments: readonly FoundSegment[]): string | undefined {
  return segments.findLast(({ header }) => header.databaseId !== undefined)?.header.databaseId;
}

/**
 * Removes directories of streams that never got a segment: left by a crash in the middle of a first append, or of a
 * removal. Nothing in them was acknowledged. Throws the disk's errors.
 */
export function sweepUnfinishedStreams(disk: Disk, directory: string): void {
  for (const stream of disk.list(directory).filter(isUuid)) {
    const names = disk.list(join(directory, stream));
    if (!names.some((name) => lsnOfSegmentName(name) !== undefined)) removeStream(disk, directory, stream);
  }
}

/**
 * Removes a stream's data, oldest segment first, and makes that durable. For a stream whose checkpoint row is retired:
 * a crash in between leaves a stream that can be removed again. Throws the disk's errors.
 */
export function removeStream(disk: Disk, directory: string, stream: string): void {
  if (!disk.list(directory).includes(stream)) return;
  const path = join(directory, stream);
  // In the order of names, which is that of LSNs.
  for (const name of disk.list(path).sort()) disk.remove(join(path, name));
  disk.removeDirectory(path);
  disk.syncDirectory(directory);
}
