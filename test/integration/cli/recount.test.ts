import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { connectTo, createTestDatabase, type TestDatabase } from '../../support/database.js';
import { increment, send } from '../../support/http.js';
import { runJournalCommand } from '../../support/journal-command.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { own } from '../../support/own.js';

let database: TestDatabase;
let server: TestServer;

before(async () => {
  database = await createTestDatabase();
  const env = { DATABASE_URL: database.url, JOURNAL: 'postgres', FLUSH_INTERVAL_MS: '100' };
  server = await startServer({ env });
});
after(async () => {
  await server.dispose();
  await database.drop();
});

async function execute(text: string): Promise<void> {
  const connection = await connectTo(database.url);
  try {
    await connection.query({ text });
  } finally {
    await connection.close();
  }
}

function recount(...args: string[]): Promise<{ readonly code: number | null; readonly output: string }> {
  return runJournalCommand(['recount', ...args], { DATABASE_URL: database.url });
}

async function count(body: unknown, idempotencyKey?: string): Promise<void> {
  const headers = idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey };
  assertCreated(await increment(server.url, body, { headers }));
}

const flush = async (): Promise<void> => {
  assert.equal((await send(server.url, '/flush', { method: 'POST' })).status, 200);
};

test('sums that the log adds up to: plain and idempotent requests, retries, deletes', async (t) => {
  await count({ 'page:a': 1, 'page:b': 2 });
  await count({ 'page:a': 10 }, 'one');
  await flush();
  await count({ 'page:b': 0 }, 'two');
  await count({ 'page:closed': 5 });
  assert.equal((await send(server.url, '/counters/page:closed', { method: 'DELETE' })).status, 200);
  await count({ 'page:closed': 7 });
  const other = own(
    t,
    await startServer({
      env: { DATABASE_URL: database.url, JOURNAL: 'postgres', FLUSH_INTERVAL_MS: '100' },
    }),
  );
  assertCreated(await increment(other.url, { 'page:a': 10 }, { headers: { 'idempotency-key': 'one' } }));
  assertCreated(await increment(other.url, { 'page:a': 99 }, { headers: { 'idempotency-key': 'two' } }));
  assert.equal((await other.stop()).code, 0);
  await flush();
  const { code, output } = await recount();
  assert.equal(output.trim(), 'Every sum is what the log adds up to.');
  assert.equal(code, 0);
});

test('drift is listed, key by key, and below a prefix only', async () => {
  await execute("update counters set sum = sum + 3 where key = 'page:b'");
  await execute("insert into counters (key, sum) values ('other', 1)");
  await execute("delete from counters where key = 'page:a'");
  const { code, output } = await recount();
  assert.equal(code, 1);
  assert.deepEqual(output.trim().split('\n'), [
    '{"key":"other","stored":1,"recomputed":0}',
    '{"key":"page:a","stored":null,"recomputed":11}',
    '{"key":"page:b","stored":5,"recomputed":2}',
    '3 sums differ.',
  ]);
  const below = await recount('--prefix', 'page:c');
  assert.equal(below.code, 0, below.output);
});

test('where the log is not complete, nothing is compared and what is missing is named', async () => {
  await execute('delete from increment_log where lsn = 1');
  const { code, output } = await recount();
  assert.equal(code, 2);
  assert.match(
    output,
    /^The sums cannot be recomputed:\n( {2}Stream \S+ counted LSN 1 to \d+; LSN 1 to 1 of it are no longer kept in increment_log\.\n)+$/,
  );
});

test('wrong arguments are refused', async () => {
  assert.equal((await recount('--stream', 'x')).code, 64);
  assert.equal((await runJournalCommand(['verify', '--prefix', 'x'], {})).code, 64);
  assert.equal((await runJournalCommand(['recount'], {})).code, 64);
});
