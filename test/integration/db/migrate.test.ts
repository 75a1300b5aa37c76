import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import type { DatabaseConnection } from '#product/db/connection.js';
import pg from 'pg';
import { errorCode } from '#product/db/database-errors.js';
import { migrations } from '#product/db/schema/migrations.js';
import { migrate, TableBusyError } from '#product/db/schema/migrate.js';
import { StartError } from '#product/core/errors.js';
import { connectTo, createTestDatabase } from '../../support/database.js';
import { takeStream } from '../../support/taken-stream.js';
import { TestShard } from '../../support/flushes.js';

interface OwnDatabase {
  readonly connection: DatabaseConnection;
  readonly url: string;
}

/** An empty database for one test, with a connection to it. `options` is appended to CREATE DATABASE. */
async function emptyDatabase(context: TestContext, options = ''): Promise<OwnDatabase> {
  const database = await createTestDatabase(options);
  const connection = await connectTo(database.url);
  context.after(async () => {
    await connection.close();
    await database.drop();
  });
  return { connection, url: database.url };
}

async function columnsOfCounters(connection: DatabaseConnection): Promise<string[]> {
  const rows = await connection.query<{ line: string }>({
    text: `select concat_ws(' ', column_name, data_type, collation_name, is_nullable, column_default) as line
           from information_schema.columns where table_name = 'counters' order by ordinal_position`,
  });
  return rows.map((row) => row.line);
}

async function hasTable(connection: DatabaseConnection, name: string): Promise<boolean> {
  const [row] = await connection.query({ text: 'select to_regclass($1) is not null as there', values: [name] });
  return row?.['there'] === true;
}

/** The counters by their key. Their sums are small. */
function sumsOf(connection: DatabaseConnection): Promise<readonly Record<string, unknown>[]> {
  return connection.query({ text: 'select key, sum::int from counters order by key' });
}

const COLUMNS = ['key text C NO', 'sum numeric NO 0', 'updated_at timestamp with time zone NO now()'];

const startErrorSaying =
  (pattern: RegExp) =>
  (error: unknown): boolean =>
    error instanceof StartError &&
    error.exitCode === 78 &&
    error.problems.length === 1 &&
    error.message.endsWith('.') &&
    pattern.test(error.message);

test('an empty database is migrated once, and its id stays', async (context) => {
  const { connection } = await emptyDatabase(context);
  const first = await migrate(connection);
  assert.deepEqual(first.applied, [
    '1 initial',
    '2 claims',
    '3 removals-of-nothing',
    '4 database-times',
    '5 increment-log',
    '6 stores',
    '7 damaged-messages',
  ]);
  assert.match(first.databaseId, /^[0-9a-f-]{36}$/);
  assert.deepEqual(await columnsOfCounters(connection), COLUMNS);
  assert.deepEqual(await migrate(connection), { databaseId: first.databaseId, applied: [], warnings: [] });
});

/** A database as version 3 of the schema left it, which was in use for a while. */
async function makeVersion3(connection: DatabaseConnection): Promise<void> {
  await connection.query({
    text: `create table summing_counters_migrations (
             version int primary key, name text not null, applied_at timestamptz not null default now(),
             database_id uuid not null default gen_random_uuid())`,
  });
  for (const { version, name, sql } of migrations.filter((step) => step.version <= 3)) {
    await connection.query({ text: sql });
    await connection.query({
      text: `insert into summing_counters_migrations (version, name, applied_at) values ($1, $2, '2026-01-01')`,
      values: [version, name],
    });
  }
}

