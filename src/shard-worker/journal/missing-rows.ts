/** Streams in a directory whose rows the database has lost. Shard thread and main thread. */
import { JournalError } from '../../core/errors.js';
import type { MissingRow } from '../protocol/control-messages.js';
import { journalCommand } from './journal-command.js';

/** Rows are missing, and only an operator knows which records are counted. */
export class MissingRowsError extends JournalError {
  readonly rows: readonly MissingRow[];

  constructor(rows: readonly MissingRow[]) {
    super('checkpoint-missing', missingRowsSentence(rows));
    this.rows = rows;
  }
}

/** Says what is missing, why, and the command for all streams together. */
export function missingRowsSentence(rows: readonly MissingRow[]): string {
  const [row] = rows;
  if (rows.length === 1 && row !== undefined) {
    return (
      `The database has no row of stream ${row.stream} in journal_checkpoints, but had one: ${causeOf(row.isClaimed)}. ` +
      `The journal holds ${heldBy(row)}, and which of them are counted is unknown. Nothing was changed. Run ` +
      `${choicesFor(row)}; then start again.`
    );
  }
  const causes = [true, false].flatMap((isClaimed) => {
    const streams = rows.filter((each) => each.isClaimed === isClaimed).map(({ stream }) => stream);
    return streams.length === 0 ? [] : `${causeOf(isClaimed)} (${streams.join(', ')})`;
  });
  const held = rows.map((each) => `${heldBy(each)} of ${each.stream}`).join(', ');
  const command = journalCommand('accept', rows.map(nothingCounted));
  return (
    `The database has no rows of ${rows.length} streams in journal_checkpoints, but had them: ${causes.join('; ')}. The ` +
    `journal holds ${held}, and which of them are counted is unknown. Nothing was changed. Run ${command} if nothing of ` +
    'that is counted, or with the last LSN of each stream that is counted; then start again.'
  );
}

function causeOf(isClaimed: boolean): string {
  return isClaimed
    ? 'the table journal_claims still knows the stream, so the row was deleted, or a row-level policy hides it'
    : 'the table journal_claims does not know the stream either, so the database is in an earlier state (a backup, or a ' +
        'failover), or both were deleted';
}

function heldBy({ firstLsn, endLsn }: MissingRow): string {
  return `LSN ${firstLsn} to ${endLsn}`;
}

function nothingCounted({ stream, location, firstLsn }: MissingRow): Parameters<typeof journalCommand>[1][number] {
  return { stream, location, above: firstLsn - 1 };
}

function choicesFor(row: MissingRow): string {
  const { stream, location, firstLsn } = row;
  const some = journalCommand('accept', [{ stream, location, above: 'LSN' }]);
  if (firstLsn !== 1) return `${some} with the last LSN that is counted, ${firstLsn - 1} or higher`;
  const all = journalCommand('accept', [nothingCounted(row)]);
  return `${all} if nothing of it is counted, or ${some} with the last LSN that is counted`;
}
