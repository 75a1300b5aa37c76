import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { Agent } from 'node:http';
import { after, describe, test } from 'node:test';
import { hashKey, shardOfHash } from '#product/core/key-hash.js';
import { counterOf, sumOf } from '../../support/counters.js';
import { eventually } from '../../support/eventually.js';
import { FlushHold } from '../../support/flush-hold.js';
import { increment, send, type Answer } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { RawConnection } from '../../support/raw-connection.js';
import { SuiteServer } from '../../support/suite-server.js';

const NEVER_MS = '3600000';

/** Holds flushes within a `describe`: the server is at its bounds only while it cannot flush. */
function holdFlushes(): FlushHold {
  const held = new FlushHold();
  after(() => held.release());
  return held;
}

let flushing: Promise<void> = Promise.resolve();

/** Flushes everything, and then holds the next flushes. One call at a time. */
function flush(node: SuiteServer, held: FlushHold): Promise<void> {
  flushing = flushing.then(async () => {
    await held.release();
    // On a slow machine the hold was long enough for the database to count as unavailable.
    await eventually('it is flushed', async () => (await send(node.url, '/flush', { method: 'POST' })).status === 200);
    await held.hold(node.databaseUrl);
  });
  return flushing;
}

/** Keys that belong to one of `shards` shards. */
function keysOfShard(shard: number, shards: number, count: number, prefix: string): string[] {
  const keys: string[] = [];
  for (let index = 0; keys.length < count; index += 1) {
    const key = `${prefix}-${index}`;
    const bytes = Buffer.from(key);
    if (shardOfHash(hashKey(bytes, 0, bytes.length), shards) === shard) keys.push(key);
  }
  return keys;
}

for (const shards of [1, 3]) {
  const keysMax = 30;

  describe(`MAX_PENDING_KEYS with ${shards} shards`, () => {
    const held = holdFlushes();
    const node = new SuiteServer({
      SHARDS: String(shards),
      MAX_PENDING_KEYS: String(keysMax),
      FLUSH_INTERVAL_MS: NEVER_MS,
    });

    const atKeysMax = `MAX_PENDING_KEYS (${keysMax}) is reached; retry after the next flush.`;

    async function fill(prefix: string): Promise<void> {
      await flush(node, held);
      for (let index = 0; index < keysMax; index += 1)
        assertCreated(await increment(node.url, { [`${prefix}-${index}`]: 1 }));
    }

    test('distinct keys are taken up to the limit, and the next one is 503 overloaded', async () => {
      await fill('edge');
      assert.equal(assertProblem(await increment(node.url, { 'edge-one-more': 1 }), 'overloaded'), atKeysMax);
      assert.equal(await sumOf(node.url, 'edge-one-more'), undefined);
      assert.equal((await send(node.url, '/healthz')).status, 200);
    });

    test('at the limit /readyz is 503 overloaded, and 200 again after a flush', async () => {
      await fill('ready');
      assert.equal(assertProblem(await send(node.url, '/readyz'), 'overloaded'), atKeysMax);
      await flush(node, held);
      assert.deepEqual([(await send(node.url, '/readyz')).body], ['{"status":"ok"}']);
    });

    test('each increment of an idempotent request counts as a key of its own, pending or not', async () => {
      await flush(node, held);
      const withIdempotencyKey = (idempotencyKey: string, increments: number): Promise<Answer> => {
        const body = Object.fromEntries(Array.from({ length: increments }, (_, index) => [`idempotent-${index}`, 1]));
        return increment(node.url, body, { headers: { 'idempotency-key': `${idempotencyKey}-of-${shards}` } });
      };
      const [first, second] = [keysMax / 2, keysMax / 2];
      assertCreated(await withIdempotencyKey('first', first));
      assert.equal(assertProblem(await withIdempotencyKey('too-many', second + 1), 'overloaded'), atKeysMax);
      assertCreated(await withIdempotencyKey('second', second));
      assertProblem(await withIdempotencyKey('third', 1), 'overloaded');
      await flush(node, held);
      assertCreated(await withIdempotencyKey('third', 1));
      assert.equal(await sumOf(node.url, 'idempotent-0'), 3n);
      assert.equal(await sumOf(node.url, `idempotent-${second}`), undefined);
    });

    test('at the limit a request whose keys are all pending in one shard is taken', async () => {
      await fill('held');
      for (let index = 0; index < keysMax; index += 1)
        assertCreated(await increment(node.url, { [`held-${index}`]: 10 }));
      for (let shard = 0; shard < shards; shard += 1) {
        const own = keysOfShard(shard, shards, keysMax, 'held').filter((key) => Number(key.slice(5)) < keysMax);
        assert.ok(own.length > 1);
        assertCreated(await increment(node.url, Object.fromEntries(own.map((key) => [key, 100]))));
        assertCreated(await increment(node.url, `{"${own[0]}":500,"${own[0]}":500}`));
        assertProblem(await increment(node.url, { [own[0] ?? '']: 7, [`${own[1]}-new`]: 7 }), 'overloaded');
        assert.equal(await sumOf(node.url, own[0] ?? ''), 1111n);
        assert.equal(await sumOf(node.url, own[1] ?? ''), 111n);
      }
    });

    test('after a flush the full limit is available again', async () => {
      await fill('before');
      assertProblem(await increment(node.url, { 'after-flush': 1 }), 'overloaded');
      await flush(node, held);
      assertCreated(await increment(node.url, { 'after-flush': 1 }));
      assert.deepEqual((await counterOf(node.url, 'before-0'))?.committed, 1n);
    });

    test('a request with more keys than the limit has left is refused as a whole', async () => {
      await flush(node, held);
      const keys = Array.from({ length: keysMax + 1 }, (_, index) => `whole-${index}`);
      const answer = await increment(node.url, Object.fromEntries(keys.map((key) => [key, 1])));
      assert.equal(assertProblem(answer, 'overloaded'), atKeysMax);
      for (const key of keys) assert.equal(await sumOf(node.url, key), undefined);
      assertCreated(await increment(node.url, Object.fromEntries(keys.slice(1).map((key) => [key, 1]))));
    });

    test('under load at the limit the table has exactly the acknowledged increments', async (context) => {
      await flush(node, held);
      const seed = Number(process.env['SEED'] ?? randomInt(2 ** 32));
      context.diagnostic(`SEED=${seed}`);
      const random = new Mulberry32(seed);
      const agent = new Agent({ keepAlive: true });
      const acknowledged = new Map<string, bigint>();
      let refused = 0;
      const client = async (): Promise<void> => {
        for (let sent = 0; sent < 150; sent += 1) {
          const keys = new Set(Array.from({ length: 1 + random.below(3) }, () => `load-${random.below(60)}`));
          const answer = await increment(node.url, Object.fromEntries([...keys].map((key) => [key, 1])), { agent });
          if (answer.status === 202) for (const key of keys) acknowledged.set(key, (acknowledged.get(key) ?? 0n) + 1n);
          else {
            assertProblem(answer, 'overloaded');
            refused += 1;
          }
          if (random.below(60) === 0) await flush(node, held);
        }
      };
      await Promise.all(Array.from({ length: 8 }, client));
      agent.destroy();
      await flush(node, held);
      const table = new Map([...(await node.table())].filter(([key]) => key.startsWith('load-')));
      assert.ok(refused > 0);
      assert.deepEqual(table, acknowledged);
    });
  });
}

