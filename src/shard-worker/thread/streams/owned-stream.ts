/**
 * A stream that this process owns, and how it comes to own one of an earlier run. Shard thread.
 */
import { randomUUID } from 'node:crypto';
import { CounterError, JournalError } from '../../../core/errors.js';
import { addSums, type Sum } from '../../../core/increment.js';
import { hashKey } from '../../../core/key-hash.js';
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import type { OwnedRow, ShardDatabase } from '../flush/stream-database.js';
import { STAT } from '../../protocol/stats.js';
import type { PendingRange, SeenCheckpoints } from '../../protocol/control-messages.js';
import type { LogFields } from '../../../core/logger.js';
import type { CommittedFlush } from '../flush/committed-flush.js';
import type { Flusher } from '../flush/flusher.js';
import type { Journal, JournalStreams, RecoverableJournal } from '../../journal/journal.js';
import { ownershipOf } from '../../journal/ownership-claim.js';
import { PendingSums } from '../pending-sums.js';

/** Logs a line. */
export type ShardLog = (level: 'debug' | 'info' | 'warn' | 'error', fields: LogFields, message: string) => void;

/** A journal, what it came to since its checkpoint, and the loop that commits that. */
export interface OwnedStream {
  readonly journal: Journal;
  readonly pendingSums: PendingSums;
  readonly flusher: Flusher;
  /** Its row was a tombstone when it was recovered. */
  readonly retired: boolean;
}

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
  const pendingSums = new PendingSums(stream, row.epoch, row.lsn);
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
async function claim(journal: RecoverableJournal, database: ShardDatabase, log: ShardLog): Promise<OwnedRow> {
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

/** Says that nothing more comes; where the database does not hear it now, the next start on the data directory does. */
export async function retireForEver(pendingSums: PendingSums, database: ShardDatabase, log: ShardLog): Promise<void> {
  const { stream, epoch, checkpoint } = pendingSums;
  try {
    await database.retire(stream, epoch, checkpoint);
  } catch (error) {
    if (!isDatabaseUnavailable(error)) throw error;
    log('warn', { err: error, stream }, 'The stream could not be retired: until the next start it holds up pruning');
  }
}

/** Whether an error says that the database cannot be reached now. */
export function isDatabaseUnavailable(error: unknown): boolean {
  return error instanceof CounterError && error.code === 'database-unavailable';
}

/** Whether an error says that the journal cannot be used now: a full disk, say. What it holds is as it was. */
export function isJournalUnavailable(error: unknown): boolean {
  return error instanceof JournalError && error.code === 'journal-unavailable';
}

/** What an operator reads where a stream has another owner: `row` is of a later epoch than ours. */
export function takenOver({ stream, epoch }: PendingSums, row: Checkpoint): string {
  return (
    `Another process has taken over journal stream ${stream} (epoch ${row.epoch}, ours is ${epoch}): ` +
    'this data directory is a copy, or was copied. Increments acknowledged here stay in the journal; ' +
    '`npm run journal -- rebind` gives them a stream of their own.'
  );
}

/** What the streams hold of a key above the checkpoints that a read saw; null: none holds it. */
export function pendingIn(
  streams: readonly OwnedStream[],
  key: Uint8Array,
  seen: SeenCheckpoints,
): Sum | 'again' | null {
  const hash = hashKey(key, 0, key.length);
  let pending: Sum | null = null;
  for (const { pendingSums } of streams) {
    const view = seen.get(pendingSums.stream);
    if (view === undefined) return 'again';
    const part = pendingSums.pendingOf(hash, key, view ?? undefined);
    if (part === 'again') return 'again';
    if (part !== undefined) pending = addSums(pending ?? 0, part);
  }
  return pending;
}

/** Adds to a shard's gauge. */
export function addTo(stats: Float64Array, cell: number, amount: number): void {
  stats[cell] = (stats[cell] ?? 0) + amount;
}

/** Adds what a flush came to, to a shard's gauges. */
export function countFlush(flush: CommittedFlush, stats: Float64Array): void {
  const { increments, rejected, deduplicated, claimed, mismatches } = flush;
  addTo(stats, STAT.flushed, increments - rejected - deduplicated);
  addTo(stats, STAT.rejected, rejected);
  addTo(stats, STAT.deduplicated, deduplicated);
  addTo(stats, STAT.recordedIdempotencyKeys, claimed);
  addTo(stats, STAT.mismatches, mismatches);
}

/** Writes what the streams hold together into a shard's gauges. `unreadBytes`: what lies in journals that were not read. */
export function publishStreams(streams: readonly OwnedStream[], unreadBytes: number, stats: Float64Array): void {
  let keys = 0;
  let bytes = 0;
  let increments = 0;
  let journalBytes = unreadBytes;
  let idempotencyKeys = 0;
  for (const { pendingSums, journal } of streams) {
    keys += pendingSums.pendingKeys;
    bytes += pendingSums.pendingBytes;
    increments += pendingSums.pendingIncrements;
    journalBytes += journal.bytes;
    idempotencyKeys += pendingSums.pendingIdempotent;
  }
  stats[STAT.pendingKeys] = keys;
  stats[STAT.pendingBytes] = bytes;
  stats[STAT.pendingIncrements] = increments;
  stats[STAT.journalBytes] = journalBytes;
  stats[STAT.pendingIdempotent] = idempotencyKeys;
}

/** What a stream holds above its checkpoint. */
export function rangeOf(pendingSums: PendingSums): PendingRange {
  return {
    stream: pendingSums.stream,
    afterLsn: pendingSums.checkpoint,
    throughLsn: pendingSums.appliedLsn,
    increments: pendingSums.pendingIncrements,
  };
}
