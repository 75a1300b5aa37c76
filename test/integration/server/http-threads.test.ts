import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { counterOf, sumOf } from '../../support/counters.js';
import { eventually } from '../../support/eventually.js';
import { FlushHold } from '../../support/flush-hold.js';
import { increment, onConnections, send, type Answer } from '../../support/http.js';
import { freePort } from '../../support/free-port.js';
import { assertCreated, assertProblem, assertRawProblem } from '../../support/problem.js';
import { RawConnection } from '../../support/raw-connection.js';
import { spawnServer, startServer } from '../../support/server.js';
import { assertCleanStop, committedSums, serves, SuiteServer } from '../../support/suite-server.js';
import { own, ownDirectory, ownNode, refusedStart } from '../../support/own.js';

const THREADS = { HTTP_THREADS: '3', SHARDS: '2' };
const NEVER_MS = '3600000';
/** With so many connections the chance that one of three HTTP threads gets none is below 10^-10. */
const CONNECTIONS = 60;

describe('three HTTP threads on one port', () => {
  const node = new SuiteServer({ ...THREADS, FLUSH_INTERVAL_MS: NEVER_MS });

  test('the log names the number of HTTP threads', () => {
    assert.match(node.server.output, /"httpThreads":3.*3 HTTP threads share the port/);
  });

  test('1,001 concurrent increments over as many connections sum to 500500', async () => {
    const answers = await Promise.all(Array.from({ length: 1001 }, (_, n) => increment(node.url, { gauss: n })));
    for (const answer of answers) assertCreated(answer);
    assert.equal(await sumOf(node.url, 'gauss'), 500500n);
  });

  test('each of many connections serves increments, reads, flushes, lists and documents', async () => {
    await onConnections(CONNECTIONS, async (agent, index) => {
      const get = (path: string): Promise<Answer> => send(node.url, path, { agent });
      assertCreated(await increment(node.url, { [`own-${index}`]: 5, everybody: 1 }, { agent }));
      assert.equal((await get(`/key_sum?name=own-${index}`)).body, '5');
      assert.equal((await get('/key_sum?name=never')).status, 404);
      assert.equal((await send(node.url, '/flush', { method: 'POST', agent })).status, 200);
      const counter = JSON.parse((await get(`/counters/own-${index}`)).body) as Record<string, unknown>;
      assert.equal(counter['committed'], 5);
      assert.ok(!Number.isNaN(Date.parse(String(counter['updated_at']))));
      const page = JSON.parse((await get(`/counters?prefix=own-${index}&limit=1`)).body) as { counters: unknown[] };
      assert.equal(page.counters.length, 1);
      assert.equal((await get('/openapi.json')).status, 200);
      assert.equal((await get('/healthz')).status, 200);
      assert.deepEqual(JSON.parse((await get('/readyz')).body), { status: 'ok' });
      assertProblem(await increment(node.url, { broken: 1.5 }, { agent }), 'invalid-request');
    });
    assert.equal(await sumOf(node.url, 'everybody'), BigInt(CONNECTIONS));
  });

  test('a counter that one connection deletes no longer exists on any connection', async () => {
    await onConnections(CONNECTIONS, async (agent, index) => {
      assertCreated(await increment(node.url, { [`gone-${index}`]: 9 }, { agent }));
      const deleted = await send(node.url, `/counters/gone-${index}`, { method: 'DELETE', agent });
      assert.equal(deleted.status, 200, deleted.body);
      assert.equal((JSON.parse(deleted.body) as Record<string, unknown>)['sum'], 9);
    });
    for (let index = 0; index < CONNECTIONS; index += 1) {
      assert.equal((await counterOf(node.url, `gone-${index}`))?.sum ?? 0n, 0n);
    }
  });

  test('every connection reads a sum beyond the safe integers exactly', async () => {
    const body = { huge: Number.MAX_SAFE_INTEGER };
    assertCreated(await increment(node.url, body));
    assertCreated(await increment(node.url, body));
    await onConnections(CONNECTIONS, async (agent) => {
      assert.equal((await send(node.url, '/key_sum?name=huge', { agent })).body, '18014398509481982');
    });
  });

  test('an idempotency key is recognised on every connection', async () => {
    const headers = { 'idempotency-key': 'over-all-threads' };
    let replayed = 0;
    await onConnections(CONNECTIONS, async (agent) => {
      const answer = await increment(node.url, { once: 3 }, { agent, headers });
      assertCreated(answer);
      if (answer.headers['idempotency-replayed'] === 'true') replayed += 1;
    });
    assert.equal(replayed, CONNECTIONS - 1);
    assert.equal(await sumOf(node.url, 'once'), 3n);
  });
});

