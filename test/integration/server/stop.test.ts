import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { Agent } from 'node:http';
import { describe, test } from 'node:test';
import { createTestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, send } from '../../support/http.js';
import { freePort } from '../../support/free-port.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { assertCreated, assertProblem, assertRawProblem } from '../../support/problem.js';
import { RawConnection } from '../../support/raw-connection.js';
import { spawnServer, startServer, TestServer, temporaryDirectory } from '../../support/server.js';
import { assertCleanStop, committedSums, serves } from '../../support/suite-server.js';
import { own, ownNode } from '../../support/own.js';

const ROOT = new URL('../../../../', import.meta.url).pathname;
const NEVER_MS = '3600000';
const CLEAN = { code: 0, signal: null };

/** Posts until the server refuses or ends; returns the acknowledged sum. */
async function postUntilRefused(server: TestServer): Promise<bigint> {
  const agent = new Agent({ keepAlive: true });
  let acknowledged = 0n;
  const client = async (): Promise<void> => {
    for (;;) {
      const answer = await increment(server.url, { stopped: 1 }, { agent }).catch(() => undefined);
      if (answer?.status !== 202) {
        if (answer !== undefined) assertProblem(answer, 'draining');
        return;
      }
      acknowledged += 1n;
    }
  };
  await Promise.all(Array.from({ length: 8 }, client));
  agent.destroy();
  return acknowledged;
}

