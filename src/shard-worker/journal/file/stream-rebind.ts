/**
 * Gives records of a copied data directory a stream of their own. Command; the data directory's lock is held.
 *
 * Two processes on copies of one directory have one stream between them. Whoever raised the epoch last owns it and counts
 * what the copies have in common; what the other acknowledged after that has LSNs that count as someone else's. Under a
 * new stream, renumbered from 1, it is counted like any other.
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

/** What follows the name of a stream whose records have moved; such a directory is not a stream any more. */
const REBOUND_SUFFIX = '.rebound';

/** Where the new stream's time and name come from. */
export type RebindOrigin = Pick<FileJournalOptions, 'clock' | 'newStreamId'>;

/** What a rebind did. */
export interface Rebind {
  /** The new stream; undefined where nothing is above the LSN given. */
  readonly stream: string | undefined;
  readonly records: number;
  /** Where the old stream is kept. */
  readonly kept: string;
}

/**
 * Moves the records of `stream` above `after` to a new stream of `nodeId`, and puts the old one aside. Throws JournalError
 * as recovery does, and the disk's errors; a crash leaves the old stream as it is, or put aside with the new one beside it
 * in a directory `rebind`, to be moved by hand.
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
  const workshop = join(directory, 'rebind');
  if (disk.list(workshop).length > 0) {
    const message = `${workshop} holds a stream of a rebind that was cut short: if its old one is not in ${directory} any more, move it there.`;
    throw new JournalError('journal-unavailable', message);
  }
  const journal = createFileJournal({
    disk,
    directory: workshop,
    ...origin,
    syncPolicy: 'everysec',
    bytesMax: Number.MAX_SAFE_INTEGER,
    keepSeconds: 0,
    nodeId,
    shard: segments.at(-1)?.header.shard ?? 0,
    databaseId: databaseOf(segments),
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
  disk.rename(join(workshop, journal.stream), join(directory, journal.stream));
  disk.syncDirectory(workshop);
  disk.syncDirectory(directory);
  disk.removeDirectory(workshop);
  return { stream: journal.stream, records, kept };
}