test('rows that are open at the migration to database times cover all earlier records, retired ones none of them', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  await makeVersion3(connection);
  const [open, silent, retired, never] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
  await connection.query({
    text: `insert into journal_checkpoints (stream, epoch, lsn, journal, accepted_through, retired_at, created_at) values
           ($1, 5000000, 17, 'file', '2026-01-02', null, '2026-01-01'),
           ($2, 0, 0, 'file', null, null, '2026-01-01'),
           ($3, 3, 9, 'memory', '2026-01-03', '2026-01-04', '2026-01-01'),
           ($4, 3, 0, 'memory', null, '2026-01-04', '2026-01-01')`,
    values: [open, silent, retired, never],
  });
  // A claim that a failover has left above the epoch of its row.
  await connection.query({
    text: `insert into journal_claims (stream, epoch, claim, lsn) values ($1, 9000000, gen_random_uuid(), 0)`,
    values: [open],
  });
  await connection.query({
    text: `insert into rejected_increments (stream, key, amount, reason, sqlstate) values ($1, 'k', '1', 'r', '23514')`,
    values: [open],
  });
  assert.deepEqual((await migrate(connection)).applied, [
    '4 database-times',
    '5 increment-log',
    '6 stores',
    '7 damaged-messages',
  ]);
  const rows = await connection.query<Record<string, unknown>>({
    text: `select stream::text, epoch::text, lsn::text, accepted_through::date::text as accepted,
                covered_from::date::text as covered, heard_at > now() - interval '1 minute' as heard,
                closed_at is not null as closed, retired_at is not null as retired
         from journal_checkpoints order by retired_at nulls first, lsn desc`,
  });
  const fields = { heard: true, closed: false };
  const ever = { accepted: '-infinity', covered: '-infinity', retired: false };
  assert.deepEqual(rows, [
    { stream: open, epoch: '5000000', lsn: '17', ...ever, ...fields },
    { stream: silent, epoch: '0', lsn: '0', ...ever, ...fields },
    {
      stream: retired,
      epoch: '3',
      lsn: '9',
      accepted: '2026-01-03',
      covered: '2026-01-03',
      retired: true,
      ...fields,
    },
    { stream: never, epoch: '3', lsn: '0', accepted: '2026-01-01', covered: '2026-01-01', retired: true, ...fields },
  ]);
  const [pruning] = await connection.query<{ now: boolean; rows: number }>({
    text: `select bool_and(pruned_before between now() - interval '1 minute' and now()) as now, count(*)::int as rows
         from idempotency_pruning`,
  });
  assert.deepEqual(pruning, { now: true, rows: 1 }, 'keys may have been pruned up to now');
  const [rejected] = await connection.query({ text: 'select sqlstate, token, lsn, digest from rejected_increments' });
  assert.deepEqual(rejected, { sqlstate: '23514', token: null, lsn: null, digest: null });

  const shard = new TestShard(url, { applicationName: 'shard' });
  const taken = await takeStream(shard.database, open);
  assert.ok(taken.epoch > 9_000_000, `the epoch ${taken.epoch} is above every one that exists`);
  assert.equal((await shard.readBack(open))?.coveredFrom, 0, 'an open row keeps what it covers');
  await takeStream(shard.database, retired);
  const coveredFrom = (await shard.readBack(retired))?.coveredFrom ?? 0;
  assert.ok(Math.abs(coveredFrom - Date.now() / 1000) < 60, 'a retired one covers what is accepted from now on');
  await shard.close();
});

test('in a database that is new nothing was ever pruned, and a row covers everything', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  await migrate(connection);
  assert.deepEqual(await connection.query({ text: 'select pruned_before::text as at from idempotency_pruning' }), [
    { at: '-infinity' },
  ]);
  const shard = new TestShard(url, { applicationName: 'shard' });
  const { stream } = await shard.newStream();
  assert.equal((await shard.readBack(stream))?.coveredFrom, 0);
  await shard.close();
});

test('sessions of older versions are refused with 25006 where they would take, flush, retire or prune, and change nothing', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  await migrate(connection);
  const stream = randomUUID();
  await connection.query({
    text: 'insert into journal_checkpoints (stream, epoch, lsn) values ($1, 1, 1)',
    values: [stream],
  });
  await connection.query({
    text: `insert into idempotency_keys (token, digest, claimed_at) values ('t', '', now())`,
  });
  const tables = `select (select json_agg(c) from journal_checkpoints c)::text || (select json_agg(k) from idempotency_keys k)::text as all`;
  const before = await connection.query({ text: tables });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const isRefused = (error: unknown): boolean =>
    errorCode(error) === '25006' && String(error).includes('newer version');
  try {
    for (const protocol of [undefined, '', '0', '1', '2']) {
      if (protocol !== undefined)
        await client.query(`select set_config('summing_counters.protocol', $1, false)`, [protocol]);
      for (const text of [
        `insert into journal_checkpoints (stream, epoch, lsn) values (gen_random_uuid(), 0, 0) on conflict do nothing`,
        `update journal_checkpoints set lsn = 2`,
        `update journal_checkpoints set retired_at = now() where false`,
        `with fence as (update journal_checkpoints set lsn = 2 where lsn = 9 returning 1)
       insert into counters (key, sum) select 'k', 1 from fence`,
        `delete from idempotency_keys where claimed_at < now()`,
      ]) {
        await assert.rejects(client.query(text), isRefused, `${protocol ?? 'unset'}: ${text}`);
      }
    }
    assert.deepEqual(await connection.query({ text: tables }), before);
    // Reading is allowed, and so is a session of an operator that says what it follows.
    await client.query('select * from journal_checkpoints');
    await client.query('set summing_counters.protocol = 3');
    await client.query('update journal_checkpoints set lsn = 2');
    await client.query('delete from idempotency_keys');
  } finally {
    await client.end();
  }
});