describe('a stop', { concurrency: 2 }, () => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    for (const journal of ['file', 'memory']) {
      test(`${signal} under load, journal ${journal}: exit code 0, and the table has exactly the acknowledged increments`, async (t) => {
        const { server, databaseUrl } = await ownNode(t, { JOURNAL: journal, FLUSH_INTERVAL_MS: NEVER_MS });
        const load = postUntilRefused(server);
        await eventually(
          'increments are in flight',
          async () => (await send(server.url, '/key_sum?name=stopped')).status === 200,
        );
        server.kill(signal);
        const acknowledged = await load;
        assert.deepEqual(await server.ended, CLEAN, server.output);
        // A request without an answer may have been counted: at most one for each client.
        const sum = (await committedSums(databaseUrl)).get('stopped') ?? 0n;
        assert.ok(acknowledged > 0n && sum >= acknowledged && sum <= acknowledged + 8n, `${sum}, ${acknowledged}`);
      });
    }
  }

  test('an idle server ends with 0', async (t) => assertCleanStop((await ownNode(t)).server));

  test('a server with idle connections ends with 0', async (t) => {
    const { server } = await ownNode(t);
    const idle = await RawConnection.open(server.url);
    const unfinishedHead = await RawConnection.open(server.url);
    await unfinishedHead.write('POST /increment HTTP/1.1\r\nHost: localhost\r\n');
    await assertCleanStop(server);
    await Promise.all([idle.closed(), unfinishedHead.closed()]);
  });

  test('a stop does not wait for a client that never finishes its body', async (t) => {
    const { server, databaseUrl } = await ownNode(t);
    const begun = await RawConnection.open(server.url);
    await begun.write('POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"begun":1');
    const announced = await RawConnection.open(server.url);
    await announced.write('POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n');
    // The server's event loop comes to this after both heads, so it has read them.
    assertCreated(await increment(server.url, { whole: 1 }));
    const stoppedAt = performance.now();
    server.kill('SIGTERM');
    for (const connection of [begun, announced]) {
      const answer = await connection.answer();
      assertRawProblem(answer, 'draining');
    }
    assert.deepEqual(await server.ended, CLEAN, server.output);
    assert.ok(performance.now() - stoppedAt < 10_000);
    await Promise.all([begun.closed(), announced.closed()]);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['whole', 1n]]));
  });

  test('two signals within a second count as one', async (t) => {
    const { server } = await ownNode(t, { DRAIN_DELAY_MS: '300' });
    assertCreated(await increment(server.url, { twice: 1 }));
    server.kill('SIGINT');
    await server.waitFor('Stopping on SIGINT');
    server.kill('SIGTERM');
    assert.deepEqual(await server.ended, CLEAN, server.output);
  });

  test('a later second signal ends the process with 1, and the journal keeps pending increments for the next start', async (t) => {
    const { server, databaseUrl } = await ownNode(t, { DRAIN_DELAY_MS: '20000', FLUSH_INTERVAL_MS: NEVER_MS });
    assertCreated(await increment(server.url, { later: 4 }));
    server.kill('SIGTERM');
    await server.waitFor('Stopping on SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 1100));
    server.kill('SIGTERM');
    assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
    assert.match(server.output, /a second SIGTERM; 1 acknowledged increments stay in the journal/);
    assert.equal((await committedSums(databaseUrl)).size, 0);
    const next = await startServer({ env: { DATABASE_URL: databaseUrl, SHARDS: '2' }, dataDir: server.dataDir });
    await serves(next);
    assert.equal((await send(next.url, '/key_sum?name=later')).body, '4');
    await assertCleanStop(next);
  });

  test('with DRAIN_DELAY_MS increments and reads are served while /readyz is 503, and then answered 503 draining', async (t) => {
    const { server, databaseUrl } = await ownNode(t, { DRAIN_DELAY_MS: '2000' });
    server.kill('SIGTERM');
    await server.waitFor('Stopping on SIGTERM');
    assertProblem(await send(server.url, '/readyz'), 'draining');
    assert.equal((await send(server.url, '/healthz')).status, 200);
    assertCreated(await increment(server.url, { delayed: 1 }));
    assert.equal((await send(server.url, '/key_sum?name=delayed')).body, '1');
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    let acknowledged = 1n;
    const refusal = await eventually('draining', async () => {
      const answer = await increment(server.url, { delayed: 1 }, { agent });
      if (answer.status !== 202) return answer;
      acknowledged += 1n;
      return false;
    });
    agent.destroy();
    assertProblem(refusal, 'draining');
    assert.deepEqual(await server.ended, CLEAN, server.output);
    assert.equal((await committedSums(databaseUrl)).get('delayed'), acknowledged);
  });

  test('a stop during a start that waits for its database ends with 0', async (t) => {
    const port = await freePort();
    for (const JOURNAL of ['memory', 'file']) {
      const env = { DATABASE_URL: `postgres://u:p@127.0.0.1:${port}/d`, JOURNAL };
      const server = own(t, await spawnServer({ env }));
      await server.waitFor('"msg":"Listening on ');
      assert.deepEqual(await server.stop(), CLEAN, server.output);
      assert.ok(!server.output.includes('summing-counters: '), server.output);
      assert.match(server.output, /Stopping during the start; this process has taken no increments/);
    }
  });

  test('a stop during the start of the embedded database ends with 0, and the next start works', async (t) => {
    const dataDir = await temporaryDirectory();
    const server = own(t, await spawnServer({ env: { SHARDS: '1' }, dataDir }));
    await server.waitFor('"msg":"Listening on ');
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    const next = await startServer({ env: { SHARDS: '1' }, dataDir });
    assertCreated(await increment(next.url, { again: 1 }));
    await assertCleanStop(next);
  });

  test('with the memory journal and no database, a stop logs how much is lost and the exit code is not 0', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    await postgres.start();
    const server = own(
      t,
      await startServer({
        env: { DATABASE_URL: postgres.url, JOURNAL: 'memory', FLUSH_INTERVAL_MS: NEVER_MS },
      }),
    );
    assertCreated(await increment(server.url, { lost: 1, other: 1 }));
    await postgres.stop('crash');
    const stoppedAt = performance.now();
    assert.deepEqual(await server.stop(), { code: 1, signal: null }, server.output);
    assert.ok(performance.now() - stoppedAt < 15_000, 'the stop does not wait for the deadline');
    assert.match(server.output, /2 acknowledged increments are lost/);
  });

  test('while the database neither answers nor refuses, a stop ends with 0 long before the deadline and keeps pending increments', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    await postgres.start();
    const server = own(t, await startServer({ env: { DATABASE_URL: postgres.url, SHUTDOWN_TIMEOUT_MS: '60000' } }));
    assertCreated(await increment(server.url, { before: 1 }));
    await flushAll(server.url);
    postgres.hold();
    assertCreated(await increment(server.url, { held: 1, other: 1 }));
    const stoppedAt = performance.now();
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    assert.ok(performance.now() - stoppedAt < 25_000, 'the stop does not wait for the deadline');
    assert.match(server.output, /2 acknowledged increments stay in the journal for the next start/);
    postgres.release();
    const next = await startServer({ env: { DATABASE_URL: postgres.url }, dataDir: server.dataDir });
    await assertCleanStop(next);
    assert.deepEqual((await committedSums(postgres.url)).get('held'), 1n);
  });

  test('npm start passes signals to the server and returns its exit code', async (t) => {
    const database = own(t, await createTestDatabase());
    const dataDir = await temporaryDirectory();
    const env = { ...process.env, PORT: '0', DATA_DIR: dataDir, DATABASE_URL: database.url, SHARDS: '1' };
    const child = spawn('npm', ['start'], { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const server = own(t, new TestServer(child, dataDir));
    await server.waitFor('"msg":"Ready"');
    assertCreated(await increment(server.url, { npm: 1 }));
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    assert.match(server.output, /Everything that was acknowledged is committed/);
    assert.deepEqual(await committedSums(database.url), new Map([['npm', 1n]]));
  });
});
