/**
 * The small text files in a stream's directory. Each is replaced as a whole. Any thread of the process that has the lock of
 * the data directory.
 *
 * ```text
 * file                 a line                     meaning
 * ownership            mark MARK                  unregistered, open or closed: the known state of the stream's row
 *                      cover STREAM               the stream that covers this one while it is unregistered
 *                      claim ID LSN EPOCH         an ownership claim by which this directory took the stream, oldest
 *                                                 first; records written under it have LSNs above its LSN; the epoch
 *                                                 is - without a reply of the database
 * claims               ID LSN                     the same, written by versions without a file `ownership`
 * accepted-gap         first LSN, last LSN, time  an operator accepts that these LSNs are lost; otherwise the start is
 *                                                 refused; the file is removed once nothing is missing
 * accepted-checkpoint  LSN, time                  an operator states up to where the stream is counted, although its
 *                                                 row is missing; serves one taking
 * ```
 */
import { join } from 'node:path';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { newOwnership, type KeptClaim, type StreamMark, type StreamOwnership } from '../ownership-claim.js';
import type { Disk } from './disk.js';
import { readFully } from './record-reader.js';
import { STAGED_SUFFIX, writeFully } from './segment-writer.js';
import type { LsnRange } from './stream-scan.js';

const OWNERSHIP = 'ownership';
const CLAIMS_OF_OLD = 'claims';
const ACCEPTED_GAPS = 'accepted-gap';
const ACCEPTED_CHECKPOINT = 'accepted-checkpoint';

const MARK_LINE = /^mark (unregistered|open|closed)$/;
const COVER_LINE = /^cover ([0-9a-f-]{36})$/;
const CLAIM_LINE = /^claim ([0-9a-f-]{36}) (\d{1,16}) (\d{1,16}|-)$/;

/**
 * The ownership of a stream. Throws JournalError `journal-corrupt` if a line is wrong, and the disk's errors.
 */
export function readOwnership(disk: Disk, directory: string): StreamOwnership {
  const lines = readLines(disk, directory, OWNERSHIP);
  if (lines.length === 0) {
    // An older version had claims without epochs, and knew all of them.
    const claims = readLines(disk, directory, CLAIMS_OF_OLD).map((line) => parseOldClaim(line, directory));
    return { ...newOwnership(undefined), claims };
  }
  let ownership = newOwnership(undefined);
  for (const line of lines) {
    const mark = MARK_LINE.exec(line)?.[1];
    const cover = COVER_LINE.exec(line)?.[1];
    const [, id, lsn, epoch] = CLAIM_LINE.exec(line) ?? [];
    if (mark !== undefined) ownership = { ...ownership, mark: mark as StreamMark };
    else if (cover !== undefined) ownership = { ...ownership, cover };
    else if (id !== undefined) {
      const claim = { id, lsn: Number(lsn), epoch: epoch === '-' ? undefined : Number(epoch) };
      ownership = { ...ownership, claims: [...ownership.claims, claim] };
    } else throw unreadable(join(directory, OWNERSHIP), line);
  }
  return ownership;
}

/** Stores the ownership durably. Throws the disk's errors. */
export function keepOwnership(disk: Disk, directory: string, { mark, cover, claims }: StreamOwnership): void {
  const lines = claims.map(({ id, lsn, epoch }) => `claim ${id} ${lsn} ${epoch ?? '-'}`);
  const covers = cover === undefined ? [] : [`cover ${cover}`];
  replaceLines(disk, directory, OWNERSHIP, [`mark ${mark}`, ...covers, ...lines]);
}

/**
 * The largest time of the database that any shard has noted in the directory of all streams; 0 if there is none. Reads the times
 * of all shards, because the number of shards may have changed. Throws JournalError `journal-corrupt` and the disk's errors.
 */
export function readTime(disk: Disk, directory: string): DatabaseTime {
  let time = 0;
  for (const name of disk.list(directory).filter((entry) => TIME_FILE.test(entry))) {
    const [line] = readLines(disk, directory, name);
    if (line === undefined) continue;
    if (!/^\d{1,10}$/.test(line)) throw unreadable(join(directory, name), line);
    time = Math.max(time, Number(line));
  }
  return time;
}

/** Notes a time of the database durably. Throws the disk's errors. */
export function keepTime(disk: Disk, directory: string, shard: number, time: DatabaseTime): void {
  disk.makeDirectory(directory);
  replaceLines(disk, directory, timeFile(shard), [String(time)]);
}

const TIME_FILE = /^database-time-\d+$/;

/** One file for each shard: each thread writes its own. */
function timeFile(shard: number): string {
  return `database-time-${shard}`;
}

