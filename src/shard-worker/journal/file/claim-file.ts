/**
 * The claims by which a stream's directory took the stream over, kept in it. One line a claim, oldest first: its id and
 * the LSN above which nothing was the same as in the journal of the owner before.
 */
import { join } from 'node:path';
import { JournalError } from '../../../core/errors.js';
import { CLAIMS_KEPT_MAX, type OwnershipClaim } from '../ownership-claim.js';
import type { Disk } from './disk.js';
import { readLines, replaceLines } from './line-file.js';

/** The file's name. */
export const CLAIM_FILE_NAME = 'claims';

/** The claims kept. Throws JournalError `journal-corrupt` where the file is not ours, and the disk's errors. */
export function readClaims(disk: Disk, directory: string): OwnershipClaim[] {
  return readLines(disk, directory, CLAIM_FILE_NAME).map((line) => parseClaim(line, join(directory, CLAIM_FILE_NAME)));
}

/**
 * Keeps one more, durably; of many those are kept that lead up to the last one `inDatabase`, and the newest. Throws as
 * {@link readClaims} does.
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
  replaceLines(disk, directory, CLAIM_FILE_NAME, lines);
}

function parseClaim(line: string, path: string): OwnershipClaim {
  const [, id, lsn] = /^([0-9a-f-]{36}) (\d{1,16})$/.exec(line) ?? [];
  if (id === undefined || lsn === undefined) {
    throw new JournalError('journal-corrupt', `${path} cannot be read: ${line}`);
  }
  return { id, lsn: Number(lsn) };
}