test('ten nodes that migrate at once agree on one database id', async (context) => {
  const { url } = await emptyDatabase(context);
  const connections = await Promise.all(Array.from({ length: 10 }, () => connectTo(url)));
  try {
    const results = await Promise.all(connections.map((connection) => migrate(connection)));
    assert.equal(new Set(results.map((result) => result.databaseId)).size, 1);
    assert.equal(results.filter((result) => result.applied.length > 0).length, 1);
  } finally {
    await Promise.all(connections.map((connection) => connection.close()));
  }
});

test('a schema that is newer than the server refuses to start', async (context) => {
  const { connection } = await emptyDatabase(context);
  await migrate(connection);
  await connection.query({ text: `insert into summing_counters_migrations (version, name) values (99, 'future')` });
  await assert.rejects(migrate(connection), startErrorSaying(/schema version 99/));
});

test('an encoding other than UTF8 refuses to start', async (context) => {
  const { connection } = await emptyDatabase(context, `encoding 'SQL_ASCII' locale 'C' template template0`);
  await assert.rejects(migrate(connection), startErrorSaying(/encoding is SQL_ASCII/));
});

test('the table of the original application is adopted with its rows, and its upserts go on working', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  await connection.query({
    text: `create table schema_migrations (version bigint primary key, inserted_at timestamp(0));
         create table counters (key varchar(120) primary key, sum integer);
         insert into counters values ('a', 1), ('B', null), ('ä', 2147483647), ('c', -5);`,
  });
  const original = await connectTo(url, 'original');
  try {
    const upsert =
      'insert into counters (key, sum) values ($1, $2) on conflict (key) do update set sum = counters.sum + $2';
    await original.query({ text: `prepare upsert (varchar, integer) as ${upsert}` });
    await original.query({ text: `execute upsert ('a', 10)` });
    // As Ecto does it: the server infers the types, and the statement stays prepared during the migration.
    await original.query({ name: 'upsert-inferred', text: upsert, values: ['c', 1] });

    await migrate(connection);
    assert.deepEqual(await columnsOfCounters(connection), COLUMNS);
    await original.query({ text: `execute upsert ('a', 100)` });
    await original.query({ text: `execute upsert ('ä', 1)` });
    await original.query({ text: `execute upsert ('new', 7)` });
    await original.query({ name: 'upsert-inferred', text: upsert, values: ['c', 1] });
    await original.query({ text: upsert, values: ['B', 3] });
  } finally {
    await original.close();
  }
  const rows = await connection.query<{ key: string; sum: string }>({
    text: 'select key, sum::text from counters order by key',
  });
  assert.deepEqual(
    rows.map((row) => `${row.key}=${row.sum}`),
    ['B=3', 'a=111', 'c=-3', 'new=7', 'ä=2147483648'],
  );
  assert.equal(await hasTable(connection, 'schema_migrations'), true);
});

const ADOPTABLE: Readonly<Record<string, string>> = {
  'bigint sums and a longer key': 'create table counters (key varchar(255) primary key, sum bigint default 0)',
  'numeric sums with a scale': 'create table counters (key text primary key, sum numeric(20, 2) not null)',
  'more columns that fill themselves':
    'create table counters (id serial, key text primary key, sum int2, note text, inserted_at timestamp not null default now())',
  'a time without a zone, as Ecto has it':
    'create table counters (key varchar(120) primary key, sum integer, updated_at timestamp(0) not null)',
  'a sum that has to have a value': `create table counters (key varchar(120) primary key, sum integer not null default '7')`,
};

