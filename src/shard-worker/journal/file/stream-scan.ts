/**
 * What a stream's directory holds: its segments, how each ends, and whether what is above a checkpoint is all there.
 * Reads only. Shard thread and command.
 *
 * The rules, in the order in which they are applied:
 * 1. A segment counts up to what its successor's header says (`predecessorLsn`); above that it is void.
 * 2. A segment that lies wholly at or below the checkpoint is not read: its records are committed.
 * 3. Anything but the next record, before a segment's limit, is corruption; if the file ends there instead (it was cut by
 *    a repair), the LSNs up to the limit are missing.
 * 4. In the last segment, anything but the next record is a torn tail, from a write that was never acknowledged, unless
 *    the segment's header or a later whole record says that this LSN had been synced: then it is corruption.
 * 5. LSNs above the checkpoint that no segment holds are missing. Nothing is guessed: an operator accepts that, or not.
 */
import { basename, join } from 'node:path';
import { JournalError } from '../../../core/errors.js';
import type { Lsn } from '../../../core/checkpoint.js';
import {
  decodeSegmentHeader,
  lsnOfSegmentName,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  segmentName,
} from './segment-header.js';
import type { Disk } from './disk.js';
import { findLaterRecord, readFully, RecordReader, type RecordsEnd } from './record-reader.js';

/** A segment as found: its header is whole, its records have not been looked at. */
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

/** What reading one segment told. */
export interface SegmentReport {
  readonly segment: FoundSegment;
  /** What is above this is void. */
  readonly limit: Lsn;
  readonly records: number;
  /** Last LSN that counts, or the one before the first. */
  readonly lastLsn: Lsn;
  /** Offset at which what counts ends. */
  readonly end: number;
  readonly verdict: SegmentVerdict;
}

/** How a segment ends; `message` has file and offset. */
export type SegmentVerdict =
  | { readonly kind: 'whole' }
  | { readonly kind: 'torn'; readonly bytes: number }
  | { readonly kind: 'short'; readonly missing: LsnRange }
  | { readonly kind: 'corrupt'; readonly message: string };

/** What follows the last whole record: the end of a write that was never acknowledged as durable. */
export interface TornTail {
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
}

/** What is in a stream above a checkpoint. */
export interface StreamScan {
  readonly segments: readonly FoundSegment[];
  /** Last LSN in the journal, or the one before the first segment's first. */
  readonly endLsn: Lsn;
  /** Records above the checkpoint, and their bytes. */
  readonly pendingRecords: number;
  /** The torn tail of the last segment, where it has one. */
  readonly torn: TornTail | undefined;
  /** LSNs above the checkpoint that the journal should hold and does not. */
  readonly missing: readonly LsnRange[];
}

/**
 * The segments of a stream in order, headers read and checked against the names of files and directory. Throws JournalError
 * `journal-corrupt` or `journal-format` with the file.
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
      const message = `${path} at offset 0: its predecessor would end before it begins, at LSN ${header.predecessorLsn}.`;
      throw new JournalError('journal-corrupt', message);
    }
    previous = segment;
  }
  return segments;
}

/** Reads the header of the segment at `path`. Throws as {@link decodeSegmentHeader} does. */
export function readSegmentHeader(disk: Disk, path: string): FoundSegment {
  const file = disk.open(path);
  try {
    const block = new Uint8Array(SEGMENT_HEADER_BYTES);
    const bytes = readFully(file, block, 0);
    return { path, header: decodeSegmentHeader(block.subarray(0, bytes), path), fileBytes: file.size() };
  } finally {
    file.close();
  }
}

/** What each segment counts up to: its successor's word, and no limit for the last. */
export function segmentLimit(segments: readonly FoundSegment[], index: number): Lsn {
  return segments[index + 1]?.header.predecessorLsn ?? Number.POSITIVE_INFINITY;
}

/** Reads one segment whole and judges how it ends. */
export function inspectSegment(disk: Disk, segments: readonly FoundSegment[], index: number): SegmentReport {
  const segment = segments[index];
  if (segment === undefined) throw new RangeError(`There is no segment ${index}.`);
  const limit = segmentLimit(segments, index);
  const file = disk.open(segment.path);
  try {
    const reader = new RecordReader(file, segment.header.firstLsn, limit);
    while (reader.next());
    const end = reader.end;
    if (end === undefined) throw new RangeError('A reader that has no next record has an end.');
    const records = end.lsn - segment.header.firstLsn + 1;
    const verdict = judge(segment, limit, end, () => findLaterRecord(file, end.offset, end.lsn + 1, end.lsn + 1));
    return { segment, limit, records, lastLsn: end.lsn, end: end.offset, verdict };
  } finally {
    file.close();
  }
}

/**
 * Reads what is above `checkpoint`. Throws JournalError `journal-corrupt` with file and offset. Missing LSNs are
 * returned, not thrown: they may have been accepted.
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
