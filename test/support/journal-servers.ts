/**
 * What the tests of the shared journals ask of a database and of servers.
 */
import assert from 'node:assert/strict';
import { connectTo } from './database.js';
import { send } from './http.js';
import type { TestServer } from './server.js';

export type Role = 'serve' | 'ingest' | 'roll-up';
export type Environment = Readonly<Record<string, string>>;

/** The rows of one statement, over a connection of its own. */
export async function rowsOf<Row extends Record<string, unknown>>(url: string, text: string): Promise<Row[]> {
  const connection = await connectTo(url);
  try {
    return await connection.query<Row>({ text });
  } finally {
    await connection.close();
  }
}

/** The committed sum of a key; 0 without a row. */
export async function committedSum(url: string, key: string): Promise<number> {
  const [row] = await rowsOf<{ sum: string }>(url, `select sum::text from counters where key = '${key}'`);
  return Number(row?.sum ?? 0);
}

/** The streams that are not retired. */
export function openStreams(url: string): Promise<readonly Record<string, unknown>[]> {
  return rowsOf(url, 'select stream from journal_checkpoints where retired_at is null');
}

/** Asserts the three numbers that `GET /counters/KEY` answers. */
export async function assertCounter(
  server: TestServer,
  key: string,
  expected: { readonly sum: number; readonly committed: number; readonly pending: number | null },
): Promise<void> {
  const answer = await send(server.url, `/counters/${key}`);
  assert.equal(answer.status, 200, answer.body);
  const { sum, committed, pending } = JSON.parse(answer.body) as Record<string, unknown>;
  assert.deepEqual({ sum, committed, pending }, expected);
}

/** The id of a database. */
export async function databaseId(url: string): Promise<string> {
  const [row] = await rowsOf<{ id: string }>(
    url,
    'select database_id::text as id from summing_counters_migrations limit 1',
  );
  return row?.id ?? '';
}