for (const [what, sql] of Object.entries(ADOPTABLE)) {
  test(`a table with ${what} is adopted`, async (context) => {
    const { connection } = await emptyDatabase(context);
    await connection.query({ text: sql });
    const names = sql.includes('updated_at') ? 'key, sum, updated_at' : 'key, sum';
    const values = sql.includes('updated_at') ? `'a', 5, '2026-01-02 03:04:05'` : `'a', 5`;
    await connection.query({ text: `insert into counters (${names}) values (${values})` });
    await migrate(connection, { adoptsOtherColumns: true });
    const columns = await columnsOfCounters(connection);
    for (const column of COLUMNS) assert.ok(columns.includes(column), columns.join('; '));
    const [row] = await connection.query<{ sum: string; at: string }>({
      text: `select sum::text, to_char(updated_at at time zone 'UTC', 'YYYY-MM-DD') as at from counters`,
    });
    assert.equal(Number(row?.sum), 5);
    if (sql.includes('updated_at')) assert.equal(row?.at, '2026-01-02');
    assert.deepEqual((await migrate(connection)).applied, []);
  });
}

test('an adoption says how many rows it took, how many null sums are 0 now, and how long the table was locked', async (context) => {
  const { connection } = await emptyDatabase(context);
  await connection.query({
    text: `create table counters (key varchar(120) primary key, sum integer);
         insert into counters select 'k' || n, nullif(n % 10, 0) from generate_series(1, 1000) n`,
  });
  const { adopted } = await migrate(connection);
  assert.deepEqual([adopted?.rows, adopted?.nulls], [1000, 100]);
  assert.ok((adopted?.seconds ?? 0) > 0 && (adopted?.seconds ?? 99) < 60, String(adopted?.seconds));
  assert.equal('adopted' in (await migrate(connection)), false);
});

for (const [column, sentence] of [
  [
    'note text',
    /has the column "note", which .* set ADOPT_COUNTERS=1\. .* `alter table counters rename to other_counters;`\.$/,
  ],
  ['updated_at timestamp, owner int', /has the columns "updated_at", "owner", which .* set ADOPT_COUNTERS=1/],
] as const) {
  test(`a table with the column ${column} is adopted only where the operator says so`, async (context) => {
    const { connection } = await emptyDatabase(context);
    await connection.query({ text: `create table counters (key varchar(120) primary key, sum integer, ${column})` });
    const before = await columnsOfCounters(connection);
    await assert.rejects(migrate(connection), startErrorSaying(sentence));
    assert.deepEqual(await columnsOfCounters(connection), before);
    assert.equal((await migrate(connection, { adoptsOtherColumns: true })).adopted?.rows, 0);
    // The table is ours now, whatever columns somebody adds.
    await connection.query({ text: 'alter table counters add column later int, alter column sum drop default' });
    await migrate(connection);
  });
}

test('a table counters of ours without the other tables, as a partial restore leaves it, is taken as it is', async (context) => {
  const { connection } = await emptyDatabase(context);
  await migrate(connection);
  await connection.query({ text: `insert into counters (key, sum) values ('a', 5)` });
  await connection.query({
    text: `create schema restored; alter table counters set schema restored; set search_path = restored`,
  });
  const { adopted, applied } = await migrate(connection);
  assert.equal(adopted, undefined);
  assert.equal(applied.length, migrations.length);
  assert.deepEqual(await sumsOf(connection), [{ key: 'a', sum: 5 }]);
});

/** The statements in a sentence, each up to its semicolon. */
function statementsIn(sentence: string): readonly string[] {
  return [...sentence.matchAll(/\b(?:alter|drop|grant|update) [^;]*;/g)].map(([sql]) => sql);
}

/** Runs statements that a refusal offers. */
async function runAll(connection: DatabaseConnection, statements: readonly string[]): Promise<void> {
  for (const text of statements) await connection.query({ text });
}