describe('MAX_PENDING_BYTES', () => {
  const bodyBytesMax = 1024;
  const held = holdFlushes();
  const node = new SuiteServer({
    MAX_BODY_BYTES: String(bodyBytesMax),
    MAX_PENDING_BYTES: String(20 * bodyBytesMax),
    FLUSH_INTERVAL_MS: NEVER_MS,
  });

  test('keys are taken until their bytes reach the limit, then 503 overloaded until a flush', async () => {
    const key = (index: number): string => `${index}-${'k'.repeat(400)}`;
    await flush(node, held);
    let taken = 0;
    for (; taken < 100; taken += 1) {
      const answer = await increment(node.url, { [key(taken)]: 1 });
      if (answer.status === 202) continue;
      assertProblem(answer, 'overloaded');
      break;
    }
    // 20 KiB hold between thirty and fifty keys of 400 bytes.
    assert.ok(taken > 30 && taken < 50, `${taken} keys were taken`);
    assert.equal(await sumOf(node.url, key(taken)), undefined);
    const atBytesMax = 'MAX_PENDING_BYTES (20 KiB) is reached; retry after the next flush.';
    assert.equal(assertProblem(await increment(node.url, { [key(0)]: 1 }), 'overloaded'), atBytesMax);
    assert.equal(assertProblem(await send(node.url, '/readyz'), 'overloaded'), atBytesMax);
    const idempotent = await increment(node.url, { [key(0)]: 1 }, { headers: { 'idempotency-key': 'at-bytes-max' } });
    assert.equal(assertProblem(idempotent, 'overloaded'), atBytesMax);
    await flush(node, held);
    assertCreated(await increment(node.url, { [key(0)]: 1 }));
    assert.equal((await node.table()).size, taken);
    assert.equal(await sumOf(node.url, key(0)), 2n);
  });

  test('the largest body fits into an empty server, even with the shortest possible increments', async () => {
    await flush(node, held);
    // The shortest increments need the most memory for their bytes, and a repeated key may count once for each.
    const increments = Math.floor((bodyBytesMax - 1) / '"a":1,'.length);
    const body = `{${Array.from({ length: increments }, () => '"a":1').join(',')}}`.padEnd(bodyBytesMax, ' ');
    assert.equal(body.length, bodyBytesMax);
    assertCreated(await increment(node.url, body));
    assert.equal(await sumOf(node.url, 'a'), BigInt(increments));
  });
});

for (const keepSeconds of [0, 1]) {
  describe(`JOURNAL_MAX_BYTES with a keep time of ${keepSeconds} s`, () => {
    const held = holdFlushes();
    const node = new SuiteServer({
      SHARDS: '1',
      // Three digits, for the first test.
      MAX_BODY_BYTES: '900',
      JOURNAL_MAX_BYTES: '64KiB',
      JOURNAL_KEEP_SECONDS: String(keepSeconds),
      FLUSH_INTERVAL_MS: NEVER_MS,
    });

    test('a longer Content-Length is 413 before the body comes, whatever its number of digits', async () => {
      for (const length of [901, 999, 1000]) {
        const connection = await RawConnection.open(node.url);
        await connection.write(`POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${length}\r\n\r\n`);
        assert.equal((await connection.answer()).status, 413);
        connection.close();
      }
    });

    test('a journal full of committed records takes increments again, and /readyz recovers without a request', async () => {
      const body = { ['k'.repeat(300)]: 1 };
      for (let round = 0; round < 2; round += 1) {
        await held.hold(node.databaseUrl);
        await eventually('the limit is reached', async () => (await increment(node.url, body)).status === 503);
        await flush(node, held);
        await held.release();
        await eventually('it is ready again', async () => (await send(node.url, '/readyz')).status === 200);
        assertCreated(await increment(node.url, body));
      }
    });
  });
}
