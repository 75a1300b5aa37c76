/**
 * Somebody removes or moves the files of the journal under a running server: writes to them still succeed, so the server
 * must look.
 */
import assert from 'node:assert/strict';
import { renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { flushAll, increment, problemCode, send } from '../support/http.js';
import { NEVER_MS, testNode } from '../support/node-test.js';
import { assertCreated } from '../support/problem.js';
import { startServer } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

async function untilReadiness(url: string, status: number): Promise<void> {
  await eventually(`/readyz says ${status}`, async () => {
    const answer = await send(url, '/readyz');
    if (status === 503 && answer.status === 503) assert.equal(problemCode(answer), 'journal-unavailable');
    return answer.status === status;
  });
}

testNode(
  'while the files of the journal are gone increments are 503, and what was acknowledged is flushed from memory',
  { FLUSH_INTERVAL_MS: NEVER_MS },
  async ({ node, directory }) => {
    const server = await node.start();
    const load = node.load();
    await load.acknowledgements(200);
    const journal = path.join(node.dataDir, 'journal');
    renameSync(journal, path.join(directory, 'journal'));
    await untilReadiness(node.url, 503);
    await load.refusals(20);
    await server.waitFor('was removed or replaced while this server wrote to it');
    renameSync(path.join(directory, 'journal'), journal);
    await untilReadiness(node.url, 200);
    await load.acknowledgements(200);
    rmSync(journal, { recursive: true });
    await untilReadiness(node.url, 503);
    await load.stop();
    // Commits everything, and exits with 0.
    assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
    assert.match(server.output, /"Stopping while refusing increments/);
    assert.match(String(server.log.at(-1)?.['msg']), /^Everything that was acknowledged is committed/);
    const next = await node.start();
    await node.load().acknowledgements(50);
    await node.finish(next);
  },
);

test('a stop says what is lost where the files of the journal are gone and PostgreSQL does not answer', async () => {
  const database = await createTestDatabase();
  const proxy = await TcpProxy.start(database.url);
  const env = { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS, DATABASE_URL: proxy.urlOf(database.url) };
  const server = await startServer({ env });
  try {
    assertCreated(await increment(server.url, { flushed: 1 }));
    await flushAll(server.url);
    assertCreated(await increment(server.url, { a: 2, b: 3 }));
    await proxy.refuse();
    rmSync(path.join(server.dataDir, 'journal'), { recursive: true });
    assert.deepEqual(await server.stop(), { code: 1, signal: null }, server.output);
    const lines = server.log.map(({ msg }) => String(msg));
    assert.ok(
      lines.some((line) => line.startsWith('2 acknowledged increments are lost')),
      server.output,
    );
    assert.ok(!lines.some((line) => line.includes('stay in the journal')), server.output);
    assert.deepEqual(await committedSums(database.url), new Map([['flushed', 1n]]));
  } finally {
    await server.dispose();
    await proxy.close();
    await database.drop();
  }
});