/** Of the statements that a refusal offers, the last ones may be an alternative: renaming the table. */
async function refusalOf(connection: DatabaseConnection): Promise<string> {
  try {
    await migrate(connection);
  } catch (error) {
    assert.ok(error instanceof StartError);
    return error.message;
  }
  throw new Error('the table was not refused');
}

const HELPED: Readonly<Record<string, string>> = {
  'no primary key': `create table counters (key text unique, sum int); insert into counters values ('a', 1)`,
  'another primary key': `create table counters (id serial primary key, key text, sum int); insert into counters values (1, 'a', 1)`,
  'padded keys': `create table counters (key char(20) primary key, sum int); insert into counters values ('a', 1)`,
  'numbers as keys': 'create table counters (key int primary key, sum int); insert into counters values (1, 1)',
  'approximate sums': `create table counters (key text primary key, sum float8); insert into counters values ('a', 0.9)`,
  fractions: `create table counters (key text primary key, sum numeric); insert into counters values ('a', 1.4)`,
  'a column that nobody fills': `create table counters (key text primary key, sum int, "The Owner" text not null);
                                 insert into counters values ('a', 1, 'me')`,
  'a generated sum': `create table counters (key text primary key, n int, sum int generated always as (n + 1) stored);
                      insert into counters values ('a', 0)`,
  'a day as updated_at': `create table counters (key text primary key, sum int, updated_at date);
                          insert into counters values ('a', 1)`,
  'views on its columns': `create table counters (key varchar(120) primary key, sum int); insert into counters values ('a', 1);
                           create view top as select key, sum from counters;
                           create materialized view "Top Keys" as select key from top;
                           create view many as select count(*) as many from counters`,
};

for (const [what, sql] of Object.entries(HELPED)) {
  test(`the refusal of a table with ${what} has the SQL after which it is adopted`, async (context) => {
    const { connection } = await emptyDatabase(context);
    await connection.query({ text: sql });
    const statements = statementsIn((await refusalOf(connection)).replace(/ If another application.*/, ''));
    assert.ok(statements.length > 0);
    await runAll(connection, statements);
    await migrate(connection, { adoptsOtherColumns: true });
    assert.deepEqual(
      await connection.query({ text: "select trim(key) in ('a', '1') as there, sum::int from counters" }),
      [{ there: true, sum: 1 }],
    );
  });
}

test('a view that only counts rows, or one elsewhere, does not stand in the way', async (context) => {
  const { connection } = await emptyDatabase(context);
  await connection.query({
    text: `create table counters (key varchar(120) primary key, sum int);
           create view many as select count(*) as many from counters;
           create table other (key int); create view others as select key from other`,
  });
  assert.equal((await migrate(connection)).adopted?.rows, 0);
});

const REFUSED: Readonly<Record<string, readonly [string, RegExp]>> = {
  'a view': ['create view counters as select 1 as key, 2 as sum', /not an ordinary table/],
  'a partitioned table': [
    'create table counters (key text primary key, sum int) partition by hash (key)',
    /not an ordinary table/,
  ],
  'no sums': ['create table counters (key text primary key, value int)', /no columns "key" and "sum"/],
  'numbers as keys': ['create table counters (key int primary key, sum int)', /"key" is of type int4/],
  'padded keys': ['create table counters (key char(20) primary key, sum int)', /"key" is of type bpchar/],
  'approximate sums': ['create table counters (key text primary key, sum float8)', /"sum" is of type float8/],
  'no primary key': ['create table counters (key text unique, sum int)', /primary key is not \(key\)/],
  'a longer primary key': [
    'create table counters (key text, day date, sum int, primary key (key, day))',
    /primary key is not \(key\)/,
  ],
  'a primary key that is checked late': [
    'create table counters (key text primary key deferrable, sum int)',
    /primary key is not \(key\)/,
  ],
  'a column that nobody fills': [
    'create table counters (key text primary key, sum int, owner text not null)',
    /"owner" must be filled/,
  ],
  fractions: [
    'create table counters (key text primary key, sum numeric); insert into counters values (1, 1.5)',
    /sums that are not integers/,
  ],
  'what is not a number': [
    `create table counters (key text primary key, sum numeric); insert into counters values ('k', 'NaN')`,
    /sums that are not integers/,
  ],
  'a view on its sums': [
    'create table counters (key varchar(120) primary key, sum int); create view top as select sum from counters',
    /cannot be used: the view top depends on columns .*pg_get_viewdef\('top'::regclass\).* `drop view top;`/,
  ],
};

