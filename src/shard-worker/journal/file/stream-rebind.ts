/**
 * Moves records of a copied data directory, or of a stream of another database, to a stream of their own. Command and main
 * thread, which have the lock of the data directory. Does not use the database.
 *
 * Two processes on copies of a directory share one stream. Up to some LSN both have the same records. Above it the LSNs of one
 * belong to the records of the other. A rebind moves these records to a new stream, numbered from 1, where they count. The old
 * stream stays, cut at that LSN, and the next start flushes the rest of it.
 *
 * ```text
 * rebind/origin: staging ──► rebind/NEW written ──► rebind/origin: staged ──► old stream cut or set aside ──► NEW moved ──► gone
 *   a crash: removed, nothing is changed              a crash: the rest is done by the next command or start
 * ```
 */
import { join } from 'node:path';
import { systemClock } from '../../../core/clock.js';
import { JournalError } from '../../../core/errors.js';
import type { Lsn } from '../../../core/checkpoint.js';
import { isUuid } from '../../../core/uuid.js';
import type { RecordBytes } from '../journal.js';
import type { Disk } from './disk.js';
import { createFileJournal } from './file-journal.js';
import type { FileJournalOptions } from './file-journal-options.js';
import { databaseOf, removeDirectory } from './journal-directory.js';
import { readLines, replaceLines } from './stream-files.js';
import { cutStream, scanForRecovery, readRecords } from './stream-recovery.js';
import { findSegments } from './stream-scan.js';

/** Suffix of the directory of a stream that was set aside, and is no longer a stream. */
const REBOUND_SUFFIX = '.rebound';

/** Where a rebind writes. */
const STAGING = 'rebind';
const ORIGIN = 'origin';
const ORIGIN_LINE = /^(staging|staged) ([0-9a-f-]{36}) (\d{1,16}) (cut|aside)$/;

/** The clock, the id of the new stream, and its database; default: the database of the old stream. */
export interface RebindOrigin extends Pick<FileJournalOptions, 'clock' | 'newStreamId'> {
  readonly databaseId?: string;
  /**
   * The old stream is `cut`, the default, or set `aside`, because the database in use counts nothing of it.
   */
  readonly old?: 'cut' | 'aside';
}

/** What a rebind did. */
export interface Rebind {
  /** The new stream; undefined if there is no record above the given LSN. */
  readonly stream: string | undefined;
  readonly records: number;
  /** Where the old stream is. */
  readonly kept: string;
}

interface Origin {
  readonly isStaged: boolean;
  readonly stream: string;
  readonly after: Lsn;
  readonly old: 'cut' | 'aside';
}

/**
 * Moves the records of `stream` above `after` to a new stream of `nodeId`. Throws JournalError as recovery does, and the
 * disk's errors. After a crash {@link finishRebind} does the rest, or nothing has changed.
 */
export function rebindStream(
  disk: Disk,
  directory: string,
  stream: string,
  after: Lsn,
  nodeId: string,
  origin: RebindOrigin = { clock: systemClock },
): Rebind {
  finishRebind(disk, directory);
  const segments = findSegments(disk, join(directory, stream));
  const { endLsn } = scanForRecovery(disk, join(directory, stream), segments, after);
  const { databaseId = databaseOf(segments), old = 'cut', ...times } = origin;
  const staging = join(directory, STAGING);
  disk.makeDirectory(staging);
  disk.syncDirectory(directory);
  keepOrigin(disk, staging, { isStaged: false, stream, after, old });
  const journal = createFileJournal({
    ...times,
    disk,
    directory: staging,
    syncPolicy: 'everysec',
    bytesMax: Number.MAX_SAFE_INTEGER,
    keepSeconds: 0,
    nodeId,
    shard: segments.at(-1)?.header.shard ?? 0,
    databaseId,
  });
  for (const { record, databaseTime } of readRecords(disk, segments, after, endLsn)) {
    const own: RecordBytes = new Uint8Array(record);
    journal.append([own], databaseTime);
  }
  const records = journal.endLsn;
  journal.close();
  keepOrigin(disk, staging, { isStaged: true, stream, after, old });
  finishRebind(disk, directory);
  const kept = join(directory, stream) + (old === 'aside' ? REBOUND_SUFFIX : '');
  return { stream: records === 0 ? undefined : journal.stream, records, kept };
}

/**
 * Completes an interrupted rebind, or undoes it. Throws the disk's errors, and JournalError `journal-unavailable` where an older
 * version has left a state that only an operator can judge.
 */
export function finishRebind(disk: Disk, directory: string): void {
  const staging = join(directory, STAGING);
  const names = disk.list(staging);
  if (!disk.list(directory).includes(STAGING)) return;
  const origin = readOrigin(disk, staging);
  if (origin === undefined && names.some(isUuid)) {
    throw new JournalError(
      'journal-unavailable',
      `${staging} holds the stream of an interrupted rebind: if its old stream is no longer in ${directory}, move it there; ` +
        'else remove it.',
    );
  }
  if (origin?.isStaged === true) settle(disk, directory, origin, names);
  for (const name of disk.list(staging).filter(isUuid)) removeDirectory(disk, join(staging, name));
  disk.syncDirectory(staging);
  removeDirectory(disk, staging);
  disk.syncDirectory(directory);
}

/** The new stream is complete: cuts or sets aside the old one, then moves the new one in. Each step may be done already. */
function settle(disk: Disk, directory: string, { stream, after, old }: Origin, names: readonly string[]): void {
  const path = join(directory, stream);
  if (old === 'cut') cutStream(disk, path, after);
  else if (disk.list(directory).includes(stream)) disk.rename(path, path + REBOUND_SUFFIX);
  disk.syncDirectory(directory);
  for (const name of names.filter(isUuid)) {
    if (findSegments(disk, join(directory, STAGING, name)).length === 0) continue;
    disk.rename(join(directory, STAGING, name), join(directory, name));
  }
  disk.syncDirectory(directory);
}

function keepOrigin(disk: Disk, staging: string, { isStaged, stream, after, old }: Origin): void {
  replaceLines(disk, staging, ORIGIN, [`${isStaged ? 'staged' : 'staging'} ${stream} ${after} ${old}`]);
}

function readOrigin(disk: Disk, staging: string): Origin | undefined {
  const [line] = readLines(disk, staging, ORIGIN);
  const [, state, stream, after, old] = ORIGIN_LINE.exec(line ?? '') ?? [];
  if (stream === undefined) return undefined;
  return { isStaged: state === 'staged', stream, after: Number(after), old: old === 'aside' ? 'aside' : 'cut' };
}
