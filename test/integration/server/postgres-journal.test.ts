import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, problemCode, send } from '../../support/http.js';
import {
  assertCounter,
  committedSum,
  openStreams,
  rowsOf,
  type Environment,
  type Role,
} from '../../support/journal-servers.js';
import { scrape } from '../../support/metrics.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { assertCreated } from '../../support/problem.js';
import { startServer, type TestServer } from '../../support/server.js';

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

  test('an acknowledged increment is a row of increment_log_entries, and is read at once', async () => {
    const server = await start(database.url, 'serve', { FLUSH_INTERVAL_MS: '60000' });
    try {
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
    } finally {
      assert.deepEqual(await server.stop(), { code: 0, signal: null });
      await server.dispose();
    }
    assert.equal(await committedSum(database.url, 'seen'), 14);
    assert.deepEqual(await openStreams(database.url), [], 'a clean stop leaves no open stream');
    assert.equal((await rowsOf(database.url, 'select 1 from journal_heartbeats')).length, 0);
  });

  test('after kill -9 the next start finishes what was pending, and its reads are exact as soon as they are answered', async () => {
    const killed = await start(database.url, 'serve', { FLUSH_INTERVAL_MS: '60000' });
    assertCreated(await increment(killed.url, { killed: 6 }));
    killed.kill('SIGKILL');
    await killed.ended;
    const env = { DATABASE_URL: database.url, JOURNAL: 'postgres', FLUSH_INTERVAL_MS: '60000' };
    const next = await startServer({ env, dataDir: killed.dataDir });
    try {
      assertCreated(await increment(next.url, { killed: 1 }));
      const answer = await eventually(
        'an answer',
        async () => {
          const read = await send(next.url, '/key_sum?name=killed');
          return read.status === 503 ? undefined : read;
        },
        5000,
      );
      assert.equal(answer.body, '7');
    } finally {
      assert.deepEqual(await next.stop(), { code: 0, signal: null });
      await next.dispose();
    }
    assert.equal(await committedSum(database.url, 'killed'), 7);
  });

  test('a request that is repeated at another server, with another role, counts once', async () => {
    const servers = [await start(database.url, 'serve'), await start(database.url, 'ingest')];
    try {
      for (const { url } of [...servers, ...servers]) {
        const answer = await increment(url, { repeated: 5 }, { headers: { 'idempotency-key': 'at-both' } });
        assertCreated(answer);
      }
      for (const { url } of servers) assert.equal((await send(url, '/flush', { method: 'POST' })).status, 200);
      assert.equal(await committedSum(database.url, 'repeated'), 5);
    } finally {
      for (const server of servers) await server.dispose();
    }
  });
});

describe('roles', () => {
  let database: TestDatabase;
  let ingest: TestServer;
  let rollUp: TestServer;
  before(async () => {
    database = await createTestDatabase();
    ingest = await start(database.url, 'ingest', { SHARDS: '2' });
    rollUp = await start(database.url, 'roll-up');
  });
  after(async () => {
    await ingest.dispose();
    await rollUp.dispose();
    await database.drop();
  });

  test('a roll-up takes no increments, and is ready', async () => {
    const answer = await increment(rollUp.url, { refused: 1 });
    assert.equal(answer.status, 405);
    assert.equal(problemCode(answer), 'method-not-allowed');
    assert.equal(answer.headers.allow, '');
    const ready = await send(rollUp.url, '/readyz');
    assert.deepEqual([ready.status, JSON.parse(ready.body)], [200, { status: 'ok' }]);
  });

  test('what an ingest server takes a roll-up flushes; its reads are committed values', async () => {
    for (let index = 0; index < 20; index += 1) assertCreated(await increment(ingest.url, { [`key-${index % 4}`]: 2 }));
    assert.equal((await send(ingest.url, '/flush', { method: 'POST' })).status, 200);
    for (let key = 0; key < 4; key += 1) {
      await assertCounter(ingest, `key-${key}`, { sum: 10, committed: 10, pending: null });
    }
  });

  test('a delete on an ingest server returns everything that it acknowledged before', async () => {
    for (let index = 0; index < 7; index += 1) assertCreated(await increment(ingest.url, { closing: 3 }));
    const answer = await send(ingest.url, '/counters/closing', { method: 'DELETE' });
    assert.deepEqual(JSON.parse(answer.body), { key: 'closing', sum: 21 });
  });

  test('what one hands over the other adopts, and both add up', async () => {
    const [handedOver, adopted] = await Promise.all(
      [ingest, rollUp].map(async (server, index) => {
        const page = await scrape(server.url);
        const total = (name: string): number => page.total(`increments_${name}`);
        assert.equal(total('pending'), 0);
        if (index === 0) assert.equal(total('accepted_total'), total('handed_over_total'));
        else assert.equal(total('adopted_total'), total('flushed_total'));
        return total(index === 0 ? 'handed_over_total' : 'adopted_total');
      }),
    );
    assert.equal(handedOver, 27);
    assert.equal(adopted, 27);
  });

  test('an ingest server that stops leaves nothing to wait for: its streams are finished at once', async () => {
    const other = await start(database.url, 'ingest');
    assertCreated(await increment(other.url, { left: 4 }));
    assert.deepEqual(await other.stop(), { code: 0, signal: null });
    await other.dispose();
    await eventually('finished', async () => (await committedSum(database.url, 'left')) === 4, 5000);
    const text = `select 1 from journal_checkpoints c where retired_at is null
                  and not exists (select from journal_heartbeats where id = c.stream)`;
    await eventually('retired', async () => (await rowsOf(database.url, text)).length === 0, 5000);
  });

  test('streams are spread evenly over roll-ups, and a new one gets its share', async () => {
    const second = await start(database.url, 'roll-up');
    try {
      const text =
        'select owner, count(*)::int as streams from journal_checkpoints where retired_at is null group by owner';
      await eventually(
        'one stream each',
        async () => {
          const owners = await rowsOf<{ owner: string | null; streams: number }>(database.url, text);
          return owners.length === 2 && owners.every(({ owner, streams }) => owner !== null && streams === 1);
        },
        15_000,
      );
      assertCreated(await increment(ingest.url, { spread: 1 }));
      assert.equal((await send(ingest.url, '/flush', { method: 'POST' })).status, 200);
      assert.equal(await committedSum(database.url, 'spread'), 1);
    } finally {
      assert.deepEqual(await second.stop(), { code: 0, signal: null });
      await second.dispose();
    }
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
    await eventually('ready', async () => (await send(server.url, '/readyz')).status === 200, 10_000);
    const retried = await increment(server.url, { outage: 10 }, { headers: { 'idempotency-key': 'in-outage' } });
    assertCreated(retried);
    await eventually('exact', async () => (await committedSum(postgres.url, 'outage')) === 11, 10_000);
  });

  test('a start without the database refuses, and begins to count when it answers', async () => {
    await postgres.stop('fast');
    const early = await start(postgres.url, 'serve');
    try {
      const refused = await increment(early.url, { early: 1 });
      assert.equal(problemCode(refused), 'journal-unavailable');
      const idempotent = await increment(early.url, { early: 1 }, { headers: { 'idempotency-key': 'early' } });
      assert.equal(problemCode(idempotent), 'starting');
      await postgres.start();
      await eventually('taken', async () => (await increment(early.url, { early: 1 })).status === 202, 15_000);
    } finally {
      assert.deepEqual(await early.stop(), { code: 0, signal: null });
      await early.dispose();
    }
    assert.equal(await committedSum(postgres.url, 'early'), 1);
  });
});
