/**
 * Takes over the stream of an earlier process. Shard thread; the command reads records with it.
 *
 * The last segment is never continued. Its tail may be torn, and a sync of it may have failed; then the system can
 * report success for data that it has dropped. Its valid records above the checkpoint are copied into a new segment,
 * which is synced and durably named before any record in it is acknowledged. The copy either has the same first LSN and
 * so replaces the old segment, or its header states up to where the old one counts. Records up to there that may not be
 * durable are written again first: a database that fails over may need them.
 */
import assert from 'node:assert';
import { basename, join } from 'node:path';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import type { Lsn } from '../../../core/checkpoint.js';
import { SEGMENT_HEADER_BYTES, type SegmentHeader } from './segment-header.js';
import type { RecoveryFacts } from '../journal.js';
import { journalCommand } from '../journal-command.js';
import { readAcceptedGaps, unaccepted } from './stream-files.js';
import type { Disk, DiskFile } from './disk.js';
import { RecordReader } from './record-reader.js';
import { SegmentWriter, STAGED_SUFFIX, writeFully } from './segment-writer.js';
import {
  findLastTime,
  findSegments,
  scanStream,
  segmentLimit,
  type FoundSegment,
  type LsnRange,
  type StreamScan,
  type TornTail,
} from './stream-scan.js';

/** What recovery found, for the log. */
export interface Recovery extends RecoveryFacts {
  /** The next append has the LSN after this. */
  readonly endLsn: Lsn;
  /** Last LSN found in the journal. */
  readonly journalEndLsn: Lsn;
  /** The torn tail that was cut, if there was one. */
  readonly torn: TornTail | undefined;
  /** LSNs above the checkpoint whose loss an operator has accepted. */
  readonly acceptedGaps: readonly LsnRange[];
}

/** The facts of a scan that recovery accepts. */
export function recoveryOf(scan: StreamScan, checkpoint: Lsn): Recovery {
  const { endLsn: journalEnd, torn, missing, pendingRecords } = scan;
  return {
    endLsn: Math.max(journalEnd, checkpoint),
    journalEndLsn: journalEnd,
    records: pendingRecords,
    ...(checkpoint > journalEnd ? { beyondEnd: { checkpoint, journalEnd } } : {}),
    cutBytes: torn?.bytes ?? 0,
    torn,
    acceptedGaps: missing,
  };
}

/**
 * Scans the records above `checkpoint`. Throws JournalError `journal-corrupt` with file and offset, and as
 * {@link requireWhole} does.
 */
export function scanForRecovery(
  disk: Disk,
  directory: string,
  segments: readonly FoundSegment[],
  checkpoint: Lsn,
): StreamScan {
  const scan = scanStream(disk, segments, checkpoint);
  requireWhole(disk, directory, scan, checkpoint);
  return scan;
}

/** Throws JournalError `journal-gap` if LSNs above the checkpoint are missing and no operator has accepted that. */
export function requireWhole(disk: Disk, directory: string, scan: StreamScan, checkpoint: Lsn): void {
  if (scan.missing.length === 0) return;
  const open = unaccepted(scan.missing, readAcceptedGaps(disk, directory));
  if (open.length === 0) return;
  const ranges = open.map(({ from, to }) => `${from} to ${to}`).join(', ');
  throw new JournalError(
    'journal-gap',
    `The database has this stream up to LSN ${checkpoint}, but ${directory} no longer holds LSN ${ranges}. ` +
      `Was the database restored? If these records are lost, accept that with ` +
      `${journalCommand('accept', [{ stream: basename(directory), location: directory, above: checkpoint }])}.`,
  );
}

/**
 * Stages and publishes the segment that follows or replaces the last one, a file of at least `allocateBytes`. Returns
 * it and the resulting segments. Throws the disk's errors: nothing has changed, except that the new segment may exist, which
 * is as good as the old one.
 */
export function takeOver(
  disk: Disk,
  directory: string,
  scan: StreamScan,
  checkpoint: Lsn,
  origin: Pick<SegmentHeader, 'stream' | 'databaseId' | 'nodeId' | 'shard' | 'createdAt'>,
  allocateBytes: number,
): { readonly active: SegmentWriter; readonly segments: readonly FoundSegment[] } {
  const last = scan.segments.at(-1);
  assert(last !== undefined, 'a stream to recover has segments');
  // The last segment may be removed before a record with a later time is written.
  const databaseTime = findLastTime(disk, scan.segments);
  const header = {
    ...origin,
    databaseTime,
    ...successorOf(last, scan.endLsn, checkpoint, keepCommitted(disk, last, scan, checkpoint)),
  };
  const copy = (file: DiskFile): number => copyRecords(disk, last, header.firstLsn, scan.endLsn, file);
  removeStaged(disk, directory);
  const active = new SegmentWriter(disk, directory, header, allocateBytes, copy);
  active.publish();
  const before = active.path === last.path ? scan.segments.slice(0, -1) : scan.segments;
  return { active, segments: [...before, { path: active.path, header, fileBytes: active.allocated }] };
}

/**
 * Cuts a stream behind `after`; another stream has the later records. Removes later segments, the last one first, then replaces
 * the segment of `after` by a copy that ends there. Idempotent. Throws the disk's errors.
 */
