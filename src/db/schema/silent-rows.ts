/**
 * What can keep rows of our tables from being written or seen without an error: triggers of others, and row-level security. A start
 * names them; a flush fails where they do so. Main thread.
 */
import type { DatabaseConnection } from '../connection.js';

/** Tables whose rows must be written and seen as the statements say. */
const TABLES = [
  'counters',
  'counter_resets',
  'idempotency_keys',
  'increment_log',
  'journal_checkpoints',
  'rejected_increments',
];

/** $1 tables. Row triggers that run before a write and are not ours, and tables whose policies apply to this role. */
const FIND_SILENT = `
select c.relname as name, t.tgname as trigger
from pg_class c left join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & 3 = 3
                                          and t.tgname <> 'summing_counters_protocol'
where c.oid = any(select to_regclass(n)::oid from unnest($1::text[]) u(n)) and t.oid is not null
union all
select c.relname, null from pg_class c
where c.oid = any(select to_regclass(n)::oid from unnest($1::text[]) u(n)) and row_security_active(c.oid)
order by 1, 2`;

/** A sentence for each, for the log. */
export async function silentRowWarnings(connection: DatabaseConnection): Promise<readonly string[]> {
  const rows = await connection.query<{ name: string; trigger: string | null }>({
    text: FIND_SILENT,
    values: [TABLES],
  });
  return rows.map(({ name, trigger }) =>
    trigger === null
      ? `Row-level security of the table ${name} applies to this role. A row that a policy hides or drops makes its flush fail; ` +
        'give the role BYPASSRLS, or a policy for all rows'
      : `The trigger ${trigger} of the table ${name} runs before rows are written. Where it returns null the flush fails, and keys ` +
        'whose rows it drops are set aside in rejected_increments',
  );
}
