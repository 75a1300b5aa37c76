/**
 * Bounds start flushes: with an interval of an hour a server beside an idle database must not refuse increments for long.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { eventually } from '../../support/eventually.js';
import { increment, send } from '../../support/http.js';
import { assertProblem } from '../../support/problem.js';
import { SuiteServer } from '../../support/suite-server.js';

const NEVER = { FLUSH_INTERVAL_MS: '3600000', FLUSH_MAX_KEYS: '1000000' };
const KEYS_A_BODY = 20;

/** Sends a body until it is taken. The machine may be slow, but a refusal must not last. */
async function take(node: SuiteServer, body: Readonly<Record<string, number>>): Promise<void> {
  await eventually('the body is taken', async () => {
    const answer = await increment(node.url, body);
    if (answer.status === 202) return true;
    assertProblem(answer, 'overloaded');
    return false;
  });
}

function keys(prefix: string, count: number, padding = ''): Record<string, number> {
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`${prefix}-${index}${padding}`, 1]));
}

describe('MAX_PENDING_KEYS with an interval of an hour', () => {
  const node = new SuiteServer({ ...NEVER, MAX_PENDING_KEYS: '600' });

  test('ten times MAX_PENDING_KEYS new keys are taken one after the other without any request for a flush', async () => {
    for (let body = 0; body < 6000 / KEYS_A_BODY; body += 1) await take(node, keys(`key-${body}`, KEYS_A_BODY));
    assert.ok((await node.table()).size >= 6000 - 600);
  });

  test('a body that needs more keys than are left is refused once, and taken within seconds', async () => {
    await send(node.url, '/flush', { method: 'POST' });
    // Less than a third for each shard: no flush begins because of these.
    await take(node, keys('few', 80));
    assertProblem(await increment(node.url, keys('large', 590)), 'overloaded');
    await take(node, keys('large', 590));
  });

  test('idempotent requests, whose increments count as keys of their own, start flushes, too', async () => {
    for (let request = 0; request < 100; request += 1) {
      await eventually('the request is taken', async () => {
        const headers = { 'idempotency-key': `request-${request}` };
        return (await increment(node.url, keys('same', KEYS_A_BODY), { headers })).status === 202;
      });
    }
    assert.ok(((await node.table()).get('same-0') ?? 0n) >= 70n);
  });
});

describe('MAX_PENDING_BYTES with an interval of an hour', () => {
  const node = new SuiteServer({ ...NEVER, MAX_PENDING_BYTES: '400KiB', MAX_BODY_BYTES: '20KiB' });

  test('ten times MAX_PENDING_BYTES of long keys are taken one after the other', async () => {
    const padding = 'x'.repeat(400);
    for (let body = 0; body < 400; body += 1) await take(node, keys(`long-${body}`, KEYS_A_BODY, padding));
    assert.ok((await node.table()).size >= 7000);
  });
});

for (const keepSeconds of [0, 1]) {
  describe(`JOURNAL_MAX_BYTES with an interval of an hour, keep time ${keepSeconds} s`, () => {
    const node = new SuiteServer({
      ...NEVER,
      SHARDS: '1',
      MAX_BODY_BYTES: '8KiB',
      JOURNAL_MAX_BYTES: '256KiB',
      JOURNAL_KEEP_SECONDS: String(keepSeconds),
    });

    test('several times JOURNAL_MAX_BYTES of increments of the same keys are taken', async () => {
      const body = keys('same', KEYS_A_BODY, 'x'.repeat(300));
      const bodies = 4 * Math.ceil((256 * 1024) / (KEYS_A_BODY * 320));
      for (let sent = 0; sent < bodies; sent += 1) await take(node, body);
      const flushed = (await node.table()).get(`same-0${'x'.repeat(300)}`) ?? 0n;
      assert.ok(flushed >= BigInt(bodies) / 2n, `${flushed} of ${bodies}`);
    });
  });
}
