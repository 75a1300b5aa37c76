/**
 * Recovery of a stream of an earlier run: takes ownership, then reads the journal. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import type { Lsn } from '../../../core/checkpoint.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { JournalStreams, RecoverableJournal } from '../../journal/journal.js';
import { journalCommand } from '../../journal/journal-command.js';
import { ownershipOf } from '../../journal/ownership-claim.js';
import type { HandedOverStream } from '../../protocol/control-messages.js';
import type { ShardDatabase, StreamRow } from '../flush/shard-database.js';
import { PendingSums } from '../pending-sums.js';
import { handedOverAbove, missingIncrements } from './handed-over.js';
import type { ShardLog } from './owned-stream.js';

/** A recovered stream. */
export interface RecoveredStream {
  readonly journal: RecoverableJournal;
  readonly pendingSums: PendingSums;
  readonly retired: boolean;
  /** Increments above the checkpoint: the pending ones. */
  readonly increments: number;
  /** Increments that an ended thread has handed over and the journal lacks. */
  readonly missing: number;
}

/** Attempts to claim a stream. Each further one means that another process claimed or flushed it after the row was read. */
const CLAIM_ATTEMPTS = 10;

/**
 * Raises the epoch, then recovers the journal above the checkpoint. In this order no earlier owner can flush any more.
 * Rejects with JournalError as the journal's recovery does, and
 *
 * - with JournalError `journal-copied`, having changed nothing, where another copy of the journal has owned the stream since
 *   and this copy holds records that the other does not;
 * - with JournalError `journal-gap` where a retired stream has records beyond its end;
 * - with CounterError `database-unavailable`.
 */
export async function recoverStream(
  journals: JournalStreams,
  database: ShardDatabase,
  stream: string,
  log: ShardLog,
  handedOver?: HandedOverStream,
): Promise<RecoveredStream> {
  const journal = journals.open(stream);
  const row = await claim(journal, database, log);
  const facts = journal.recover(row.lsn);
  const pendingSums = new PendingSums(stream, row);
  const above = handedOver === undefined ? 0 : handedOverAbove(handedOver, row.lsn);
  let increments = 0;
  let found = 0;
  try {
    for await (const record of journal.replay(row.lsn)) {
      const applied = pendingSums.apply(record.lsn, record.entries, 0, record.entries.length);
      increments += applied;
      if (record.lsn > above) found += applied;
    }
  } catch (error) {
    await journal.close();
    throw error;
  }
  if (row.retired && !pendingSums.isSettled) {
    const detail =
      `Stream ${stream} is retired at LSN ${row.lsn}, but the journal reaches LSN ${journal.endLsn}. Run ` +
      `${journalCommand('rebind', journal.location, stream, row.lsn)} to move the records above to a new stream.`;
    throw new JournalError('journal-gap', detail);
  }
  log('info', { stream, checkpoint: row.lsn, end: journal.endLsn, increments, ...facts }, 'Recovered a journal');
  const missing = handedOver === undefined ? 0 : missingIncrements(handedOver, above, journal.endLsn, found);
  return { journal, pendingSums, retired: row.retired, increments, missing };
}

/**
 * Claims ownership of the stream. The journal keeps the claim before the database gets it: after a crash in between the
 * journal knows the claim, whether the database has it or not.
 */
async function claim(journal: RecoverableJournal, database: ShardDatabase, log: ShardLog): Promise<StreamRow> {
  const { stream } = journal;
  for (let attempt = 1; attempt <= CLAIM_ATTEMPTS; attempt += 1) {
    const seen = await database.readClaims(stream);
    const end = journal.findEnd(seen.lsn);
    const ownership = ownershipOf(journal.claims(), seen);
    if (ownership.kind === 'unknown' && end > 0) throw tooManyOwners(journal, end);
    if (ownership.kind === 'earlier') {
      const { sharedLsn } = ownership;
      if (end > sharedLsn) throw copied(journal, sharedLsn, end);
      const facts = { stream, end, checkpoint: seen.lsn, sharedLsn };
      log(
        'warn',
        facts,
        'The journal is an older state of a stream that went on elsewhere (a restored volume, or a copy); catching up',
      );
    }
    const next = { id: randomUUID(), lsn: Math.max(end, seen.lsn) };
    journal.keepClaim(next, seen.claims);
    const lost = ownership.kind === 'last' ? ownership.lost : [];
    const row = await database.claimStream(stream, seen, [...lost, next]);
    if (row !== undefined) return row;
  }
  throw new CounterError(
    'database-unavailable',
    `Could not acquire stream ${stream}: another process keeps claiming it.`,
  );
}

function copied({ stream, location }: RecoverableJournal, shared: Lsn, end: Lsn): JournalError {
  return new JournalError(
    'journal-copied',
    `Another copy of this data directory has owned stream ${stream} since ${location} did, and LSN ${shared + 1} to ` +
      `${end} are here only: ${journalCommand('rebind', location, stream, shared)} moves them to a stream of ` +
      'their own.',
  );
}

function tooManyOwners({ stream, location }: RecoverableJournal, end: Lsn): JournalError {
  return new JournalError(
    'journal-copied',
    `Stream ${stream} has had too many owners since ${location} was one: it is unknown which of LSN 1 to ${end} are here ` +
      `only. Compare ${journalCommand('dump', location, stream)} with the sums, then move the directory away.`,
  );
}
