/**
 * Creates the table `counters`, or adopts it from the application that this server replaces. Main thread, inside the transaction of
 * the migration.
 *
 * The table of the predecessor is `counters(key varchar(120) primary key, sum integer)`. It is altered in place, in one
 * rewrite. The predecessor may continue to write: its upsert names only `key` and `sum`, and PostgreSQL casts the varchar and
 * integer that it binds. An unsuitable table of that name is refused with the reason and with SQL that helps. One with further
 * columns may belong to another application, so it is adopted only if the operator allows it.
 */
import { StartError } from '../../core/errors.js';
import type { DatabaseConnection } from '../connection.js';

/**
 * Leaves room for updates in place: counters are updated often, and a heap-only tuple on the same page needs no index write.
 * Vacuum runs after a small share of the rows has changed.
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
where a.attrelid = $1::oid and a.attnum > 0 and not a.attisdropped
order by a.attnum`;

/** Views on the columns that must change type, and views on those views, dependent ones first. */
const DEPENDENT_VIEWS = `
with recursive dependents(oid, depth) as (
  select r.ev_class, 1
  from pg_attribute a
  join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum
  join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
  where a.attrelid = $1::oid and a.attname = any($2::text[]) and r.ev_class <> a.attrelid
  union
  select r.ev_class, p.depth + 1
  from dependents p
  join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = p.oid
  join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
  where r.ev_class <> p.oid and p.depth < 32
)
select c.oid::regclass::text as name, case c.relkind when 'm' then 'materialized view' else 'view' end as kind
from (select oid, max(depth) as depth from dependents group by oid) d join pg_class c using (oid)
order by d.depth desc, name`;

const PRIMARY_KEY = `
select quote_ident(conname) as name, pg_get_constraintdef(oid) as definition
from pg_constraint where conrelid = $1::oid and contype = 'p'`;

const COUNT_ROWS = 'select count(*)::text as rows, count(*) filter (where sum is null)::text as nulls from counters';

/** The changes of an adoption. */
export interface TableAdoption {
  readonly rows: number;
  /** Sums that were null, and are 0 now. */
  readonly nulls: number;
  /** How long the table was locked. */
  readonly seconds: number;
}

/** How {@link prepareCountersTable} treats an existing table. */
export interface CountersTableOptions {
  /** Limits each statement. */
  readonly timeoutMs: number;
  /** The database has a schema of ours already, so the table is ours. */
  readonly isOurs: boolean;
  /** ADOPT_COUNTERS: adopts a table with columns that the table of the original application does not have. */
  readonly adoptsOtherColumns: boolean;
}

/** The result of {@link prepareCountersTable}. */
export interface PreparedCountersTable {
  /** Sentences for the log about a table that works but costs speed. */
  readonly warnings: readonly string[];
  /** Undefined if the table was created, or needed no change. */
  readonly adopted: TableAdoption | undefined;
}

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
const OUR_COLUMNS = new Set(['key', 'sum', 'updated_at']);
const SUM_TYPES = new Set(['int2', 'int4', 'int8', 'numeric']);

/** Keeps the rows of another application under another name. */
const RENAME = 'If another application uses it: `alter table counters rename to other_counters;`.';

/**
 * Creates or adopts the table. Throws StartError where the existing table does not fit, before anything is altered.
 */
export async function prepareCountersTable(
  connection: DatabaseConnection,
  options: CountersTableOptions,
): Promise<PreparedCountersTable> {
  const [found] = await connection.query<{ oid: string | null }>({ text: FIND_TABLE });
  const oid = found?.oid;
  if (oid === null || oid === undefined) {
    await connection.query({ text: CREATE });
    return { warnings: [], adopted: undefined };
  }
  const columns = await connection.query<Column>({ text: DESCRIBE_COLUMNS, values: [oid] });
  const [table] = await connection.query<{ kind: string; keyed: boolean; sum_indexed: boolean }>({
    text: DESCRIBE_TABLE,
    values: [oid],
  });
  if (table?.kind !== 'r') refuse('it is not an ordinary table', RENAME);
  const { key, sum } = checkedKeyAndSum(columns);
  if (!table.keyed) await refuseKey(connection, oid);
  const updatedAt = checkedOthers(columns);

  const [ofKey, ofSum] = [keyChanges(key), sumChanges(sum)];
  const changes = [...ofKey, ...ofSum, ...updatedAtChanges(updatedAt)];
  if (!options.isOurs && !options.adoptsOtherColumns) refuseOtherColumns(columns, changes.length > 0);
  let adopted: TableAdoption | undefined;
  if (changes.length > 0) {
    const changed = [...(ofKey.length > 0 ? ['key'] : []), ...(ofSum.length > 0 ? ['sum'] : [])];
    await refuseDependentViews(connection, oid, changed);
    if (sum.type === 'numeric') await refuseFractions(connection, options.timeoutMs);
    adopted = await adopt(connection, changes, options.timeoutMs);
  }
  const warnings = table.sum_indexed
    ? ['An index on counters contains "sum": every flush must update it, which costs several times the table itself.']
    : [];
  return { warnings, adopted };
}

