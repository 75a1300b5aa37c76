/**
 * An operator's decision, kept in the stream's directory, that LSNs which the journal should hold and does not are lost.
 * One line a range: first LSN, last LSN, time. Without it a start with such a gap is refused; it goes once nothing is missing any more.
 */
import { join } from 'node:path';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import type { Disk } from './disk.js';
import { readLines, replaceLines } from './line-file.js';
import type { LsnRange } from './stream-scan.js';

/** The file's name. */
export const ACCEPTED_GAP_NAME = 'accepted-gap';

/** The ranges accepted so far. Throws JournalError `journal-corrupt` where the file is not ours. */
export function readAcceptedGaps(disk: Disk, directory: string): LsnRange[] {
  return readLines(disk, directory, ACCEPTED_GAP_NAME).map((line) =>
    parseRange(line, join(directory, ACCEPTED_GAP_NAME)),
  );
}

/** Records, durably, that the operator accepts the loss of `ranges` besides those accepted before. */
export function acceptGaps(disk: Disk, directory: string, ranges: readonly LsnRange[], acceptedAt: number): void {
  const all = [...readAcceptedGaps(disk, directory), ...ranges];
  const at = new Date(acceptedAt).toISOString();
  const lines = all.map(({ from, to }) => `${from} ${to} ${at}`);
  replaceLines(disk, directory, ACCEPTED_GAP_NAME, lines);
}

/** Forgets the decision, once nothing is missing. That it stays where it cannot be removed does no harm. */
export function forgetAcceptedGaps(disk: Disk, directory: string): void {
  try {
    if (disk.list(directory).includes(ACCEPTED_GAP_NAME)) disk.remove(join(directory, ACCEPTED_GAP_NAME));
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
  }
}

/** The ranges of `missing` that no accepted range contains. */
export function unaccepted(missing: readonly LsnRange[], accepted: readonly LsnRange[]): LsnRange[] {
  return missing.filter(({ from, to }) => !accepted.some((range) => range.from <= from && range.to >= to));
}

function parseRange(line: string, path: string): LsnRange {
  const [, from, to] = /^(\d{1,16}) (\d{1,16}) \S+$/.exec(line) ?? [];
  if (from === undefined || to === undefined) {
    throw new JournalError('journal-corrupt', `${path} cannot be read: ${line}`);
  }
  return { from: Number(from), to: Number(to) };
}
