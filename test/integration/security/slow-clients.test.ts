import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { AttackConnection } from '../../support/attack.js';
import { GoodClient, openConnections, residentMib } from '../../support/attack.js';
import { sumOf } from '../../support/counters.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { SuiteServer } from '../../support/suite-server.js';

const MIB = 1024 * 1024;
/** uWebSockets.js 20.30 closes a stalled client after about 10 s, 20.57 after 30 s; later on a busy machine. */
const CLOSED_WITHIN_MS = 60_000;

/** Sends one more byte a second until the other side closes. */
async function trickle(connection: AttackConnection, bytes: string): Promise<void> {
  for (let sent = 0; !connection.isClosed; sent += 1) {
    await connection.write(bytes[sent % bytes.length] ?? ' ');
    await Promise.race([connection.closed, new Promise((resolve) => setTimeout(resolve, 1000))]);
  }
}

describe('slow clients', () => {
  // 1 MiB for each body; 16 MiB for all partial bodies together.
  const node = new SuiteServer({ MAX_PENDING_BYTES: '64MiB' });

  test('connections with slow heads or bodies are closed within a minute, and others are served meanwhile', async () => {
    const before = residentMib(node.server);
    const good = new GoodClient(node.url, 'good-slow');
    const slow = await openConnections(node.url, 600);
    const body = 'POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{"slow":1';
    await Promise.all(
      slow.map(async (connection, index) => {
        if (index % 3 === 0)
          await trickle(connection, 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: sssssssssssssssssssssssss');
        else {
          await connection.write(index % 3 === 1 ? body : 'POST /increment HTTP/1.1\r\nHost: localhost\r\n');
          await trickle(connection, ' ');
        }
      }),
    );
    const closedMs = (await Promise.all(slow.map(({ closed }) => closed))).sort((a, b) => a - b);
    const service = await good.stop();
    const after = residentMib(node.server);
    console.log(
      `600 slow clients closed after ${Math.round(closedMs[0] ?? 0)} to ${Math.round(closedMs.at(-1) ?? 0)} ms; ` +
        `resident memory ${before} to ${after} MiB; others meanwhile: ${JSON.stringify(service)}`,
    );
    assert.ok((closedMs.at(-1) ?? Infinity) < CLOSED_WITHIN_MS);
    assert.deepEqual(service.failures, []);
    assert.equal(await sumOf(node.url, 'good-slow'), BigInt(service.requests));
    assert.equal(await sumOf(node.url, 'slow'), undefined);
    assert.ok(after - before < 100, `${before} to ${after} MiB`);
  });

  test('half-sent bodies take bounded memory: beyond it they are 503, small requests are served, and the memory is released', async () => {
    const before = residentMib(node.server);
    const good = new GoodClient(node.url, 'good-half');
    const halves = await openConnections(node.url, 400);
    const head = `POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${MIB}\r\n\r\n`;
    const half = Buffer.alloc(MIB / 2, ' ');
    let peak = before;
    for (const connection of halves) {
      await connection.write(head);
      await connection.write(half);
      peak = Math.max(peak, residentMib(node.server));
    }
    const refused = await eventually('some are refused', async () => {
      const statuses = halves.filter(({ status }) => status === 503);
      return statuses.length > 300 ? statuses.length : undefined;
    });
    for (const connection of halves.filter(({ status }) => status !== undefined)) {
      assert.equal(connection.status, 503);
      assert.match(connection.received, /"code":"overloaded"/);
    }
    await good.served(200);
    peak = Math.max(peak, residentMib(node.server));
    // A body that arrives in one piece needs none of that memory.
    assertCreated(await increment(node.url, { whole: 1 }));
    const large = Buffer.from(`{"large":1}${' '.repeat(900_000)}`);
    assert.match(
      assertProblem(await increment(node.url, large), 'overloaded'),
      /^Unfinished bodies take .+, the most that MAX_PENDING_BYTES \(.+\) allows them; retry later/,
    );
    for (const connection of halves) connection.socket.destroy();
    await eventually('large bodies are taken again', async () => (await increment(node.url, large)).status === 202);
    const service = await good.stop();
    console.log(
      `400 half bodies of 512 KiB, ${refused} refused; resident memory ${before} to ${peak} MiB; ` +
        `others meanwhile: ${JSON.stringify(service)}`,
    );
    assert.deepEqual(service.failures, []);
    assert.equal(await sumOf(node.url, 'good-half'), BigInt(service.requests));
    assert.equal(await sumOf(node.url, 'large'), 1n);
    assert.ok(peak - before < 150, `${before} to ${peak} MiB`);
  });

  test('clients that do not read answers take bounded memory, and others are served meanwhile', async () => {
    const keys = Array.from({ length: 1000 }, (_, index) => `"unread:${'k'.repeat(400)}${index}":1`);
    assertCreated(await increment(node.url, `{${keys.join(',')}}`));
    await flushAll(node.url);
    const before = residentMib(node.server);
    const good = new GoodClient(node.url, 'good-unread');
    const readers = await openConnections(node.url, 20);
    let peak = before;
    for (const { socket } of readers) socket.pause();
    for (let round = 0; round < 50; round += 1) {
      for (const reader of readers) void reader.write('GET /counters?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n');
      await new Promise((resolve) => setTimeout(resolve, 20));
      peak = Math.max(peak, residentMib(node.server));
    }
    await good.served(200);
    const received = readers.map(({ received }) => received.length);
    const service = await good.stop();
    for (const { socket } of readers) socket.destroy();
    console.log(
      `20 readers that do not read, 1000 pages of half a MiB asked for; resident memory ${before} to ${peak} MiB; ` +
        `others meanwhile: ${JSON.stringify(service)}`,
    );
    assert.deepEqual(service.failures, []);
    // They read nothing, although they requested half a GiB.
    assert.deepEqual(new Set(received), new Set([0]));
    assert.ok(peak - before < 200, `${before} to ${peak} MiB`);
  });
});