for (const [what, [sql, sentence]] of Object.entries(REFUSED)) {
  test(`a table with or as ${what} is refused with a sentence, and left as it was`, async (context) => {
    const { connection } = await emptyDatabase(context);
    await connection.query({ text: sql });
    const before = await columnsOfCounters(connection);
    await assert.rejects(migrate(connection), startErrorSaying(sentence));
    assert.deepEqual(await columnsOfCounters(connection), before);
    assert.equal(await hasTable(connection, 'summing_counters_migrations'), false);
  });
}

test('an index on the sums is left alone, with a warning', async (context) => {
  const { connection } = await emptyDatabase(context);
  await connection.query({
    text: 'create table counters (key varchar(120) primary key, sum integer); create index top on counters (sum)',
  });
  const { warnings } = await migrate(connection);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? '', /index on counters contains "sum"/);
});

interface RoleSession {
  /** A connection of the role. */
  readonly plain: DatabaseConnection;
  readonly role: string;
  readonly roleUrl: URL;
}

/** Makes a role that may not create, whose name begins with `prefix`. It is dropped after `body`. */
async function withRole(
  { connection, url }: OwnDatabase,
  prefix: string,
  body: (session: RoleSession) => Promise<void>,
): Promise<void> {
  const role = `${prefix}${randomBytes(6).toString('hex')}`;
  await connection.query({
    text: `revoke create on schema public from public; create role "${role}" login password 'plain'`,
  });
  const roleUrl = new URL(url);
  roleUrl.username = role;
  roleUrl.password = 'plain';
  const plain = await connectTo(roleUrl.href);
  try {
    await body({ plain, role, roleUrl });
  } finally {
    await plain.close();
    await connection.query({ text: `drop owned by "${role}"; drop role "${role}"` });
  }
}

test('a role that may not create tables is refused, unless the database is migrated already', async (context) => {
  const database = await emptyDatabase(context);
  const { connection } = database;
  await withRole(database, 'plain_', async ({ plain, role }) => {
    const sentence = new RegExp(
      `permission denied for schema public\\. .*: .grant usage, create on schema public to ${role};.\\. Or run .npm run migrate.`,
    );
    await assert.rejects(migrate(plain), startErrorSaying(sentence));
    const { databaseId } = await migrate(connection);
    const denied = new RegExp(
      `permission denied for table summing_counters_migrations\\. .* grant select, .* public to ${role};`,
    );
    await assert.rejects(migrate(plain), startErrorSaying(denied));
    const grants = statementsIn(await refusalOf(plain));
    assert.equal(grants.length, 3);
    await runAll(connection, grants);
    assert.deepEqual(await migrate(plain), { databaseId, applied: [], warnings: [] });
  });
});

test('each refusal names the grants that a role lacks: to create, to own, and to use a schema', async (context) => {
  const database = await emptyDatabase(context);
  const { connection } = database;
  await withRole(database, 'Plain ', async ({ plain }) => {
    await connection.query({ text: 'create table counters (key varchar(120) primary key, sum integer)' });
    await runAll(connection, statementsIn((await refusalOf(plain)).replace(/Or run.*/, '')));
    const owned = await refusalOf(plain);
    assert.match(owned, /permission denied for table counters|must be owner of table counters/);
    await runAll(connection, statementsIn(owned.replace(/.* Or make/, '')));
    if (!owned.includes('must be owner')) {
      const next = await refusalOf(plain);
      assert.match(next, /must be owner of table counters/);
      await runAll(connection, statementsIn(next.replace(/.* Or make/, '')));
    }
    assert.equal((await migrate(plain)).applied.length, migrations.length);
  });
});

