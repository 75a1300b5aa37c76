/**
 * How this process comes to own a stream of an earlier run. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import type { Lsn } from '../../../core/checkpoint.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { JournalStreams, RecoverableJournal } from '../../journal/journal.js';
import { ownershipOf } from '../../journal/ownership-claim.js';
import type { ShardDatabase, StreamRow } from '../flush/shard-database.js';
import { PendingSums } from '../pending-sums.js';
import type { ShardLog } from './owned-stream.js';

/** What recovery made of a stream of an earlier run. */
export interface RecoveredStream {
  readonly journal: RecoverableJournal;
  readonly pendingSums: PendingSums;
  readonly retired: boolean;
  /** Increments above the checkpoint. */
  readonly increments: number;
}

/** How often a row is read anew because somebody else took the stream over, or flushed, between reading and claiming. */
const CLAIM_ATTEMPTS = 10;

/**
 * Raises the epoch, then recovers the journal above the checkpoint: in this order, so that nothing older can still flush.
 * Rejects with JournalError `journal-copied` where another copy of the journal has owned the stream since and this one
 * holds records that the other does not, having changed nothing; with JournalError as the journal's recovery does, and
 * with `journal-gap` where a retired stream goes on beyond its end; with CounterError `database-unavailable`.
 */
export async function recoverStream(
  journals: JournalStreams,
  database: ShardDatabase,
  stream: string,
  log: ShardLog,
): Promise<RecoveredStream> {
  const journal = journals.open(stream);
  const row = await claim(journal, database, log);
  const facts = journal.recover(row.lsn);
  const pendingSums = new PendingSums(stream, row);
  let increments = 0;
  try {
    for await (const record of journal.replay(row.lsn)) {
      increments += pendingSums.apply(record.lsn, record.entries, 0, record.entries.length);
    }
  } catch (error) {
    await journal.close();
    throw error;
  }
  if (row.retired && !pendingSums.isSettled) {
    const detail =
      `Stream ${stream} is retired at LSN ${row.lsn}, but the journal reaches LSN ${journal.endLsn}: ` +
      `\`npm run journal -- rebind --stream ${stream} --above ${row.lsn}\` gives what is above a stream of its own.`;
    throw new JournalError('journal-gap', detail);
  }
  log('info', { stream, checkpoint: row.lsn, end: journal.endLsn, increments, ...facts }, 'Recovered a journal');
  return { journal, pendingSums, retired: row.retired, increments };
}

/**
 * Takes the stream over. The journal keeps the claim first: a crash before the database has answered leaves one that is
 * known, whether it was made or not.
 */
async function claim(journal: RecoverableJournal, database: ShardDatabase, log: ShardLog): Promise<StreamRow> {
  const { stream } = journal;
  for (let attempt = 1; attempt <= CLAIM_ATTEMPTS; attempt += 1) {
    const seen = await database.readClaims(stream);
    const end = journal.findEnd(seen.lsn);
    const ownership = ownershipOf(journal.claims(), seen);
    if (ownership.kind === 'unknown' && end > 0) throw forgotten(journal, end);
    if (ownership.kind === 'earlier') {
      const { sharedLsn } = ownership;
      if (end > sharedLsn) throw copied(journal, sharedLsn, end);
      const facts = { stream, end, checkpoint: seen.lsn, sharedLsn };
      log('warn', facts, 'The journal is an older state of one that has gone on: a restored volume, or a copy');
    }
    const next = { id: randomUUID(), lsn: Math.max(end, seen.lsn) };
    journal.keepClaim(next, seen.claims);
    const lost = ownership.kind === 'last' ? ownership.lost : [];
    const row = await database.claimStream(stream, seen, [...lost, next]);
    if (row !== undefined) return row;
  }
  throw new CounterError('database-unavailable', `Others keep taking stream ${stream} over.`);
}

function copied({ stream, location }: RecoverableJournal, shared: Lsn, end: Lsn): JournalError {
  return new JournalError(
    'journal-copied',
    `Another copy of this data directory has owned stream ${stream} since ${location} did, and LSN ${shared + 1} to ` +
      `${end} are here only: \`npm run journal -- rebind --stream ${stream} --above ${shared}\` gives them a stream of ` +
      'their own.',
  );
}

function forgotten({ stream, location }: RecoverableJournal, end: Lsn): JournalError {
  return new JournalError(
    'journal-copied',
    `Stream ${stream} has had so many owners since ${location} was one that nobody can tell which of LSN 1 to ${end} are ` +
      `here only: compare \`npm run journal -- dump --stream ${stream}\` with the sums, and move the directory away.`,
  );
}
