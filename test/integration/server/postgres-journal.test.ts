import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, problemCode, send } from '../../support/http.js';
import {
  assertCounter,
  committedSum,
  openStreams,
  rowsOf,
  type Environment,
  type Role,
} from '../../support/journal-servers.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';
import { own } from '../../support/own.js';

function start(url: string, ROLE: Role, env: Environment = {}): Promise<TestServer> {
  const settings = { DATABASE_URL: url, JOURNAL: 'postgres', ROLE, FLUSH_INTERVAL_MS: '100', ...env };
  return startServer({ env: settings });
}

describe('the journal in PostgreSQL', () => {
  let database: TestDatabase;
  before(async () => {
    database = await createTestDatabase();
  });
  after(() => database.drop());

  test('an acknowledged increment is a row of increment_log_entries, and is read at once', async (t) => {
    const server = own(t, await start(database.url, 'serve', { FLUSH_INTERVAL_MS: '60000' }));
    assertCreated(await increment(server.url, '{"seen":1,"also":-2,"seen":3}'));
    assertCreated(await increment(server.url, { seen: 10 }, { headers: { 'idempotency-key': 'once' } }));
    const entries = await rowsOf(
      database.url,
      'select key, amount::int, idempotency_key from increment_log_entries order by stream, lsn, position',
    );
    assert.deepEqual(entries, [
      { key: 'seen', amount: 1, idempotency_key: null },
      { key: 'also', amount: -2, idempotency_key: null },
      { key: 'seen', amount: 3, idempotency_key: null },
      { key: 'seen', amount: 10, idempotency_key: 'once' },
    ]);
    await assertCounter(server, 'seen', { sum: 14, committed: 0, pending: 14 });
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    assert.equal(await committedSum(database.url, 'seen'), 14);
    assert.deepEqual(await openStreams(database.url), [], 'a clean stop leaves no open stream');
    assert.equal((await rowsOf(database.url, 'select 1 from journal_heartbeats')).length, 0);
  });

  test('streams are spread evenly over roll-ups, and a new one gets its share', async (t) => {
    const ingest = own(t, await start(database.url, 'ingest', { SHARDS: '2' }));
    const first = own(t, await start(database.url, 'roll-up'));
    assertCreated(await increment(ingest.url, Object.fromEntries(Array.from({ length: 20 }, (_, key) => [key, 1]))));
    const second = own(t, await start(database.url, 'roll-up'));
    const owners =
      'select owner, count(*)::int as streams from journal_checkpoints where retired_at is null group by owner';
    await eventually('one stream each', async () => {
      const rows = await rowsOf<{ owner: string | null; streams: number }>(database.url, owners);
      return rows.length === 2 && rows.every(({ owner, streams }) => owner !== null && streams === 1);
    });
    assertCreated(await increment(ingest.url, { spread: 1 }));
    await flushAll(ingest.url);
    assert.equal(await committedSum(database.url, 'spread'), 1);
    for (const server of [second, ingest, first]) assert.deepEqual(await server.stop(), { code: 0, signal: null });
  });
});

describe('an outage of the journal', () => {
  let postgres: OutagePostgres;
  let server: TestServer;
  before(async () => {
    postgres = await OutagePostgres.prepare();
    await postgres.start();
    server = await start(postgres.url, 'serve');
  });
  after(async () => {
    await server.dispose();
    await postgres.dispose();
  });

  test('increments are 503 journal-unavailable, so is /readyz, and both heal by themselves', async () => {
    assertCreated(await increment(server.url, { outage: 1 }));
    await postgres.stop('fast');
    await eventually('refusing', async () => (await send(server.url, '/readyz')).status === 503);
    for (const headers of [{}, { 'idempotency-key': 'in-outage' }]) {
      const refused = await increment(server.url, { outage: 100 }, { headers });
      assert.equal(refused.status, 503, refused.body);
      assert.equal(problemCode(refused), 'journal-unavailable');
      assert.ok(refused.headers['retry-after'] !== undefined);
    }
    await postgres.start();
    await eventually('ready', async () => (await send(server.url, '/readyz')).status === 200);
    const retried = await increment(server.url, { outage: 10 }, { headers: { 'idempotency-key': 'in-outage' } });
    assertCreated(retried);
    await eventually('exact', async () => (await committedSum(postgres.url, 'outage')) === 11);
  });

  test('a start without the database refuses, and begins to count when it answers', async (t) => {
    await postgres.stop('fast');
    const early = own(t, await start(postgres.url, 'serve'));
    const refused = await increment(early.url, { early: 1 });
    assert.equal(problemCode(refused), 'journal-unavailable');
    const idempotent = await increment(early.url, { early: 1 }, { headers: { 'idempotency-key': 'early' } });
    assert.equal(problemCode(idempotent), 'starting');
    await postgres.start();
    await eventually('taken', async () => (await increment(early.url, { early: 1 })).status === 202);
    assert.deepEqual(await early.stop(), { code: 0, signal: null });
    assert.equal(await committedSum(postgres.url, 'early'), 1);
  });
});