test('the refusal of a role without any right on the schema, or without the right to connect, has the grant it needs', async (context) => {
  const database = await emptyDatabase(context);
  const { connection } = database;
  await withRole(database, 'plain_', async ({ plain, role, roleUrl }) => {
    await connection.query({ text: 'revoke all on schema public from public' });
    await plain.query({ text: 'set search_path = nowhere' });
    const [elsewhere] = statementsIn(await refusalOf(plain));
    assert.equal(elsewhere, `alter role ${role} set search_path = public;`);
    await plain.query({ text: 'reset search_path' });
    const [grant = ''] = statementsIn(await refusalOf(plain));
    assert.equal(grant, `grant usage, create on schema public to ${role};`);
    await connection.query({ text: grant });
    await migrate(plain);
    const database = roleUrl.pathname.slice(1);
    await connection.query({ text: `revoke connect on database ${database} from public` });
    const refused = runMigrateCommand({ DATABASE_URL: roleUrl.href });
    assert.equal(refused.status, 78);
    const [connectGrant = ''] = statementsIn(refused.stderr);
    assert.equal(connectGrant, `grant connect on database "${database}" to "${role}";`);
    await connection.query({ text: connectGrant });
    assert.equal(runMigrateCommand({ DATABASE_URL: roleUrl.href }).status, 0);
  });
});

test('the migrate command says what an adoption did, and adopts other columns with ADOPT_COUNTERS=1', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  await connection.query({
    text: `create table counters (key varchar(120) primary key, sum integer, note text);
         insert into counters values ('a', 1), ('b', null)`,
  });
  const refused = runMigrateCommand({ DATABASE_URL: url });
  assert.deepEqual([refused.status, refused.stderr.includes('ADOPT_COUNTERS=1')], [78, true]);
  const { status, stdout } = runMigrateCommand({ DATABASE_URL: url, ADOPT_COUNTERS: '1' });
  assert.equal(status, 0);
  assert.match(stdout, /^Adopted the table counters with 2 rows; 1 null sum is 0 now; it was locked for [\d.]+ s$/m);
});

test('a migration does not block others for long on a table in use, names its users, and succeeds as a whole later', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  await connection.query({ text: `create table counters (key varchar(120) primary key, sum integer)` });
  const writer = await connectTo(url, 'writer');
  const observer = await connectTo(url, 'observer');
  try {
    await writer.query({ text: `begin; insert into counters values ('a', 1)` });
    const startedAt = performance.now();
    await assert.rejects(migrate(connection), (error) => {
      assert.ok(error instanceof TableBusyError);
      assert.match(error.message, /counters is in use by process \d+ \(writer\)/);
      return true;
    });
    // Below the session's own limit for a lock, 5 s: the migration has a shorter one.
    assert.ok(performance.now() - startedAt < 4000);
    assert.equal(await hasTable(observer, 'summing_counters_migrations'), false);
    await writer.query({ text: 'commit' });
    await migrate(connection);
    assert.deepEqual(await sumsOf(connection), [{ key: 'a', sum: 1 }]);
  } finally {
    await writer.close();
    await observer.close();
  }
});

function runMigrateCommand(environment: Record<string, string>): {
  status: number | null;
  stdout: string;
  stderr: string;
} {
  const program = path.join(import.meta.dirname, '../../../../dist/cli/migrate.js');
  return spawnSync(process.execPath, [program], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], ...environment },
  });
}

test('the migrate command migrates, reports that, and never prints the password', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  const { status, stdout, stderr } = runMigrateCommand({ DATABASE_URL: url });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /Migrated the database\n.*has the schema of this version; its id is [0-9a-f-]{36}/);
  assert.ok(!(stdout + stderr).includes(`:${new URL(url).password}@`));
  assert.deepEqual(await columnsOfCounters(connection), COLUMNS);
});

test('the migrate command ends with 78 where it is refused, and with 75 where no server answers', async (context) => {
  const { connection, url } = await emptyDatabase(context);
  await connection.query({ text: 'create view counters as select 1 as key' });
  assert.equal(runMigrateCommand({ DATABASE_URL: url }).status, 78);
  assert.equal(runMigrateCommand({ DATABASE_URL: 'postgres://u@127.0.0.1:1/d' }).status, 75);
  assert.equal(runMigrateCommand({}).status, 78);
});

test('a database that takes no writes ends the start with one sentence', async (context) => {
  const { connection } = await emptyDatabase(context);
  await connection.query({ text: 'set default_transaction_read_only = on' });
  await assert.rejects(migrate(connection), startErrorSaying(/read-only transaction/));
});
