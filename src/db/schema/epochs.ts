/**
 * The sequence that makes epochs of owners. Logical replication and some restores move rows without it; then a taking would get an
 * epoch that is below, or again, one of before. Main thread.
 */
import { errorCode } from '../database-errors.js';
import { reasonOf, StartError } from '../../core/errors.js';
import type { DatabaseConnection } from '../connection.js';

const INSUFFICIENT_PRIVILEGE = '42501';

/** Moves the sequence above all epochs. Returns a row where it was below. */
const RAISE_EPOCHS = `
with held as (
  select greatest((select coalesce(max(epoch), 0) from journal_checkpoints), (select coalesce(max(epoch), 0) from journal_claims),
                  (select coalesce(max(epoch), 0) from journal_streams)) >> 20 as epoch,
         coalesce(pg_sequence_last_value('journal_epochs'), 0) as last
)
select last::text, setval('journal_epochs', epoch)::text as epoch from held where epoch > last`;

/** A sentence where the sequence was behind, for the log. Throws StartError where this role may not move it. */
export async function raisedEpochs(connection: DatabaseConnection): Promise<string | undefined> {
  try {
    const [row] = await connection.query<{ last: string; epoch: string }>({ text: RAISE_EPOCHS });
    return (
      row &&
      `The sequence journal_epochs was at ${row.last}, below the epochs of streams; it is at ${row.epoch} now. ` +
        'Logical replication and restores of single tables leave sequences behind'
    );
  } catch (cause) {
    if (errorCode(cause) !== INSUFFICIENT_PRIVILEGE) throw cause;
    const problem =
      `The sequence journal_epochs may be below the epochs of streams, and this role may not see or move it: ${reasonOf(cause)}. ` +
      'As its owner or a superuser: `grant usage, select, update on sequence journal_epochs to` this role.';
    throw new StartError([problem], { cause });
  }
}
