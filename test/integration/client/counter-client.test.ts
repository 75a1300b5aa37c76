/**
 * The client against the real server.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CounterClient, CounterClientError } from 'summing-counters/client';
import { increment } from '../../support/http.js';
import { SuiteServer } from '../../support/suite-server.js';

describe('the client and a server', () => {
  const node = new SuiteServer();

  test('the flushes of two clients are each counted once, even if every first answer is lost', async () => {
    const losses = new Set<unknown>();
    const losing: typeof fetch = async (input, init) => {
      const answer = await fetch(input, init);
      const token = new Headers(init?.headers).get('idempotency-key');
      if (token === null || losses.has(token)) return answer;
      losses.add(token);
      await answer.text();
      throw new TypeError('the answer was lost');
    };
    const largest = Number.MAX_SAFE_INTEGER;
    const clients = [losing, fetch].map(
      (each) => new CounterClient({ url: node.url, fetch: each, batchKeysMax: 3, retryBaseMs: 1 }),
    );
    for (const client of clients) {
      for (let key = 0; key < 10; key += 1) client.increment(`of both ${key}`, key);
      client.incrementMany([
        ['large', largest],
        ['large', largest],
        ['__proto__', -1],
        ['zero', 0],
      ]);
    }
    await Promise.all(clients.map((client) => client.close()));
    assert.ok(losses.size >= 4);
    const reader = new CounterClient({ url: node.url });
    for (let key = 0; key < 10; key += 1) assert.equal(await reader.get(`of both ${key}`), 2n * BigInt(key));
    assert.equal(await reader.get('large'), 4n * BigInt(largest));
    assert.equal(await reader.get('__proto__'), -2n);
    assert.equal(await reader.delete('__proto__'), -2n);
    assert.equal(await reader.get('zero'), 0n);
  });

  test('getMany reads any number of counters exactly, and delete returns the last sum', async () => {
    const client = new CounterClient({ url: node.url });
    const largest = Number.MAX_SAFE_INTEGER;
    const odd = ['"sum":7', 'a,"sum":8}', '\\"sum":9', '.', '..', 'é/?&=+%'];
    for (const key of odd) client.increment(key, 3);
    for (let key = 0; key < 250; key += 1)
      client.incrementMany([
        [`key ${key}`, largest],
        [`key ${key}`, key],
      ]);
    await client.flush();
    const keys = [...Array.from({ length: 250 }, (_, key) => `key ${key}`), ...odd, 'never'];
    const sums = await client.getMany(keys);
    assert.deepEqual([...sums.keys()], keys);
    for (let key = 0; key < 250; key += 1) assert.equal(sums.get(`key ${key}`), BigInt(largest) + BigInt(key));
    for (const key of odd) assert.equal(sums.get(key), 3n);
    assert.equal(sums.get('never'), undefined);
    assert.deepEqual(await client.getMany(['key 1']), new Map([['key 1', BigInt(largest) + 1n]]));
    assert.deepEqual(await client.getMany([]), new Map());
    for (const key of [...odd, 'key 7']) {
      assert.equal(await client.delete(key), sums.get(key));
      assert.equal(await client.delete(key), undefined);
      assert.equal(await client.get(key), undefined);
    }
    await client.close();
  });

  test('a delete whose first answer is lost is repeated under the same idempotency key, with the same sum', async () => {
    let losses = 0;
    const losing: typeof fetch = async (input, init) => {
      const answer = await fetch(input, init);
      if (init?.method !== 'DELETE' || losses === 2) return answer;
      losses += 1;
      await answer.text();
      throw new TypeError('the answer was lost');
    };
    const client = new CounterClient({ url: node.url, fetch: losing, retryBaseMs: 1 });
    client.increment('a', 41);
    await client.flush();
    assert.equal(await client.delete('a'), 41n);
    assert.deepEqual([losses, client.stats().retries], [2, 2]);
    await client.close();
  });

  test('a delete that is given up after a lost answer says that the counter may be deleted', async () => {
    let attempts = 0;
    const losing: typeof fetch = async (input, init) => {
      attempts += 1;
      if (attempts > 1) {
        // Not to be repeated, so that no time limit decides which attempt is the last.
        const problem = { code: 'draining', detail: 'draining', counted: 'no', retryable: false, status: 503 };
        const headers = { 'content-type': 'application/problem+json' };
        return new Response(JSON.stringify(problem), { status: 503, headers });
      }
      const answer = await fetch(input, init);
      await answer.text();
      throw new TypeError('the answer was lost');
    };
    const writer = new CounterClient({ url: node.url });
    writer.increment('given up', 1);
    await writer.close();
    const client = new CounterClient({ url: node.url, fetch: losing, retryBaseMs: 1 });
    await assert.rejects(client.delete('given up'), { code: 'draining', counted: 'unknown' });
    assert.equal(attempts, 2);
    assert.equal(await writer.get('given up'), undefined);
  });

  test('the client reads exact sums of any key', async () => {
    const client = new CounterClient({ url: `${node.url}/` });
    const largest = Number.MAX_SAFE_INTEGER;
    for (const key of ['a', '.', '..', 'a/b?c=d&e+f%20g', '"sum":1', '__proto__', '😀', '\\', '\u2028']) {
      assert.equal(await client.get(key), undefined);
      const member = JSON.stringify(key);
      assert.equal((await increment(node.url, `{${member}:${largest},${member}:${largest}}`)).status, 202);
      assert.equal(await client.get(key), 2n * BigInt(largest));
    }
  });
});

describe('the client and a server whose limits it does not know', () => {
  const node = new SuiteServer({ MAX_KEY_BYTES: '8', MAX_BODY_BYTES: '200' });

  test('a client with a key that only the server considers too long loses no other key', async () => {
    const client = new CounterClient({ url: node.url });
    client.incrementMany({ a: 1, 'nine bytes': 2, b: 3 });
    await assert.rejects(client.flush(), (error) => {
      assert.ok(error instanceof CounterClientError);
      assert.deepEqual([error.code, error.counted], ['invalid-request', 'no']);
      assert.deepEqual(
        error.refused.flatMap(({ increments }) => increments),
        [['nine bytes', 2]],
      );
      return true;
    });
    assert.deepEqual([await client.get('a'), await client.get('b')], [1n, 3n]);
  });

  test('the client reports a key that only the server considers too long as refused by the server', async () => {
    const client = new CounterClient({ url: node.url });
    await assert.rejects(client.get('nine bytes'), {
      name: 'CounterClientError',
      code: 'invalid-request',
      status: 400,
    });
  });

  test('batches that are too large for the server arrive in parts', async () => {
    const client = new CounterClient({ url: node.url });
    for (let key = 0; key < 100; key += 1) client.increment(`key ${key}`, 7);
    await client.flush();
    for (let key = 0; key < 100; key += 1) assert.equal(await client.get(`key ${key}`), 7n);
  });
});