describe('limits over three HTTP threads', () => {
  const keysMax = 100;
  const held = new FlushHold();
  after(() => held.release());
  const node = new SuiteServer({ ...THREADS, MAX_PENDING_KEYS: String(keysMax), FLUSH_INTERVAL_MS: NEVER_MS });

  test('new keys from many connections at once do not exceed MAX_PENDING_KEYS, and nothing refused is counted', async () => {
    for (let round = 0; round < 5; round += 1) {
      const acknowledged = new Map<string, bigint>();
      await held.hold(node.databaseUrl);
      await onConnections(CONNECTIONS, async (agent, index) => {
        for (let sent = 0; sent < 10; sent += 1) {
          const keys = Array.from({ length: 1 + (sent % 3) }, (_, at) => `r${round}-${index}-${sent}-${at}`);
          const answer = await increment(node.url, Object.fromEntries(keys.map((key) => [key, 1])), { agent });
          if (answer.status === 202) for (const key of keys) acknowledged.set(key, 1n);
          else assertProblem(answer, 'overloaded');
        }
      });
      // Nothing is flushed here, so everything acknowledged is pending and the limit holds for it at every moment.
      assert.ok(acknowledged.size > keysMax / 2 && acknowledged.size <= keysMax, String(acknowledged.size));
      await held.release();
      // On a slow machine the hold was long enough for the database to count as unavailable.
      await eventually('a flush', async () => (await send(node.url, '/flush', { method: 'POST' })).status === 200);
      const table = [...(await node.table())].filter(([key]) => key.startsWith(`r${round}-`));
      assert.deepEqual(new Map(table), acknowledged);
    }
  });
});

