import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import { createTestDatabase } from '../../support/database.js';
import { increment, send } from '../../support/http.js';
import { PgBouncer, pgbouncerMissing, type PoolMode } from '../../support/pgbouncer.js';
import { assertCreated } from '../../support/problem.js';
import { startServer } from '../../support/server.js';
import { assertCleanStop, committedSums } from '../../support/suite-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { own, refusedStart } from '../../support/own.js';

const SENTENCE = /^summing-counters: DATABASE_URL leads to a connection pooler .*set pool_mode = session .*\.$/gm;

interface Pooled {
  /** Leads through PgBouncer. */
  readonly url: string;
  readonly databaseUrl: string;
}

async function behind(t: TestContext, mode: PoolMode): Promise<Pooled> {
  const database = own(t, await createTestDatabase());
  return { url: own(t, await PgBouncer.start(database.url, mode)).url, databaseUrl: database.url };
}

describe('behind PgBouncer', { skip: pgbouncerMissing() }, () => {
  for (const mode of ['transaction', 'statement'] as const) {
    test(`pool_mode = ${mode} ends the start with 78 and one sentence that says what to change`, async (t) => {
      const { url } = await behind(t, mode);
      const { output } = await refusedStart({ DATABASE_URL: url, SHARDS: '2' }, 78);
      assert.equal(output.match(SENTENCE)?.length, 1, output);
    });
  }

  test('pool_mode = transaction that is met after the start ends the process with 78 and that sentence, and the journal keeps increments', async (t) => {
    const { url, databaseUrl } = await behind(t, 'transaction');
    const proxy = own(t, await TcpProxy.start(url));
    await proxy.refuse();
    const server = own(t, await startServer({ env: { DATABASE_URL: proxy.urlOf(url), SHARDS: '2' } }));
    assertCreated(await increment(server.url, { early: 1 }));
    await proxy.accept();
    assert.deepEqual(await server.ended, { code: 78, signal: null }, server.output);
    assert.equal(server.output.match(SENTENCE)?.length, 1, server.output);
    const next = await startServer({ dataDir: server.dataDir, env: { DATABASE_URL: databaseUrl, SHARDS: '2' } });
    await assertCleanStop(next);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['early', 1n]]));
  });

  test('pool_mode = session starts, counts and stops as without PgBouncer', async (t) => {
    const { url, databaseUrl } = await behind(t, 'session');
    for (let start = 1; start <= 2; start += 1) {
      const env = { DATABASE_URL: url, SHARDS: '2', FLUSH_INTERVAL_MS: '50' };
      const server = own(t, await startServer({ env }));
      assertCreated(await increment(server.url, { pooled: 1 }));
      assert.equal((await send(server.url, '/readyz')).body, '{"status":"ok"}');
      await assertCleanStop(server);
      assert.equal((await committedSums(databaseUrl)).get('pooled'), BigInt(start));
    }
  });
});
