/** The commands that read a file journal. Main thread of a process of its own. */
import { join } from 'node:path';
import type { Lsn } from '../core/checkpoint.js';
import { isOutputUnread } from '../core/closed-output.js';
import { JournalError } from '../core/errors.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { readAcceptedGaps, unaccepted } from '../shard-worker/journal/file/stream-files.js';
import { readRecords } from '../shard-worker/journal/file/stream-recovery.js';
import { inspectStream } from '../shard-worker/journal/file/stream-repair.js';
import { findSegments, scanStream } from '../shard-worker/journal/file/stream-scan.js';
import { readUint64, RECORD_HEADER_BYTES, RECORD_OFFSET } from '../shard-worker/protocol/record-layout.js';
import { rangeText, say, type DirectoryArguments } from './journal-command-line.js';
import { readableEntries } from './readable-entries.js';

/** Whether the server can start with each stream. It cuts torn tails. */
export function verify(args: DirectoryArguments): boolean {
  let canStart = true;
  for (const stream of args.streams) canStart = verifyStream(args, stream) && canStart;
  if (args.streams.length === 0) say('There are no streams.');
  return canStart;
}

function verifyStream(args: DirectoryArguments, stream: string): boolean {
  say(`stream ${stream}`);
  try {
    const reports = inspectStream(systemDisk, join(args.journal, stream));
    for (const { segment, records, lastLsn, end, verdict } of reports) {
      const range = records === 0 ? 'no records' : `${records} records, LSN ${segment.header.firstLsn} to ${lastLsn}`;
      say(`  ${segment.path}: ${range}, ${end} of ${segment.fileBytes} bytes used`);
      if (verdict.kind === 'torn') say(`    a torn tail of ${verdict.bytes} bytes, which the next start cuts`);
      if (verdict.kind === 'short')
        say(`    LSN ${rangeText(verdict.missing)} is missing: a repair has cut the segment`);
      if (verdict.kind === 'corrupt') say(`    DAMAGED: ${verdict.message}`);
    }
    if (reports.some(({ verdict }) => verdict.kind === 'corrupt')) return false;
    return args.above === undefined || verifyAbove(args, stream, args.above);
  } catch (error) {
    if (!(error instanceof JournalError)) throw error;
    say(`  ${error.code}: ${error.message}`);
    return false;
  }
}

function verifyAbove(args: DirectoryArguments, stream: string, above: Lsn): boolean {
  const directory = join(args.journal, stream);
  const scan = scanStream(systemDisk, findSegments(systemDisk, directory), above);
  const open = unaccepted(scan.missing, readAcceptedGaps(systemDisk, directory));
  say(`  above LSN ${above}: ${scan.pendingRecords} records, the last is LSN ${scan.endLsn}`);
  for (const range of scan.missing)
    say(`    LSN ${rangeText(range)} is missing${open.includes(range) ? '' : '; the loss is accepted'}`);
  return open.length === 0;
}

/** Prints records while somebody reads them. Reports damage of a segment on stderr and continues with the next. */
export function dump(args: DirectoryArguments): boolean {
  let isWhole = true;
  for (const stream of args.streams) {
    for (const { segment, lastLsn, verdict } of inspectStream(systemDisk, join(args.journal, stream))) {
      for (const { lsn, record, acceptedAt, databaseTime } of readRecords(
        systemDisk,
        [segment],
        args.above ?? 0,
        lastLsn,
      )) {
        const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
        const syncedLsn = readUint64(view, RECORD_OFFSET.syncedLsn);
        const entries = readableEntries(record.subarray(RECORD_HEADER_BYTES));
        const times = { acceptedAt: isoTime(acceptedAt), databaseTime: isoTime(1000 * databaseTime) };
        say(JSON.stringify({ stream, lsn, syncedLsn, ...times, entries }));
        // Nothing else is left to do.
        if (isOutputUnread()) return true;
      }
      if (verdict.kind !== 'corrupt') continue;
      process.stderr.write(`${verdict.message}\n`);
      isWhole = false;
    }
  }
  return isWhole;
}

/** Null for an unknown time. */
function isoTime(ms: number): string | null {
  return ms === 0 ? null : new Date(ms).toISOString();
}
