/**
 * The client against the real server.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterClient, CounterClientError } from 'summing-counters/client';
import { createTestDatabase } from '../../support/database.js';
import { increment } from '../../support/http.js';
import { startServer, type TestServer } from '../../support/server.js';

async function withServer(env: Record<string, string>, body: (server: TestServer) => Promise<void>): Promise<void> {
  const database = await createTestDatabase();
  const server = await startServer({ env: { DATABASE_URL: database.url, ...env } });
  try {
    await body(server);
    assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
  } finally {
    await server.dispose();
    await database.drop();
  }
}

test('a server without idempotency keys is refused to be counted on: not-implemented, nothing lost in silence', () =>
  withServer({}, async ({ url }) => {
    const client = new CounterClient({ url });
    client.incrementMany({ a: 1, b: 2 });
    await assert.rejects(client.flush(), (error) => {
      assert.ok(error instanceof CounterClientError);
      assert.deepEqual(
        [error.code, error.status, error.retryable, error.counted],
        ['not-implemented', 501, false, 'no'],
      );
      const told = error.refused.map(({ increments }) => increments);
      assert.deepEqual(told, [[['a', 1], ['b', 2]]]); // prettier-ignore
      return true;
    });
    await client.close();
    assert.equal(await client.get('a'), undefined);
  }));

test('the client reads what the server counted, exactly, whatever the key', () =>
  withServer({}, async ({ url }) => {
    const client = new CounterClient({ url: `${url}/` });
    const largest = Number.MAX_SAFE_INTEGER;
    for (const key of ['a', '.', '..', 'a/b?c=d&e+f%20g', '"sum":1', '__proto__', '😀', '\\', '\u2028']) {
      assert.equal(await client.get(key), undefined);
      const member = JSON.stringify(key);
      assert.equal((await increment(url, `{${member}:${largest},${member}:${largest}}`)).status, 202);
      assert.equal(await client.get(key), 2n * BigInt(largest));
    }
  }));

test('a key that only the server finds too long is refused by it, as the client says', () =>
  withServer({ MAX_KEY_BYTES: '8' }, async ({ url }) => {
    const client = new CounterClient({ url });
    await assert.rejects(client.get('nine bytes'), {
      name: 'CounterClientError',
      code: 'invalid-request',
      status: 400,
    });
  }));
