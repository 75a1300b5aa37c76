/** The stop of streams in a shard's own journal: closes drained ones, and lists those that were never read. Shard thread. */
import { JournalError } from '../../../core/errors.js';
import type { Journal, JournalStreams } from '../../journal/journal.js';
import type { PendingRange } from '../../protocol/control-messages.js';
import { isDatabaseUnavailable, type ShardDatabase } from '../flush/shard-database.js';
import type { PendingSums } from '../pending-sums.js';
import { isJournalUnavailable, rangeOf, type ReadRange, type ShardLog } from './owned-stream.js';

/** Closes a drained journal. Returns what stays in it, fewer increments than are pending where files are lost. */
export function closeDrained(journal: Journal, pendingSums: PendingSums, log: ShardLog): ReadRange {
  const range = rangeOf(pendingSums);
  try {
    try {
      journal.requireInPlace();
    } finally {
      journal.close();
    }
    return range;
  } catch (error) {
    if (!isJournalUnavailable(error)) throw error;
    const kept = journal.kept(range.afterLsn, range.increments);
    const lost = range.increments - kept.increments;
    if (lost <= 0) return range;
    const what =
      'Acknowledged increments are lost: at the stop neither the disk nor PostgreSQL had them. The next start counts ' +
      'those that the system still holds';
    log('error', { err: error, stream: journal.stream, lost, afterLsn: kept.throughLsn }, what);
    return { ...range, ...kept };
  }
}

/** What streams hold above their checkpoints, if the disk refused to recover them. Changes nothing. */
export async function findUntaken(
  journals: JournalStreams,
  database: ShardDatabase,
  log: ShardLog,
): Promise<PendingRange[]> {
  const ranges: PendingRange[] = [];
  try {
    const { own, orphaned } = journals.existing();
    for (const { stream } of own === undefined ? orphaned : [own, ...orphaned]) {
      const range = { stream, afterLsn: 0, throughLsn: undefined, increments: undefined };
      try {
        const afterLsn = (await database.readBack(stream))?.lsn ?? 0;
        const throughLsn = journals.open(stream).findEnd();
        if (throughLsn > afterLsn) ranges.push({ ...range, afterLsn, throughLsn });
      } catch (error) {
        if (!isDatabaseUnavailable(error) && !(error instanceof JournalError)) throw error;
        ranges.push(range);
      }
    }
  } catch (error) {
    if (!isJournalUnavailable(error)) throw error;
    log('warn', { err: error }, 'Cannot list the streams of the journal; their records stay in it');
  }
  return ranges;
}
