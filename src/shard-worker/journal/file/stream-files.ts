/**
 * The small files of lines in a stream's directory. Each is replaced as a whole. Any thread that holds the data
 * directory's lock.
 *
 * ```text
 * file          a line                     meaning
 * claims        claim id, LSN              an ownership claim by which this directory took the stream, oldest first;
 *                                          records written under it have LSNs above its LSN
 * accepted-gap  first LSN, last LSN, time  an operator accepts that these LSNs are lost; otherwise the start is
 *                                          refused; the file is removed once nothing is missing any more
 * ```
 */
import { join } from 'node:path';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import { CLAIMS_KEPT_MAX, type OwnershipClaim } from '../ownership-claim.js';
import type { Disk } from './disk.js';
import { readFully } from './record-reader.js';
import { STAGED_SUFFIX, writeFully } from './segment-writer.js';
import type { LsnRange } from './stream-scan.js';

const CLAIMS = 'claims';
const ACCEPTED_GAPS = 'accepted-gap';

/**
 * The ownership claims of the directory. Throws JournalError `journal-corrupt` if a line is wrong, and the disk's
 * errors.
 */
export function readClaims(disk: Disk, directory: string): OwnershipClaim[] {
  return readLines(disk, directory, CLAIMS).map((line) => parseClaim(line, join(directory, CLAIMS)));
}

/**
 * Keeps one more ownership claim, durably. Beyond {@link CLAIMS_KEPT_MAX}, it keeps the newest claims up to the last
 * one `inDatabase`, and the newest after that. Throws as {@link readClaims} does.
 */
export function keepClaim(
  disk: Disk,
  directory: string,
  claim: OwnershipClaim,
  inDatabase: readonly OwnershipClaim[],
): void {
  const claims = [...readClaims(disk, directory), claim];
  const known = new Set(inDatabase.map(({ id }) => id));
  const since = claims.findLastIndex(({ id }) => known.has(id)) + 1;
  const kept = [...claims.slice(0, since).slice(-CLAIMS_KEPT_MAX), ...claims.slice(since).slice(-CLAIMS_KEPT_MAX)];
  const lines = kept.map(({ id, lsn }) => `${id} ${lsn}`);
  replaceLines(disk, directory, CLAIMS, lines);
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

function parseClaim(line: string, path: string): OwnershipClaim {
  const [, id, lsn] = /^([0-9a-f-]{36}) (\d{1,16})$/.exec(line) ?? [];
  if (id === undefined || lsn === undefined) {
    throw new JournalError('journal-corrupt', `${path} has a line that cannot be read: ${line}`);
  }
  return { id, lsn: Number(lsn) };
}

function parseRange(line: string, path: string): LsnRange {
  const [, from, to] = /^(\d{1,16}) (\d{1,16}) \S+$/.exec(line) ?? [];
  if (from === undefined || to === undefined) {
    throw new JournalError('journal-corrupt', `${path} has a line that cannot be read: ${line}`);
  }
  return { from: Number(from), to: Number(to) };
}

/** The lines of the file; none if there is no file. Throws the disk's errors. */
function readLines(disk: Disk, directory: string, name: string): string[] {
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
function replaceLines(disk: Disk, directory: string, name: string, lines: readonly string[]): void {
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
