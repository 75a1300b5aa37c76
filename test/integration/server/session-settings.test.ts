import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connectTo, createTestDatabase } from '../../support/database.js';
import { flushAll, increment, send } from '../../support/http.js';
import { startServer } from '../../support/server.js';
import { own } from '../../support/own.js';

/** Settings of a role or database that change how values are written or read. */
const HOSTILE = {
  datestyle: 'German, DMY',
  intervalstyle: 'sql_standard',
  timezone: 'Asia/Kathmandu',
  extra_float_digits: '-15',
  bytea_output: 'escape',
  standard_conforming_strings: 'off',
  default_transaction_isolation: 'serializable',
  synchronous_commit: 'off',
};

test('sums, times, lists, retries and deletes are exact in a database with hostile settings', async (t) => {
  const database = own(t, await createTestDatabase());
  const name = new URL(database.url).pathname.slice(1);
  const connection = own(t, await connectTo(database.url));
  for (const [setting, value] of Object.entries(HOSTILE))
    await connection.query({ text: `alter database ${name} set ${setting} = '${value}'` });
  const server = own(t, await startServer({ env: { DATABASE_URL: database.url } }));
  const read = async (path: string): Promise<unknown> => JSON.parse((await send(server.url, path)).body);

  const before = Date.now();
  const headers = { 'idempotency-key': 'once' };
  const amount = Number.MAX_SAFE_INTEGER;
  for (const status of [202, 202])
    assert.equal((await increment(server.url, { 'a\\b': amount }, { headers })).status, status);
  assert.equal((await increment(server.url, { 'a\\b': amount, plain: -3 })).status, 202);
  await flushAll(server.url);

  const list = (await read('/counters')) as { counters: { key: string; sum: string | number; updated_at: string }[] };
  assert.deepEqual(
    list.counters.map(({ key, sum }) => [key, String(sum)]),
    [
      ['a\\b', String(2n * BigInt(amount))],
      ['plain', '-3'],
    ],
  );
  for (const { updated_at: time } of list.counters) assert.ok(Math.abs(Date.parse(time) - before) < 60_000, time);
  const retry = await increment(server.url, { 'a\\b': amount }, { headers });
  assert.deepEqual([retry.status, retry.headers['idempotency-replayed']], [202, 'true']);
  assert.equal((await increment(server.url, { other: 1 }, { headers })).status, 422);
  const deleted = await send(server.url, '/counters/plain', { method: 'DELETE' });
  assert.equal(deleted.status, 200, deleted.body);
  assert.deepEqual(await server.stop(), { code: 0, signal: null });
});
