/**
 * Takes streams in memory or in a directory: the only way in which a process becomes the owner of one. First registration,
 * recovery, reopening and orphaned streams use it. Shard thread.
 *
 * ```text
 * directory                     database, one transaction
 * a new claim's id ───────────► pruned_before locked (no pruner runs until the commit)
 *                               the row locked, or none; its claims
 *   the end of the journal ───► may this directory go on? else roll back
 *                               the row made, or a new epoch; the claims
 *                               commit
 *   the end as it is now ◄───── may it still go on?
 *   epoch, time, mark open
 * only then: flush, touch, accept idempotent requests under the row
 * ```
 *
 * A claim's id is used for one commit only. After a lost reply the next attempt looks for the claim in the database.
 */
import { randomUUID } from 'node:crypto';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { Journal } from '../../journal/journal.js';
import { journalCommand } from '../../journal/journal-command.js';
import { ownershipOf, withClaim, type KeptClaim, type Ownership } from '../../journal/ownership-claim.js';
import { MissingRowsError } from '../../journal/missing-rows.js';
import type { MissingRow } from '../../protocol/control-messages.js';
import type { LockedStream, ShardDatabase, StreamRow, TakenRow, Taking } from '../flush/shard-database.js';
import type { ShardLog } from './owned-stream.js';

/** Attempts to make a row. Each further one means that another session made it meanwhile. */
const ATTEMPTS_MAX = 10;

/** What the taker needs of its shard. */
export interface StreamTakerDeps {
  readonly database: ShardDatabase;
  readonly log: ShardLog;
  /** Notes the database's time durably. Throws JournalError `journal-unavailable`. */
  readonly noteTime: (time: DatabaseTime) => void;
}

/** Takes the streams of one shard. */
export class StreamTaker {
  readonly #deps: StreamTakerDeps;
  /** By stream: the id of a claim that the directory keeps and no commit has used. */
  readonly #unsent = new Map<string, string>();

  constructor(deps: StreamTakerDeps) {
    this.#deps = deps;
  }

  /**
   * Takes the stream. Rejects, without a change that counts,
   *
   * - with JournalError `journal-copied` if another copy of the journal has owned the stream since and this one holds records
   *   that the other lacks, or if that is unknown;
   * - with MissingRowsError, `checkpoint-missing`, if the stream had a row and has none;
   * - with JournalError `journal-unavailable` or `journal-corrupt` as the journal does;
   * - with CounterError `database-unavailable`; the stream may be taken.
   */
  async take(journal: Journal): Promise<StreamRow> {
    const { stream } = journal;
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
      const id = this.#keepId(journal);
      let end = journal.findEnd();
      const taken = await this.#deps.database.take(
        stream,
        (found) => {
          // The journal may have grown. A copy of it must not hold records above the claim.
          end = Math.max(end, journal.endLsn);
          return takingOf(journal, found, end, id);
        },
        () => this.#unsent.delete(stream),
      );
      if (taken !== undefined) return this.#note(journal, taken, id, end);
    }
    throw new CounterError(
      'database-unavailable',
      `The row of stream ${stream} cannot be made: another process keeps making it, or a trigger or a policy drops it.`,
    );
  }

  /** The row of the stream, if {@link take} would miss it. Changes nothing. */
  async findMissing(journal: Journal): Promise<readonly MissingRow[]> {
    const { database } = this.#deps;
    if ((await database.readBack(journal.stream)) !== undefined) return [];
    const isClaimed = (await database.readClaims(journal.stream)).length > 0;
    try {
      startOf(journal, isClaimed, journal.ownership().claims, journal.findEnd());
      return [];
    } catch (error) {
      if (error instanceof MissingRowsError) return error.rows;
      throw error;
    }
  }

  /** The id of the next claim, durable in the directory. */
  #keepId(journal: Journal): string {
    const unsent = this.#unsent.get(journal.stream);
    if (unsent !== undefined) return unsent;
    const id = randomUUID();
    const ownership = journal.ownership();
    journal.keepOwnership({ ...ownership, claims: withClaim(ownership.claims, { id, lsn: 0, epoch: undefined }) });
    this.#unsent.set(journal.stream, id);
    return id;
  }

  /** Handles the reply. Checks again, because the journal may have grown meanwhile, then notes that the row is open. */
  #note(journal: Journal, { row, before }: TakenRow, id: string, end: Lsn): StreamRow {
    const { log, database, noteTime } = this.#deps;
    const ownership = journal.ownership();
    const others: readonly KeptClaim[] = ownership.claims.filter((claim) => claim.id !== id);
    const owner = ownershipOf(others, { ...before, lsn: row.lsn });
    requireOwner(journal, owner, journal.findEnd());
    const claim = { id, lsn: Math.max(end, row.lsn), epoch: row.epoch };
    noteTime(database.time);
    journal.keepOwnership({ mark: 'open', cover: undefined, claims: withClaim(others, claim) });
    journal.forgetAcceptedCheckpoint();
    if (owner.kind === 'earlier') {
      log(
        'warn',
        { stream: journal.stream, end, checkpoint: row.lsn, sharedLsn: owner.sharedLsn },
        'The journal is an older state (a restored volume or a copy) of a stream that continued elsewhere; catching up',
      );
    }
    return row;
  }
}

