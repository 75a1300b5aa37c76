import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { FlushHold } from '../../support/flush-hold.js';
import { increment } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { SuiteServer } from '../../support/suite-server.js';

describe('the lines of the log that come from counts', () => {
  const held = new FlushHold();
  after(() => held.release());
  const node = new SuiteServer({ LOG_SUMMARY_SECONDS: '2', MAX_PENDING_KEYS: '50', HTTP_THREADS: '2' });

  test('the first flush has a line, and each LOG_SUMMARY_SECONDS have a summary', async () => {
    for (let request = 0; request < 3; request += 1) assertCreated(await increment(node.url, { a: 1, b: 1 }));
    await node.server.waitFor('"msg":"First flush: ');
    await node.server.waitFor('"msg":"In 2 s 0 increments in 0 requests');
    const summaries = node.server.log.filter(({ msg }) => String(msg).startsWith('In 2 s '));
    const total = (field: string): number => summaries.reduce((sum, line) => sum + Number(line[field]), 0);
    assert.equal(total('increments'), 6);
    assert.equal(total('requests'), 3);
    assert.equal(total('refusals'), 0);
  });

  test('refusals at a bound give two lines of the log, whatever their number', async () => {
    await held.hold(node.databaseUrl);
    const body = Object.fromEntries(Array.from({ length: 51 }, (_, index) => [`bound-${index}`, 1]));
    for (let request = 0; request < 100; request += 1) assertProblem(await increment(node.url, body), 'overloaded');
    await node.server.waitFor('"msg":"Refusing increments: MAX_PENDING_KEYS (50) is reached"');
    await held.release();
    await node.server.waitFor('"msg":"No longer refusing increments: MAX_PENDING_KEYS (50) is reached');
    const lines = node.server.log.filter(({ bound }) => bound === 'pending-keys');
    assert.equal(lines.length, 2, JSON.stringify(lines));
    assert.equal(lines.at(-1)?.['total'], 100);
  });
});