describe('start and stop of three HTTP threads', { concurrency: 2 }, () => {
  test('the start detects a port that another process listens on, and does not share it', async (t) => {
    const other = own(t, createServer()).listen(0, '127.0.0.1');
    await once(other, 'listening');
    const address = other.address();
    assert.ok(typeof address === 'object' && address !== null);
    const { port } = address;
    await refusedStart(
      { ...THREADS, PORT: String(port) },
      1,
      new RegExp(`^summing-counters: Port ${port} .*in use`, 'm'),
    );
  });

  test('the start detects a port that another server shares among its own HTTP threads', async (t) => {
    const { server: first } = await ownNode(t, { ...THREADS });
    const { port } = new URL(first.url);
    await refusedStart({ ...THREADS, PORT: port }, 1, new RegExp(`^summing-counters: Port ${port} .*in use`, 'm'));
  });

  // A thread that ends while it loads its code can end the whole process with it. The delays meet different moments of that.
  test('a stop while the start waits for its database ends the process with 0', async (t) => {
    const port = await freePort();
    const env = { ...THREADS, DATABASE_URL: `postgres://u:p@127.0.0.1:${port}/d`, JOURNAL: 'memory' };
    for (let afterMs = 0; afterMs < 200; afterMs += 20) {
      const server = own(t, await spawnServer({ env }));
      await server.waitFor('"msg":"Listening on ');
      await sleep(afterMs);
      assert.deepEqual(await server.stop(), { code: 0, signal: null }, server.output);
    }
  });

  test('SIGTERM under load: exit code 0, the acknowledged increments are in the table, and the balance is 0', async (t) => {
    const { server, databaseUrl } = await ownNode(t, { ...THREADS, FLUSH_INTERVAL_MS: NEVER_MS });
    let acknowledged = 0n;
    const load = onConnections(CONNECTIONS, async (agent) => {
      for (;;) {
        const answer = await increment(server.url, { stopped: 1 }, { agent }).catch(() => undefined);
        if (answer?.status !== 202) {
          if (answer !== undefined) assertProblem(answer, 'draining');
          return;
        }
        acknowledged += 1n;
      }
    });
    await eventually('a thousand increments are acknowledged', () => Promise.resolve(acknowledged > 1000n));
    server.kill('SIGTERM');
    await load;
    assert.deepEqual(await server.ended, { code: 0, signal: null }, server.output);
    const balance = server.log.find(({ msg }) => msg === 'Everything that was acknowledged is committed');
    assert.equal(balance?.['difference'], 0, server.output);
    // A request without an answer may have been counted: at most one for each client.
    const sum = (await committedSums(databaseUrl)).get('stopped') ?? 0n;
    assert.ok(sum >= acknowledged && sum <= acknowledged + BigInt(CONNECTIONS), `${sum}, ${acknowledged}`);
  });

  test('on every HTTP thread a stop does not wait for clients that never finish their body', async (t) => {
    const { server } = await ownNode(t, { ...THREADS });
    const begun = await Promise.all(Array.from({ length: CONNECTIONS }, () => RawConnection.open(server.url)));
    const body = 'POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{"begun":1}';
    const part = 'POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"begun":1';
    for (const connection of begun) {
      await connection.write(body);
      assert.equal((await connection.answer()).status, 202);
      await connection.write(part);
    }
    server.kill('SIGTERM');
    for (const connection of begun) {
      const answer = await connection.answer();
      assertRawProblem(answer, 'draining');
    }
    assert.deepEqual(await server.ended, { code: 0, signal: null }, server.output);
  });

  test('an HTTP thread that fails ends the process with 1 and a log message, and nothing acknowledged is lost', async (t) => {
    const directory = await ownDirectory(t);
    const signal = join(directory, 'break');
    const breaking = `
      import { existsSync } from 'node:fs';
      import { workerData } from 'node:worker_threads';
      if (workerData?.httpThread === 2) {
        setInterval(() => { if (existsSync(${JSON.stringify(signal)})) throw new Error('broken on purpose'); }, 5);
      }`;
    const preload = join(directory, 'breaking.mjs');
    await writeFile(preload, breaking);
    const env = { ...THREADS, NODE_OPTIONS: `--import=${preload}`, FLUSH_INTERVAL_MS: NEVER_MS };
    const { server, databaseUrl } = await ownNode(t, env);
    await onConnections(CONNECTIONS, async (agent) => {
      assertCreated(await increment(server.url, { kept: 1 }, { agent }));
    });
    await writeFile(signal, '');
    assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
    assert.match(server.output, /^summing-counters: HTTP thread 2 failed: Error: broken on purpose/m);
    const next = await startServer({ env: { DATABASE_URL: databaseUrl, ...THREADS }, dataDir: server.dataDir });
    await serves(next);
    assert.equal(await sumOf(next.url, 'kept'), BigInt(CONNECTIONS));
    await assertCleanStop(next);
  });

  test('a second signal ends the process with 1, not with an abort', async (t) => {
    const { server } = await ownNode(t, { ...THREADS, DRAIN_DELAY_MS: '20000' });
    await onConnections(CONNECTIONS, async (agent) => {
      assertCreated(await increment(server.url, { later: 1 }, { agent }));
    });
    server.kill('SIGTERM');
    await server.waitFor('Stopping on SIGTERM');
    // The same signal within a second counts as the first one.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    server.kill('SIGTERM');
    assert.deepEqual(await server.ended, { code: 1, signal: null }, server.output);
    assert.match(server.output, /a second SIGTERM/);
  });
});