export function cutStream(disk: Disk, directory: string, after: Lsn): void {
  const segments = findSegments(disk, directory);
  for (const { path } of segments.filter(({ header }) => header.firstLsn > after + 1).reverse()) {
    disk.remove(path);
    disk.syncDirectory(directory);
  }
  const last = segments.findLast(({ header }) => header.firstLsn <= after + 1);
  if (last === undefined) return;
  const { firstLsn } = last.header;
  // Power loss may have cost records at or below `after`, too.
  const end = Math.min(after, scanStream(disk, findSegments(disk, directory), after).endLsn);
  const header = { ...last.header, syncedLsn: Math.max(end, firstLsn - 1) };
  removeStaged(disk, directory);
  const copy = (file: DiskFile): number => copyRecords(disk, last, firstLsn, end, file);
  const cut = new SegmentWriter(disk, directory, header, 0, copy);
  cut.publish();
  cut.close();
}

function successorOf(
  last: FoundSegment,
  endLsn: Lsn,
  checkpoint: Lsn,
  kept: Lsn,
): Pick<SegmentHeader, 'firstLsn' | 'predecessorLsn' | 'syncedLsn'> {
  // The database has more than the journal, because a volume was restored: continue above both.
  if (checkpoint > endLsn) return { firstLsn: checkpoint + 1, predecessorLsn: endLsn, syncedLsn: checkpoint };
  const firstLsn = Math.max(kept + 1, last.header.firstLsn);
  const replaces = firstLsn === last.header.firstLsn;
  return {
    firstLsn,
    predecessorLsn: replaces ? last.header.predecessorLsn : firstLsn - 1,
    syncedLsn: Math.max(endLsn, firstLsn - 1),
  };
}

/**
 * Makes the committed records of the last segment durable. Returns the last LSN that can stay there: the checkpoint, or a
 * lower one if the disk refuses, for example for a bad sector. Records above it are copied.
 */
function keepCommitted(disk: Disk, last: FoundSegment, scan: StreamScan, checkpoint: Lsn): Lsn {
  if (scan.syncedLsn >= Math.min(checkpoint, scan.endLsn)) return checkpoint;
  try {
    makeDurable(disk, last, scan);
    return checkpoint;
  } catch (error) {
    if (checkpoint > scan.endLsn || systemErrorCode(error) === undefined) throw error;
    return scan.syncedLsn;
  }
}

/**
 * Makes the records of an earlier process in the last segment durable. Records that may not be durable are written again: after
 * a failed sync the system considers them written, and another sync would prove nothing. Throws the disk's errors.
 */
export function makeDurable(disk: Disk, last: FoundSegment, { endLsn, syncedLsn }: StreamScan): void {
  if (syncedLsn >= endLsn) {
    syncSegment(disk, last);
    return;
  }
  const file = disk.openWritable(last.path);
  try {
    const reader = new RecordReader(file, last.header.firstLsn, endLsn);
    while (reader.next()) if (reader.lsn > syncedLsn) writeFully(file, reader.record, reader.offset);
    if (reader.lsn < endLsn) throw changedMeanwhile(last, reader);
    file.sync();
  } finally {
    file.close();
  }
}

/** Syncs a segment that an earlier call wrote. Throws the disk's errors. */
export function syncSegment(disk: Disk, { path }: FoundSegment): void {
  const file = disk.open(path);
  try {
    file.sync();
  } finally {
    file.close();
  }
}

/** Removes staged files that a crash left. Nothing in them was acknowledged. */
function removeStaged(disk: Disk, directory: string): void {
  for (const name of disk.list(directory)) if (name.endsWith(STAGED_SUFFIX)) disk.remove(join(directory, name));
}

/** Copies the records `from` to `to` of a segment behind the header of `into`. Returns the offset at their end. */
function copyRecords(disk: Disk, segment: FoundSegment, from: Lsn, to: Lsn, into: DiskFile): number {
  const source = disk.open(segment.path);
  try {
    const reader = new RecordReader(source, segment.header.firstLsn, to);
    let end = SEGMENT_HEADER_BYTES;
    while (reader.next()) {
      if (reader.lsn < from) continue;
      writeFully(into, reader.record, end);
      end += reader.record.byteLength;
    }
    if (reader.lsn < to && from <= to) throw changedMeanwhile(segment, reader);
    return end;
  } finally {
    source.close();
  }
}

/** Reads the records above `after` up to `endLsn` in order from all segments. Throws `journal-corrupt`. */
export function* readRecords(
  disk: Disk,
  segments: readonly FoundSegment[],
  after: Lsn,
  endLsn: Lsn,
): Generator<RecordReader, void, undefined> {
  for (const [index, segment] of segments.entries()) {
    const limit = Math.min(segmentLimit(segments, index), endLsn);
    if (limit <= after) continue;
    const file = disk.open(segment.path);
    try {
      const reader = new RecordReader(file, segment.header.firstLsn, limit);
      while (reader.next()) if (reader.lsn > after) yield reader;
      // An earlier scan found all records up to the limit, or an accepted gap.
      if (reader.end?.reason === 'bad' || reader.end?.reason === 'zeros') throw changedMeanwhile(segment, reader);
    } finally {
      file.close();
    }
  }
}

function changedMeanwhile(segment: FoundSegment, reader: RecordReader): JournalError {
  const offset = reader.end?.offset ?? reader.offset;
  return new JournalError(
    'journal-corrupt',
    `${segment.path} at offset ${offset}: record ${reader.lsn + 1} was intact when it was first read and is damaged now.`,
  );
}
