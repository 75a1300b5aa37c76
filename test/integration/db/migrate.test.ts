import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DatabaseConnection } from '#product/db/connection.js';
import { migrate } from '#product/db/migrate.js';
import { StartError } from '#product/errors.js';
import { connectTo, createTestDatabase } from '../../support/database.js';

async function withDatabase(
  body: (connection: DatabaseConnection, url: string) => Promise<void>,
  options = '',
): Promise<void> {
  const database = await createTestDatabase(options);
  try {
    const connection = await connectTo(database.url);
    try {
      await body(connection, database.url);
    } finally {
      await connection.close();
    }
  } finally {
    await database.drop();
  }
}

async function columnsOfCounters(connection: DatabaseConnection): Promise<string[]> {
  const rows = await connection.query<{ line: string }>({
    text: `select concat_ws(' ', column_name, data_type, collation_name, is_nullable, column_default) as line
           from information_schema.columns where table_name = 'counters' order by ordinal_position`,
  });
  return rows.map((row) => row.line);
}

const COLUMNS = ['key text C NO', 'sum numeric NO 0', 'updated_at timestamp with time zone NO now()'];

const startErrorSaying =
  (pattern: RegExp) =>
  (error: unknown): boolean =>
    error instanceof StartError && error.exitCode === 78 && error.problems.length === 1 && pattern.test(error.message);

test('an empty database is migrated once, and its id stays', async () => {
  await withDatabase(async (connection) => {
    const first = await migrate(connection);
    assert.deepEqual(first.applied, ['1 initial']);
    assert.match(first.databaseId, /^[0-9a-f-]{36}$/);
    assert.deepEqual(await columnsOfCounters(connection), COLUMNS);
    assert.deepEqual(await migrate(connection), { databaseId: first.databaseId, applied: [], warnings: [] });
  });
});

test('ten nodes that migrate at once agree on one database id', async () => {
  await withDatabase(async (_, url) => {
    const connections = await Promise.all(Array.from({ length: 10 }, () => connectTo(url)));
    try {
      const results = await Promise.all(connections.map((connection) => migrate(connection)));
      assert.equal(new Set(results.map((result) => result.databaseId)).size, 1);
      assert.equal(results.filter((result) => result.applied.length > 0).length, 1);
    } finally {
      await Promise.all(connections.map((connection) => connection.close()));
    }
  });
});

test('a schema that is newer than the server refuses to start', async () => {
  await withDatabase(async (connection) => {
    await migrate(connection);
    await connection.query({ text: `insert into summing_counters_migrations (version, name) values (99, 'future')` });
    await assert.rejects(migrate(connection), startErrorSaying(/schema version 99/));
  });
});

test('an encoding other than UTF8 refuses to start', async () => {
  await withDatabase(async (connection) => {
    await assert.rejects(migrate(connection), startErrorSaying(/encoding is LATIN1/));
  }, `encoding 'LATIN1' locale_provider libc locale 'C' template template0`);
});

test('the table of the original application is adopted with its rows, and its upserts go on working', async () => {
  await withDatabase(async (connection, url) => {
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
      // As Ecto does: the server infers the types, and the statement stays prepared over the migration.
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
    const [foreign] = await connection.query<{ there: boolean }>({
      text: `select to_regclass('schema_migrations') is not null as there`,
    });
    assert.equal(foreign?.there, true);
  });
});
