/**
 * Repairs a damaged stream, keeping all readable records, and reports how segments end. Command, which has the lock of the data
 * directory.
 *
 * 1. Copy the damaged segment, so that nothing is lost.
 * 2. Write the intact records behind the damage into a segment of their own. Its header states where the damage starts, which
 *    voids the bytes between.
 * 3. Cut the damaged segment at the damage.
 *
 * The LSNs between are missing from then on. A start refuses such a journal until an operator accepts the gap.
 */
import type { Lsn } from '../../../core/checkpoint.js';
import { SEGMENT_HEADER_BYTES } from './segment-header.js';
import type { Disk, DiskFile } from './disk.js';
import { findLaterRecord, readFully, RecordReader } from './record-reader.js';
import { SegmentWriter, writeFully } from './segment-writer.js';
import { syncSegment } from './stream-recovery.js';
import { findSegments, inspectSegment, type FoundSegment, type SegmentReport } from './stream-scan.js';

const COPY_BYTES = 1024 * 1024;

/** The result of the repair of one segment. */
export interface Repair {
  readonly path: string;
  /** The copy of the damaged file. */
  readonly copy: string;
  /** Offset at which the segment was cut. */
  readonly offset: number;
  /** The last LSN before the damage. */
  readonly lastLsn: Lsn;
  /** Ranges of LSNs behind the damage that were kept. */
  readonly rescued: readonly { readonly from: Lsn; readonly to: Lsn }[];
}

/**
 * Repairs every corrupt segment of the stream in `directory`, and cuts a torn one. The time `now` is a part of the
 * names of the copies. Throws JournalError if a header cannot be read, and the disk's errors.
 */
export function repairStream(disk: Disk, directory: string, now: Date): Repair[] {
  const repairs: Repair[] = [];
  for (let index = 0; ; index += 1) {
    // Reads again each time, because a repair adds segments.
    const segments = findSegments(disk, directory);
    if (index >= segments.length) return repairs;
    const report = inspectSegment(disk, segments, index);
    if (report.verdict.kind !== 'corrupt' && report.verdict.kind !== 'torn') continue;
    repairs.push(repairSegment(disk, directory, report, now));
  }
}

function repairSegment(disk: Disk, directory: string, report: SegmentReport, now: Date): Repair {
  const { path, header } = report.segment;
  const copy = `${path}.damaged-${now.toISOString().replaceAll(/[:.]/g, '')}`;
  copyFile(disk, path, copy);
  disk.syncDirectory(directory);
  const rescued: { from: Lsn; to: Lsn }[] = [];
  const source = disk.open(copy);
  try {
    let lastLsn = report.lastLsn;
    let { end } = report;
    while (report.verdict.kind === 'corrupt') {
      const found = findLaterRecord(source, end, lastLsn + 1, 0);
      if (found === undefined || found.lsn > report.limit) break;
      const run = new RecordReader(source, found.lsn, report.limit, found.offset);
      while (run.next());
      end = run.end?.offset ?? end;
      const to = run.lsn;
      const rescue = { ...header, firstLsn: found.lsn, predecessorLsn: lastLsn, syncedLsn: to };
      const write = (file: DiskFile): number => copyRange(source, file, found.offset, end);
      const writer = new SegmentWriter(disk, directory, rescue, 0, write);
      writer.publish();
      writer.close();
      rescued.push({ from: found.lsn, to });
      lastLsn = to;
    }
  } finally {
    source.close();
  }
  disk.truncate(path, report.end);
  syncSegment(disk, report.segment);
  return { path, copy, offset: report.end, lastLsn: report.lastLsn, rescued };
}

/** Copies bytes of a segment behind the header of another. Returns the offset at their end. */
function copyRange(source: DiskFile, into: DiskFile, from: number, to: number): number {
  const chunk = new Uint8Array(COPY_BYTES);
  let end = SEGMENT_HEADER_BYTES;
  for (let at = from; at < to;) {
    const bytes = readFully(source, chunk.subarray(0, Math.min(chunk.byteLength, to - at)), at);
    writeFully(into, chunk.subarray(0, bytes), end);
    at += bytes;
    end += bytes;
  }
  return end;
}

function copyFile(disk: Disk, from: string, to: string): void {
  const source = disk.open(from);
  try {
    const copy = disk.create(to);
    try {
      const chunk = new Uint8Array(COPY_BYTES);
      for (let at = 0; ;) {
        const bytes = readFully(source, chunk, at);
        if (bytes === 0) break;
        writeFully(copy, chunk.subarray(0, bytes), at);
        at += bytes;
      }
      copy.sync();
    } finally {
      copy.close();
    }
  } finally {
    source.close();
  }
}

/** Reads the segments of a stream and how each ends, for a report. Throws as {@link findSegments} does. */
export function inspectStream(disk: Disk, directory: string): SegmentReport[] {
  const segments: readonly FoundSegment[] = findSegments(disk, directory);
  return segments.map((_, index) => inspectSegment(disk, segments, index));
}
