import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createTestDatabase } from '../../support/database.js';
import { increment, send } from '../../support/http.js';
import { PgBouncer, pgbouncerMissing, type PoolMode } from '../../support/pgbouncer.js';
import { assertCreated } from '../../support/problem.js';
import { spawnServer, startServer } from '../../support/server.js';
import { assertCleanStop, committedSums } from '../../support/suite-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

const SENTENCE = /^summing-counters: DATABASE_URL leads to a connection pooler .*set pool_mode = session .*\.$/gm;

async function behind(mode: PoolMode, use: (url: string, databaseUrl: string) => Promise<void>): Promise<void> {
  const database = await createTestDatabase();
  const pgbouncer = await PgBouncer.start(database.url, mode);
  try {
    await use(pgbouncer.url, database.url);
  } finally {
    await pgbouncer.dispose();
    await database.drop();
  }
}

describe('behind PgBouncer', { skip: pgbouncerMissing() }, () => {
  for (const mode of ['transaction', 'statement'] as const) {
    test(`pool_mode = ${mode} ends the start with 78 and one sentence that says what to change`, () =>
      behind(mode, async (url) => {
        const server = await spawnServer({ env: { DATABASE_URL: url, SHARDS: '2' } });
        try {
          assert.deepEqual(await server.ended, { code: 78, signal: null }, server.output);
          assert.equal(server.output.match(SENTENCE)?.length, 1, server.output);
        } finally {
          await server.dispose();
        }
      }));
  }

  test('pool_mode = transaction that is met after the start ends the process with 78 and that sentence, and the journal keeps increments', () =>
    behind('transaction', async (url, databaseUrl) => {
      const proxy = await TcpProxy.start(url);
      await proxy.refuse();
      const server = await startServer({ env: { DATABASE_URL: proxy.urlOf(url), SHARDS: '2' } });
      try {
        assertCreated(await increment(server.url, { early: 1 }));
        await proxy.accept();
        assert.deepEqual(await server.ended, { code: 78, signal: null }, server.output);
        assert.equal(server.output.match(SENTENCE)?.length, 1, server.output);
        const next = await startServer({ dataDir: server.dataDir, env: { DATABASE_URL: databaseUrl, SHARDS: '2' } });
        await assertCleanStop(next);
        assert.deepEqual(await committedSums(databaseUrl), new Map([['early', 1n]]));
      } finally {
        await server.dispose();
        await proxy.close();
      }
    }));

  test('pool_mode = session starts, counts and stops as without PgBouncer', () =>
    behind('session', async (url, databaseUrl) => {
      for (let start = 1; start <= 2; start += 1) {
        const server = await startServer({ env: { DATABASE_URL: url, SHARDS: '2', FLUSH_INTERVAL_MS: '50' } });
        try {
          assertCreated(await increment(server.url, { pooled: 1 }));
          assert.equal((await send(server.url, '/readyz')).body, '{"status":"ok"}');
          await assertCleanStop(server);
          assert.equal((await committedSums(databaseUrl)).get('pooled'), BigInt(start));
        } finally {
          await server.dispose();
        }
      }
    }));
});
