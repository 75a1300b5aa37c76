/**
 * Moves records of a copied data directory, or of a stream of another database, to a stream of their own. Command, which
 * holds the lock of the data directory.
 *
 * Two processes on copies of a directory share one stream. The process that raised the epoch last owns it and counts
 * the records that both copies have. Later records of the other process have LSNs that belong to the owner's records.
 * In a new stream, numbered from 1, they count like any other.
 */
import { join } from 'node:path';
import { systemClock } from '../../../core/clock.js';
import { JournalError } from '../../../core/errors.js';
import type { Lsn } from '../../../core/checkpoint.js';
import type { RecordBytes } from '../journal.js';
import type { Disk } from './disk.js';
import { createFileJournal } from './file-journal.js';
import type { FileJournalOptions } from './file-journal-options.js';
import { scanForRecovery, readRecords } from './stream-recovery.js';
import { findSegments } from './stream-scan.js';
import { databaseOf } from './journal-directory.js';

/** Suffix of the directory of a stream whose records have moved. Such a directory is no longer a stream. */
const REBOUND_SUFFIX = '.rebound';

/** The clock, the id of the new stream, and its database; default: the database of the old stream. */
export type RebindOrigin = Pick<FileJournalOptions, 'clock' | 'newStreamId'> & { readonly databaseId?: string };

/** What a rebind did. */
export interface Rebind {
  /** The new stream; undefined if there is no record above the given LSN. */
  readonly stream: string | undefined;
  readonly records: number;
  /** Where the old stream is kept. */
  readonly kept: string;
}

/**
 * Moves the records of `stream` above `after` to a new stream of `nodeId`, and sets the old stream aside. Throws
 * JournalError as recovery does, and the disk's errors. A crash leaves the old stream as it is, or set aside with the
 * new stream in the directory `rebind`, from which an operator must move it.
 */
export async function rebindStream(
  disk: Disk,
  directory: string,
  stream: string,
  after: Lsn,
  nodeId: string,
  origin: RebindOrigin = { clock: systemClock },
): Promise<Rebind> {
  const path = join(directory, stream);
  const segments = findSegments(disk, path);
  const { endLsn } = scanForRecovery(disk, path, segments, after);
  const staging = requireNoInterruptedRebind(disk, directory);
  const journal = createFileJournal({
    disk,
    directory: staging,
    ...origin,
    syncPolicy: 'everysec',
    bytesMax: Number.MAX_SAFE_INTEGER,
    keepSeconds: 0,
    nodeId,
    shard: segments.at(-1)?.header.shard ?? 0,
    databaseId: origin.databaseId ?? databaseOf(segments),
  });
  for (const { record } of readRecords(disk, segments, after, endLsn)) {
    const own: RecordBytes = new Uint8Array(record);
    journal.append([own]);
  }
  const records = journal.endLsn;
  await journal.close();
  const kept = path + REBOUND_SUFFIX;
  disk.rename(path, kept);
  disk.syncDirectory(directory);
  if (records === 0) return { stream: undefined, records, kept };
  disk.rename(join(staging, journal.stream), join(directory, journal.stream));
  disk.syncDirectory(staging);
  disk.syncDirectory(directory);
  disk.removeDirectory(staging);
  return { stream: journal.stream, records, kept };
}

/**
 * Throws JournalError (`journal-unavailable`) if an earlier rebind was interrupted: its records may be counted by nobody.
 * Returns the directory that a rebind writes in.
 */
export function requireNoInterruptedRebind(disk: Disk, directory: string): string {
  const staging = join(directory, 'rebind');
  if (disk.list(staging).length === 0) return staging;
  const message = `${staging} holds the stream of an interrupted rebind: if its old stream is no longer in ${directory}, move it there; else remove it.`;
  throw new JournalError('journal-unavailable', message);
}
