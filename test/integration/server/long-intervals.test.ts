/** Things that a node does soon even with a very long FLUSH_INTERVAL_MS. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createTestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, send } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { startServer } from '../../support/server.js';
import { assertCleanStop, committedSums } from '../../support/suite-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { own } from '../../support/own.js';

const HOUR_MS = '3600000';
/** An idle shard reads its row every 15 s. */
const NOTICED_MS = 60_000;
/** Guarantee: the first flush after an outage starts within this time. */
const FIRST_FLUSH_MS = 5000;

test('with FLUSH_INTERVAL_MS of an hour, idle shards notice the end of an outage within seconds', async (t) => {
  const database = own(t, await createTestDatabase());
  const proxy = own(t, await TcpProxy.start(database.url));
  const server = own(
    t,
    await startServer({
      env: { DATABASE_URL: proxy.urlOf(database.url), SHARDS: '1', FLUSH_INTERVAL_MS: HOUR_MS },
    }),
  );
  await proxy.refuse();
  await server.waitFor('PostgreSQL unavailable; buffering increments in the journal', NOTICED_MS);
  assertCreated(await increment(server.url, { during: 1 }));
  assertProblem(await send(server.url, '/flush', { method: 'POST' }), 'database-unavailable');
  await proxy.accept();
  const sums = async (): Promise<ReadonlyMap<string, bigint>> => committedSums(database.url);
  await eventually('increments of the outage are committed', async () => (await sums()).size === 1, FIRST_FLUSH_MS);
  assertCreated(await increment(server.url, { after: 1 }));
  await eventually(
    'a flush is taken',
    async () => (await send(server.url, '/flush', { method: 'POST' })).status === 200,
    FIRST_FLUSH_MS,
  );
  assert.deepEqual(
    await sums(),
    new Map([
      ['during', 1n],
      ['after', 1n],
    ]),
  );
  await assertCleanStop(server);
});
