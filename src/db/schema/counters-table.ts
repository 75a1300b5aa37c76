/**
 * The table `counters`: created, adopted from the application that this server replaces, or already right. Main thread,
 * inside the transaction of the migration.
 *
 * The table of the predecessor is `counters(key varchar(120) primary key, sum integer)`. It is altered in place, in one
 * rewrite. The predecessor may go on writing at the same time: its upsert names only `key` and `sum`, and PostgreSQL casts
 * the varchar and integer that it binds. A table of that name that does not fit is refused with a reason.
 */
import { StartError } from '../../core/errors.js';
import type { DatabaseConnection } from '../connection.js';

/**
 * Leaves room for updates in place: counters are updated again and again, and a heap-only tuple on the same page needs no
 * index write. Vacuum runs after a small share of the rows has changed.
 */
const STORAGE = `fillfactor = 75, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 5000`;

const CREATE = `
create table counters (
  key text collate "C" primary key,
  sum numeric not null default 0,
  updated_at timestamptz not null default now()
) with (${STORAGE})`;

const FIND_TABLE = `select to_regclass('counters')::oid::int8::text as oid`;

const DESCRIBE_TABLE = `
select c.relkind as kind,
       coalesce((select bool_or(i.indisprimary and i.indnkeyatts = 1 and i.indimmediate and i.indisvalid and a.attname = 'key')
                 from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                 where i.indrelid = c.oid), false) as keyed,
       coalesce((select bool_or(a.attname = 'sum')
                 from pg_index i cross join unnest(i.indkey::int2[]) k(attnum)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                 where i.indrelid = c.oid), false) as sum_indexed
from pg_class c where c.oid = $1::oid`;

const DESCRIBE_COLUMNS = `
select a.attname as name, t.typname as type, a.atttypmod as modifier, a.attnotnull as required, a.attgenerated <> '' as generated,
       a.atthasdef or a.attidentity <> '' as defaulted, coalesce(l.collname, '') as collation,
       case when a.attname = 'sum' then pg_get_expr(d.adbin, d.adrelid) end as default_value
from pg_attribute a
join pg_type t on t.oid = a.atttypid
left join pg_collation l on l.oid = a.attcollation
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = $1::oid and a.attnum > 0 and not a.attisdropped`;

interface Column {
  readonly name: string;
  readonly type: string;
  readonly modifier: number;
  readonly required: boolean;
  readonly generated: boolean;
  readonly defaulted: boolean;
  readonly collation: string;
  readonly default_value: string | null;
}

const KEY_TYPES = new Set(['text', 'varchar']);
const SUM_TYPES = new Set(['int2', 'int4', 'int8', 'numeric']);

/**
 * Creates or adopts the table. Returns warnings. Throws StartError where the existing table does not fit, before anything is
 * altered. `timeoutMs` limits the rewrite.
 */
export async function prepareCountersTable(connection: DatabaseConnection, timeoutMs: number): Promise<string[]> {
  const [found] = await connection.query<{ oid: string | null }>({ text: FIND_TABLE });
  const oid = found?.oid;
  if (oid === null || oid === undefined) {
    await connection.query({ text: CREATE });
    return [];
  }
  const columns = await connection.query<Column>({ text: DESCRIBE_COLUMNS, values: [oid] });
  const [table] = await connection.query<{ kind: string; keyed: boolean; sum_indexed: boolean }>({
    text: DESCRIBE_TABLE,
    values: [oid],
  });
  if (table?.kind !== 'r') refuse('it is not an ordinary table');
  const key = columns.find((column) => column.name === 'key');
  const sum = columns.find((column) => column.name === 'sum');
  const updatedAt = columns.find((column) => column.name === 'updated_at');
  if (key === undefined || sum === undefined) refuse('it has no columns "key" and "sum"');
  if (!KEY_TYPES.has(key.type) || key.generated) refuse(`its column "key" is of type ${key.type}, not text or varchar`);
  if (!SUM_TYPES.has(sum.type) || sum.generated)
    refuse(`its column "sum" is of type ${sum.type}, not an integer or numeric`);
  if (!table.keyed) refuse('its primary key is not (key)');
  if (updatedAt !== undefined && !['timestamptz', 'timestamp'].includes(updatedAt.type)) {
    refuse(`its column "updated_at" is of type ${updatedAt.type}, not timestamptz`);
  }
  const unfillable = columns.find(
    (column) =>
      !['key', 'sum', 'updated_at'].includes(column.name) && column.required && !column.defaulted && !column.generated,
  );
  if (unfillable !== undefined) refuse(`its column "${unfillable.name}" must be filled and has no default`);

  const changes = [...keyChanges(key), ...sumChanges(sum), ...updatedAtChanges(updatedAt)];
  if (changes.length > 0) {
    if (sum.type === 'numeric') await refuseFractions(connection, timeoutMs);
    // First, so that the rewrite below leaves that room.
    await connection.query({ text: `alter table counters set (${STORAGE})` });
    await connection.query({ text: `alter table counters ${changes.join(', ')}`, timeoutMs });
  }
  return table.sum_indexed
    ? ['An index on counters contains "sum": every flush must update it, which costs several times the table itself.']
    : [];
}

function keyChanges(key: Column): string[] {
  return key.type === 'text' && key.collation === 'C' ? [] : ['alter column key type text collate "C"'];
}

function sumChanges(sum: Column): string[] {
  if (sum.type === 'numeric' && sum.modifier === -1 && sum.required) {
    return sum.default_value === '0' ? [] : ['alter column sum set default 0'];
  }
  return [
    // Dropped first, because the default may not be castable.
    ...(sum.defaulted ? ['alter column sum drop default'] : []),
    'alter column sum type numeric using coalesce(sum, 0)::numeric',
    'alter column sum set default 0',
    'alter column sum set not null',
  ];
}

function updatedAtChanges(column: Column | undefined): string[] {
  if (column === undefined) return ['add column updated_at timestamptz not null default now()'];
  if (column.type === 'timestamptz' && column.required && column.defaulted) return [];
  const value = column.type === 'timestamptz' ? 'updated_at' : `updated_at at time zone 'UTC'`;
  return [
    `alter column updated_at type timestamptz using coalesce(${value}, now())`,
    'alter column updated_at set default now()',
    'alter column updated_at set not null',
  ];
}

async function refuseFractions(connection: DatabaseConnection, timeoutMs: number): Promise<void> {
  const [row] = await connection.query<{ found: boolean }>({
    // NaN and infinities equal their own truncation.
    text: `select exists (select 1 from counters where sum <> trunc(sum) or sum::text !~ '^-?[0-9.]+$') as found`,
    timeoutMs,
  });
  if (row?.found === true) refuse('it holds sums that are not integers');
}

function refuse(reason: string): never {
  throw new StartError([`The database has a table "counters" that cannot be used: ${reason}.`]);
}