/** What to record when the stream is taken. Throws if the directory must not go on. */
function takingOf(journal: Journal, found: LockedStream, end: Lsn, id: string): Taking {
  const claims = journal.ownership().claims.filter((claim) => claim.id !== id);
  const lsn = found.row === undefined ? startOf(journal, found.claims.length > 0, claims, end) : found.lsn;
  const owner = ownershipOf(claims, { ...found, lsn });
  requireOwner(journal, owner, end);
  // This database has nothing of a lost claim above the current checkpoint. With its old end the claim would seem to cover
  // records of later owners.
  const lost = owner.kind === 'unknown' ? [] : owner.lost.map((claim) => ({ ...claim, lsn: Math.max(claim.lsn, lsn) }));
  return { claims: [...lost, { id, lsn: Math.max(end, lsn) }], lsn };
}

/** The LSN of a new row: 0 if there never was one, or the LSN that an operator accepted. */
function startOf(journal: Journal, isClaimed: boolean, claims: readonly KeptClaim[], end: Lsn): Lsn {
  const { stream, location, firstLsn } = journal;
  const wasNoted = claims.some(({ epoch }) => epoch !== undefined);
  if (!wasNoted && firstLsn === 1) return 0;
  const accepted = journal.acceptedCheckpoint();
  if (accepted !== undefined && accepted >= firstLsn - 1) return accepted;
  throw new MissingRowsError([{ stream, location, firstLsn, endLsn: end, isClaimed }]);
}

function requireOwner(journal: Journal, owner: Ownership, end: Lsn): void {
  if (owner.kind === 'earlier' && end > owner.sharedLsn) throw copied(journal, owner.sharedLsn, end);
  if (owner.kind === 'unknown' && end > 0) throw unknownOwner(journal, end);
}

function copied({ stream, location }: Journal, shared: Lsn, end: Lsn): JournalError {
  return new JournalError(
    'journal-copied',
    `Another copy of this data directory has owned stream ${stream} since ${location} did, and LSN ${shared + 1} to ` +
      `${end} are here only: ${journalCommand('rebind', [{ stream, location, above: shared }])} moves them to a stream of ` +
      'their own.',
  );
}

function unknownOwner({ stream, location }: Journal, end: Lsn): JournalError {
  return new JournalError(
    'journal-copied',
    `The table journal_claims no longer shows who has owned stream ${stream} since ${location} did: its rows were deleted, or ` +
      `there were too many owners. So it is unknown which of LSN 1 to ${end} are here only. Compare ` +
      `${journalCommand('dump', [{ stream, location }])} with the sums, then move the directory away.`,
  );
}