async function adopt(
  connection: DatabaseConnection,
  changes: readonly string[],
  timeoutMs: number,
): Promise<TableAdoption> {
  await connection.query({ text: 'lock table counters in access exclusive mode' });
  const startedAt = performance.now();
  const [counted] = await connection.query<{ rows: string; nulls: string }>({ text: COUNT_ROWS, timeoutMs });
  // First, so that the rewrite leaves room for updates.
  await connection.query({ text: `alter table counters set (${STORAGE})` });
  await connection.query({ text: `alter table counters ${changes.join(', ')}`, timeoutMs });
  const seconds = Number(((performance.now() - startedAt) / 1000).toFixed(3));
  return { rows: Number(counted?.rows), nulls: Number(counted?.nulls), seconds };
}

/** Throws StartError where one of the two is unsuitable. */
function checkedKeyAndSum(columns: readonly Column[]) {
  const key = columns.find((column) => column.name === 'key');
  const sum = columns.find((column) => column.name === 'sum');
  if (key === undefined || sum === undefined) refuse('it has no columns "key" and "sum"', RENAME);
  if (key.generated) refuse('its column "key" is generated', dropExpression('key'));
  if (!KEY_TYPES.has(key.type))
    refuse(`its column "key" is of type ${key.type}, not text or varchar`, changeType('key', 'text', 'key::text'));
  if (sum.generated) refuse('its column "sum" is generated', dropExpression('sum'));
  if (!SUM_TYPES.has(sum.type)) {
    const help = changeType('sum', 'numeric', 'round(sum::numeric)');
    refuse(`its column "sum" is of type ${sum.type}, not an integer or numeric`, help);
  }
  return { key, sum };
}

/** The column `updated_at`, if there is one. Throws StartError where it, or a foreign column, is unsuitable. */
function checkedOthers(columns: readonly Column[]): Column | undefined {
  const updatedAt = columns.find((column) => column.name === 'updated_at');
  if (updatedAt !== undefined && !['timestamptz', 'timestamp'].includes(updatedAt.type)) {
    const help = changeType('updated_at', 'timestamptz', 'updated_at::timestamptz');
    refuse(`its column "updated_at" is of type ${updatedAt.type}, not timestamptz`, help);
  }
  const unfillable = columns.find(
    (column) => !OUR_COLUMNS.has(column.name) && column.required && !column.defaulted && !column.generated,
  );
  if (unfillable !== undefined) {
    const help = `Rows that the server makes leave it out: \`alter table counters alter column ${identifier(unfillable.name)} drop not null;\`.`;
    refuse(`its column "${unfillable.name}" must be filled and has no default`, help);
  }
  return updatedAt;
}

function changeType(column: string, type: string, using: string): string {
  return `To convert it: \`alter table counters alter column ${column} type ${type} using ${using};\`.`;
}

function dropExpression(column: string): string {
  return `To make it an ordinary column: \`alter table counters alter column ${column} drop expression;\`.`;
}

/** A table with `updated_at` that needs no change is ours, for example after a restore of this table alone. */
function refuseOtherColumns(columns: readonly Column[], isChanged: boolean): void {
  const isOther = ({ name }: Column): boolean => !OUR_COLUMNS.has(name) || (isChanged && name === 'updated_at');
  const others = columns.filter(isOther).map(({ name }) => `"${name}"`);
  if (others.length === 0) return;
  const which = `${others.length === 1 ? 'column' : 'columns'} ${others.join(', ')}`;
  const help = `To adopt it with its rows nevertheless, set ADOPT_COUNTERS=1. ${RENAME}`;
  refuse(
    `it has the ${which}, which the table of the original application lacks; another application may own it`,
    help,
  );
}

async function refuseKey(connection: DatabaseConnection, oid: string): Promise<never> {
  const [primary] = await connection.query<{ name: string; definition: string }>({ text: PRIMARY_KEY, values: [oid] });
  const is = primary === undefined ? 'it has none' : `it is ${primary.definition}`;
  const drop = primary === undefined ? '' : `drop constraint ${primary.name}, `;
  const help =
    `To change it, where each key has one row (\`select key from counters group by key having count(*) > 1\` finds others): ` +
    `\`alter table counters ${drop}add primary key (key);\`.`;
  return refuse(`its primary key is not (key), ${is}`, help);
}

async function refuseDependentViews(
  connection: DatabaseConnection,
  oid: string,
  columns: readonly string[],
): Promise<void> {
  const values = [oid, columns];
  const views = await connection.query<{ name: string; kind: string }>({ text: DEPENDENT_VIEWS, values });
  if (views.length === 0) return;
  const names = views.map(({ name }) => name).join(', ');
  const definitions = views.map(({ name }) => `select pg_get_viewdef('${name.replaceAll("'", "''")}'::regclass);`);
  const drops = views.map(({ name, kind }) => `drop ${kind} ${name};`);
  const help =
    `Keep their definitions: \`${definitions.join(' ')}\`. Drop them: \`${drops.join(' ')}\`. ` +
    'After the next start, create them again.';
  const depend = views.length === 1 ? `the view ${names} depends` : `the views ${names} depend`;
  refuse(`${depend} on columns whose type must change`, help);
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
  if (row?.found !== true) return;
  const help =
    `To see them: \`select key, sum from counters where sum <> trunc(sum) or sum::text !~ '^-?[0-9.]+$';\`. ` +
    `To round fractions: \`update counters set sum = round(sum) where sum <> trunc(sum);\`.`;
  refuse('it holds sums that are not integers', help);
}

/** A name as PostgreSQL reads it, quoted where it must be. */
function identifier(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

/** `help`: sentences with SQL. */
function refuse(reason: string, help: string): never {
  throw new StartError([`The database has a table "counters" that cannot be used: ${reason}. ${help}`]);
}
