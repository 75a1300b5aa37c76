/**
 * Scans a stream: its segments, how each ends, and whether all records above a checkpoint are present. Reads only. Shard thread
 * and command.
 *
 * The rules, in order:
 * 1. The header of a segment states up to where its predecessor counts (`predecessorLsn`). Records above that are void.
 * 2. A segment that is wholly at or below the checkpoint is not read, because its records are committed.
 * 3. Before the limit of a segment, anything but the next record is corruption. If the file ends there, because a
 *    repair has cut it, the LSNs up to the limit are missing.
 * 4. In the last segment, anything but the next record is a torn tail, from a write that was never acknowledged. If the
 *    segment header or a later intact record states that this LSN was synced, it is corruption.
 * 5. LSNs above the checkpoint that no segment has are missing. The scan guesses nothing; an operator may accept the loss.
 */
import { basename, join } from 'node:path';
import { JournalError } from '../../../core/errors.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import {
  decodeSegmentHeader,
  lsnOfSegmentName,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  segmentName,
} from './segment-header.js';
import type { Disk } from './disk.js';
import { findLaterRecord, readFully, RecordReader, type RecordsEnd } from './record-reader.js';

/** A segment of which only the header was read. */
export interface FoundSegment {
  readonly path: string;
  readonly header: SegmentHeader;
  readonly fileBytes: number;
}

/** An inclusive range of LSNs. */
export interface LsnRange {
  readonly from: Lsn;
  readonly to: Lsn;
}

/** The records of one segment and how they end. */
export interface SegmentReport {
  readonly segment: FoundSegment;
  /** Records above this are void. */
  readonly limit: Lsn;
  readonly records: number;
  /** Last LSN that counts, or the one before the first LSN. */
  readonly lastLsn: Lsn;
  /** Every record up to this LSN was durable, as the header or the last record states. */
  readonly syncedLsn: Lsn;
  /** Offset at the end of the records that count. */
  readonly end: number;
  readonly verdict: SegmentVerdict;
}

/** How a segment ends. `message` names file and offset. */
export type SegmentVerdict =
  | { readonly kind: 'whole' }
  | { readonly kind: 'torn'; readonly bytes: number }
  | { readonly kind: 'short'; readonly missing: LsnRange }
  | { readonly kind: 'corrupt'; readonly message: string };

/** Bytes after the last intact record, from a write that was never acknowledged as durable. */
export interface TornTail {
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
}

/** The records of a stream above a checkpoint. */
export interface StreamScan {
  readonly segments: readonly FoundSegment[];
  /** Last LSN in the journal, or the one before the first LSN of the first segment. */
  readonly endLsn: Lsn;
  /**
   * Every record up to this LSN is durable. Later ones may only be in the page cache: after a failed sync the system reports the
   * next one as a success.
   */
  readonly syncedLsn: Lsn;
  /** Number of records above the checkpoint. */
  readonly pendingRecords: number;
  /** The torn tail of the last segment, if it has one. */
  readonly torn: TornTail | undefined;
  /** Missing LSNs above the checkpoint. */
  readonly missing: readonly LsnRange[];
}

/**
 * The segments of a stream in order. Reads their headers and compares them with the names of files and directory.
 * Throws JournalError `journal-corrupt` or `journal-format`, which name the file.
 */
export function findSegments(disk: Disk, directory: string): FoundSegment[] {
  const stream = basename(directory);
  const names = disk.list(directory).filter((name) => lsnOfSegmentName(name) !== undefined);
  const segments = names.sort().map((name) => readSegmentHeader(disk, join(directory, name)));
  let previous: FoundSegment | undefined;
  for (const segment of segments) {
    const { header, path } = segment;
    const named = lsnOfSegmentName(path.slice(-segmentName(0).length));
    if (header.firstLsn !== named || header.predecessorLsn >= header.firstLsn) {
      throw new JournalError('journal-corrupt', `${path} at offset 0: the header says first LSN ${header.firstLsn}.`);
    }
    if (header.stream !== stream) {
      throw new JournalError('journal-corrupt', `${path} at offset 0: the header says stream ${header.stream}.`);
    }
    if (previous !== undefined && header.predecessorLsn < previous.header.firstLsn - 1) {
      const message = `${path} at offset 0: the header says that the predecessor ends at LSN ${header.predecessorLsn}, before it begins.`;
      throw new JournalError('journal-corrupt', message);
    }
    previous = segment;
  }
  return segments;
}

/** Reads the header of the segment at `path`. Throws as {@link decodeSegmentHeader} does. */
function readSegmentHeader(disk: Disk, path: string): FoundSegment {
  const file = disk.open(path);
  try {
    const block = new Uint8Array(SEGMENT_HEADER_BYTES);
    const bytes = readFully(file, block, 0);
    return { path, header: decodeSegmentHeader(block.subarray(0, bytes), path), fileBytes: file.size() };
  } finally {
    file.close();
  }
}

/** The LSN up to which a segment counts, from the header of its successor; infinite for the last segment. */
export function segmentLimit(segments: readonly FoundSegment[], index: number): Lsn {
  return segments[index + 1]?.header.predecessorLsn ?? Number.POSITIVE_INFINITY;
}