/** The LSN up to which the stream is counted, as an operator stated. Throws as {@link readOwnership} does. */
export function readAcceptedCheckpoint(disk: Disk, directory: string): Lsn | undefined {
  const [line] = readLines(disk, directory, ACCEPTED_CHECKPOINT);
  if (line === undefined) return undefined;
  const [, lsn] = /^(\d{1,16}) \S+$/.exec(line) ?? [];
  if (lsn === undefined) throw unreadable(join(directory, ACCEPTED_CHECKPOINT), line);
  return Number(lsn);
}

/** Stores durably the LSN up to which the stream is counted, as an operator states. */
export function acceptCheckpoint(disk: Disk, directory: string, lsn: Lsn, acceptedAt: number): void {
  replaceLines(disk, directory, ACCEPTED_CHECKPOINT, [`${lsn} ${new Date(acceptedAt).toISOString()}`]);
}

/** Removes the accepted checkpoint after its use. Throws the disk's errors. */
export function forgetAcceptedCheckpoint(disk: Disk, directory: string): void {
  if (!disk.list(directory).includes(ACCEPTED_CHECKPOINT)) return;
  disk.remove(join(directory, ACCEPTED_CHECKPOINT));
  disk.syncDirectory(directory);
}

/** The ranges accepted so far. Throws JournalError `journal-corrupt` if a line is wrong, and the disk's errors. */
export function readAcceptedGaps(disk: Disk, directory: string): LsnRange[] {
  return readLines(disk, directory, ACCEPTED_GAPS).map((line) => parseRange(line, join(directory, ACCEPTED_GAPS)));
}

/** Records durably that the operator accepts the loss of `ranges`, in addition to those accepted before. */
export function acceptGaps(disk: Disk, directory: string, ranges: readonly LsnRange[], acceptedAt: number): void {
  const all = [...readAcceptedGaps(disk, directory), ...ranges];
  const at = new Date(acceptedAt).toISOString();
  const lines = all.map(({ from, to }) => `${from} ${to} ${at}`);
  replaceLines(disk, directory, ACCEPTED_GAPS, lines);
}

/** Removes the accepted ranges, once nothing is missing. A file that cannot be removed does no harm. */
export function forgetAcceptedGaps(disk: Disk, directory: string): void {
  try {
    if (disk.list(directory).includes(ACCEPTED_GAPS)) disk.remove(join(directory, ACCEPTED_GAPS));
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
  }
}

/** The ranges of `missing` that no accepted range covers. */
export function unaccepted(missing: readonly LsnRange[], accepted: readonly LsnRange[]): LsnRange[] {
  return missing.filter(({ from, to }) => !accepted.some((range) => range.from <= from && range.to >= to));
}

function parseOldClaim(line: string, directory: string): KeptClaim {
  const [, id, lsn] = /^([0-9a-f-]{36}) (\d{1,16})$/.exec(line) ?? [];
  if (id === undefined || lsn === undefined) throw unreadable(join(directory, CLAIMS_OF_OLD), line);
  return { id, lsn: Number(lsn), epoch: 0 };
}

function unreadable(path: string, line: string): JournalError {
  return new JournalError('journal-corrupt', `${path} has a line that cannot be read: ${line}`);
}

function parseRange(line: string, path: string): LsnRange {
  const [, from, to] = /^(\d{1,16}) (\d{1,16}) \S+$/.exec(line) ?? [];
  if (from === undefined || to === undefined) throw unreadable(path, line);
  return { from: Number(from), to: Number(to) };
}

/** The lines of the file; none if there is no file. Throws the disk's errors. */
export function readLines(disk: Disk, directory: string, name: string): string[] {
  if (!disk.list(directory).includes(name)) return [];
  const file = disk.open(join(directory, name));
  try {
    const bytes = Buffer.alloc(file.size());
    const text = bytes.toString('utf8', 0, readFully(file, bytes, 0));
    return text.split('\n').filter((line) => line !== '');
  } finally {
    file.close();
  }
}

/** Replaces the content of the file durably; a crash leaves the old content or the new. Throws the disk's errors. */
export function replaceLines(disk: Disk, directory: string, name: string, lines: readonly string[]): void {
  const path = join(directory, name);
  if (disk.list(directory).includes(name + STAGED_SUFFIX)) disk.remove(path + STAGED_SUFFIX);
  const file = disk.create(path + STAGED_SUFFIX);
  try {
    writeFully(file, Buffer.from(lines.map((line) => `${line}\n`).join('')), 0);
    file.sync();
  } finally {
    file.close();
  }
  disk.rename(path + STAGED_SUFFIX, path);
  disk.syncDirectory(directory);
}
