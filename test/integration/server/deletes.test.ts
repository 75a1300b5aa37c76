import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { describe, test } from 'node:test';
import { counterOf, sumOf } from '../../support/counters.js';
import { type Answer, flushAll, increment, send } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { startServer } from '../../support/server.js';
import { assertCleanStop, SuiteServer } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

const NEVER_MS = '3600000';
const DELETED = /^\{"key":"[^"]*","sum":(0|-?[1-9][0-9]*)\}$/;

function deleteCounter(base: string, path: string, agent?: Agent): Promise<Answer> {
  return send(base, path, { method: 'DELETE', ...(agent === undefined ? {} : { agent }) });
}

/** The sum that a delete answers; undefined if there was no counter. */
function closingValue(answer: Answer): bigint | undefined {
  if (answer.status === 404) {
    assertProblem(answer, 'unknown-counter');
    return undefined;
  }
  assert.equal(answer.status, 200, answer.body);
  const sum = DELETED.exec(answer.body)?.[1];
  assert.ok(sum !== undefined, answer.body);
  return BigInt(sum);
}

async function flush(base: string): Promise<void> {
  await flushAll(base);
}

describe('DELETE /counters/KEY', () => {
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: NEVER_MS });

  test('a delete answers the sum of committed and pending increments, and the counter is gone in reads and in the table', async () => {
    assertCreated(await increment(node.url, { gone: 40, stays: 1 }));
    await flush(node.url);
    assertCreated(await increment(node.url, { gone: 2 }));
    const answer = await deleteCounter(node.url, '/counters/gone');
    assert.deepEqual([answer.status, answer.headers['content-type']], [200, 'application/json']);
    assert.equal(answer.body, '{"key":"gone","sum":42}');
    assert.equal(await sumOf(node.url, 'gone'), undefined);
    const table = await node.table();
    assert.deepEqual([table.has('gone'), table.get('stays')], [false, 1n]);
  });

  test('counters that are only pending, zero, or beyond 2^53 are deleted with their exact sums', async () => {
    assertCreated(await increment(node.url, { pending: -3, zero: 0 }));
    const most = `{${Array.from({ length: 3 }, () => `"large":${Number.MAX_SAFE_INTEGER}`).join(',')}}`;
    assertCreated(await increment(node.url, most));
    assert.equal(closingValue(await deleteCounter(node.url, '/counters/pending')), -3n);
    assert.equal(closingValue(await deleteCounter(node.url, '/counters/zero')), 0n);
    assert.equal(closingValue(await deleteCounter(node.url, '/counters/large')), 3n * BigInt(Number.MAX_SAFE_INTEGER));
  });

  test('a counter that does not exist, or no longer exists, is 404', async () => {
    assertProblem(await deleteCounter(node.url, '/counters/never'), 'unknown-counter');
    assertCreated(await increment(node.url, { twice: 1 }));
    assert.equal(closingValue(await deleteCounter(node.url, '/counters/twice')), 1n);
    assertProblem(await deleteCounter(node.url, '/counters/twice'), 'unknown-counter');
  });

  test('any key works in the path and in the query, including `.` and `..`', async () => {
    for (const key of ['a b+c', 'a/b', 'ключ', '%']) {
      assertCreated(await increment(node.url, { [key]: 5 }));
      const answer = await deleteCounter(node.url, `/counters/${encodeURIComponent(key)}`);
      assert.equal(answer.body, `{"key":${JSON.stringify(key)},"sum":5}`);
    }
    for (const key of ['.', '..', 'a b+c', '/']) {
      assertCreated(await increment(node.url, { [key]: 6 }));
      const answer = await deleteCounter(node.url, `/counters?${new URLSearchParams({ key }).toString()}`);
      assert.equal(answer.body, `{"key":${JSON.stringify(key)},"sum":6}`);
    }
    assertProblem(await deleteCounter(node.url, '/counters'), 'invalid-request');
    assertProblem(await deleteCounter(node.url, '/counters/%ff'), 'invalid-request');
  });

  test('an increment after the answer starts a new sum', async () => {
    assertCreated(await increment(node.url, { again: 10 }));
    assert.equal(closingValue(await deleteCounter(node.url, '/counters/again')), 10n);
    assertCreated(await increment(node.url, { again: 4 }));
    await flush(node.url);
    assert.deepEqual((await counterOf(node.url, 'again'))?.committed, 4n);
  });

  test('under load each increment counts on exactly one side of each delete, on the right side of those that preceded or followed it', async () => {
    const agent = new Agent({ keepAlive: true });
    let acknowledged = 0n;
    let closed = 0n;
    let isLoading = true;
    const client = async (): Promise<void> => {
      for (let sent = 0; sent < 400; sent += 1) {
        assertCreated(await increment(node.url, { raced: 1 }, { agent }));
        acknowledged += 1n;
      }
    };
    const deleter = async (): Promise<void> => {
      for (let deletes = 0; isLoading || deletes < 5; deletes += 1) {
        const before = acknowledged;
        closed += closingValue(await deleteCounter(node.url, '/counters/raced', agent)) ?? 0n;
        // Increments acknowledged before the request are in this delete or in an earlier one.
        assert.ok(closed >= before, `${closed} closed, ${before} were acknowledged before`);
      }
    };
    const load = Promise.all(Array.from({ length: 6 }, client)).finally(() => (isLoading = false));
    await Promise.all([load, deleter()]);
    agent.destroy();
    assert.equal(closed + ((await sumOf(node.url, 'raced')) ?? 0n), acknowledged);
    assert.equal(acknowledged, 2400n);
  });

  test('pending increments of another node start the counter again', async (t) => {
    const env = { DATABASE_URL: node.databaseUrl, SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS };
    const other = own(t, await startServer({ env }));
    assertCreated(await increment(other.url, { shared: 7 }));
    assertCreated(await increment(node.url, { shared: 30 }));
    assert.equal(closingValue(await deleteCounter(node.url, '/counters/shared')), 30n);
    await flush(other.url);
    assert.equal(await sumOf(node.url, 'shared'), 7n);
    await assertCleanStop(other);
  });
});