/** Reads a whole segment and reports how it ends. */
export function inspectSegment(disk: Disk, segments: readonly FoundSegment[], index: number): SegmentReport {
  const segment = segments[index];
  if (segment === undefined) throw new RangeError(`there is no segment ${index}`);
  const limit = segmentLimit(segments, index);
  const file = disk.open(segment.path);
  try {
    const reader = new RecordReader(file, segment.header.firstLsn, limit);
    let { syncedLsn } = segment.header;
    while (reader.next()) syncedLsn = Math.max(syncedLsn, reader.syncedLsn);
    const end = reader.end;
    if (end === undefined) throw new RangeError('a reader without a next record has an end');
    const records = end.lsn - segment.header.firstLsn + 1;
    const verdict = judge(segment, limit, end, () => findLaterRecord(file, end.offset, end.lsn + 1, end.lsn + 1));
    return { segment, limit, records, lastLsn: end.lsn, syncedLsn, end: end.offset, verdict };
  } finally {
    file.close();
  }
}

/**
 * The LSN of the last record, or the one before the first. Reads the last segment only. Throws JournalError `journal-corrupt`
 * with file and offset.
 */
export function findEnd(disk: Disk, segments: readonly FoundSegment[]): Lsn {
  const last = segments.at(-1);
  if (last === undefined) return 0;
  const { lastLsn, verdict } = inspectSegment(disk, segments, segments.length - 1);
  if (verdict.kind === 'corrupt') throw new JournalError('journal-corrupt', verdict.message);
  return Math.max(lastLsn, last.header.firstLsn - 1);
}

/**
 * The largest time of the database in present and removed records; 0 where there is none. Reads the intact records of the last
 * segment.
 */
export function findLastTime(disk: Disk, segments: readonly FoundSegment[]): DatabaseTime {
  const last = segments.at(-1);
  if (last === undefined) return 0;
  const file = disk.open(last.path);
  try {
    const reader = new RecordReader(file, last.header.firstLsn, Number.POSITIVE_INFINITY);
    let time = last.header.databaseTime;
    while (reader.next()) time = Math.max(time, reader.databaseTime);
    return time;
  } finally {
    file.close();
  }
}

/**
 * Reads the records above `checkpoint`. Throws JournalError `journal-corrupt` with file and offset. Missing LSNs are
 * returned, not thrown, because their loss may have been accepted.
 */
export function scanStream(disk: Disk, segments: readonly FoundSegment[], checkpoint: Lsn): StreamScan {
  const missing: LsnRange[] = [];
  let pendingRecords = 0;
  let covered = checkpoint;
  let last: SegmentReport | undefined;
  for (const [index, { header }] of segments.entries()) {
    const limit = segmentLimit(segments, index);
    if (header.firstLsn - 1 > covered) missing.push({ from: covered + 1, to: header.firstLsn - 1 });
    covered = Math.max(covered, header.firstLsn - 1);
    if (limit <= checkpoint) continue;
    last = inspectSegment(disk, segments, index);
    const { verdict } = last;
    if (verdict.kind === 'corrupt') throw new JournalError('journal-corrupt', verdict.message);
    pendingRecords += Math.max(0, last.lastLsn - Math.max(header.firstLsn - 1, checkpoint));
    covered = Math.max(covered, last.lastLsn);
    if (verdict.kind === 'short') {
      if (verdict.missing.to > covered) missing.push({ from: covered + 1, to: verdict.missing.to });
      covered = Math.max(covered, verdict.missing.to);
    }
  }
  return {
    segments,
    endLsn: last === undefined ? 0 : Math.max(last.lastLsn, last.segment.header.firstLsn - 1),
    syncedLsn: last?.syncedLsn ?? 0,
    pendingRecords,
    torn:
      last?.verdict.kind === 'torn'
        ? { path: last.segment.path, offset: last.end, bytes: last.verdict.bytes }
        : undefined,
    missing,
  };
}

function judge(
  { path, header, fileBytes }: FoundSegment,
  limit: Lsn,
  end: RecordsEnd,
  findAttested: () => { readonly offset: number; readonly lsn: Lsn; readonly syncedLsn: Lsn } | undefined,
): SegmentVerdict {
  if (end.reason === 'limit') return { kind: 'whole' };
  const lsn = end.lsn + 1;
  const expected = Number.isFinite(limit) ? limit : header.syncedLsn;
  if (end.reason === 'end-of-file') {
    return expected >= lsn ? { kind: 'short', missing: { from: lsn, to: expected } } : { kind: 'whole' };
  }
  const where = `${path} at offset ${end.offset}: record ${lsn} is damaged`;
  if (expected >= lsn) {
    const witness = Number.isFinite(limit) ? 'the next segment' : "the segment's header";
    return { kind: 'corrupt', message: `${where}; ${witness} says that records up to ${expected} were synced.` };
  }
  if (end.reason === 'zeros') return { kind: 'whole' };
  const attested = findAttested();
  if (attested === undefined) return { kind: 'torn', bytes: fileBytes - end.offset };
  const message = `${where}; record ${attested.lsn} at offset ${attested.offset} says that records up to ${attested.syncedLsn} were synced.`;
  return { kind: 'corrupt', message };
}
