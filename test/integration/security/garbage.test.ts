import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AttackConnection, GoodClient, openConnections, residentMib } from '../../support/attack.js';
import { sumOf } from '../../support/counters.js';
import { eventually } from '../../support/eventually.js';
import { send } from '../../support/http.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';
import { SuiteServer } from '../../support/suite-server.js';

const BODY = '{"smuggled":1}';

const ENDLESS_BYTES_MAX = 4 * 1024 * 1024;

/** Heads whose body length cannot be read, and bytes that are no heads. */
const BAD_REQUESTS: Readonly<Record<string, string>> = {
  'a negative length': `POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n${BODY}`,
  'a length with a sign': `POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: +${BODY.length}\r\n\r\n${BODY}`,
  'a length in hexadecimal': `POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0xe\r\n\r\n${BODY}`,
  'a length beyond 64 bits': `POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n${BODY}`,
  'a chunk length beyond 64 bits': `POST /increment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n${BODY}`,
  'a chunk that is not one': `POST /increment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n${BODY}\r\n0\r\n\r\n`,
  'an unknown transfer encoding': `POST /increment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n${BODY}`,
  'a length and chunks': `POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${BODY.length}\r\nTransfer-Encoding: chunked\r\n\r\n${BODY}`,
  'no version': 'GET /healthz\r\n\r\n',
  'HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'a space before the colon': `POST /increment HTTP/1.1\r\nHost : t\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`,
  'a folded line': `POST /increment HTTP/1.1\r\nHost: localhost\r\n Content-Length: ${BODY.length}\r\n\r\n${BODY}`,
  'a zero byte in a name': `GET /healthz HTTP/1.1\r\nHost: localhost\r\nX\0Y: 1\r\n\r\n`,
  TLS: '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
};

describe('input that is not HTTP', () => {
  const node = new SuiteServer();

  test('requests whose body length cannot be read are refused or closed, and never counted', async () => {
    for (const [name, bytes] of Object.entries(BAD_REQUESTS)) {
      const connection = new AttackConnection(node.url);
      await connection.connected;
      await connection.write(bytes);
      connection.socket.end();
      await connection.closed;
      const { status } = connection;
      assert.ok(status === undefined || status >= 400, `${name}: ${connection.received}`);
      assert.equal((await send(node.url, '/healthz')).status, 200, name);
    }
    assert.equal(await sumOf(node.url, 'smuggled'), undefined);
  });

  test('connections that send endless heads are closed long before they fill the memory', async () => {
    const before = residentMib(node.server);
    const good = new GoodClient(node.url, 'good-heads');
    const sent: number[] = [];
    let peak = before;
    const attack = async (connection: AttackConnection, index: number): Promise<void> => {
      const line = index % 2 === 0 ? Buffer.alloc(4096, 'x') : Buffer.from('X-Line: x\r\n'.repeat(372));
      let bytes = 0;
      await connection.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ');
      // If the server read for ever, this loop would end at its limit and the test would fail.
      while (!connection.isClosed && bytes < ENDLESS_BYTES_MAX) {
        await connection.write(line);
        bytes += line.length;
        peak = Math.max(peak, residentMib(node.server));
      }
      connection.socket.destroy();
      sent.push(bytes);
    };
    let isOver = false;
    const served = good.served(200).finally(() => (isOver = true));
    while (!isOver) await Promise.all((await openConnections(node.url, 50)).map(attack));
    await served;
    const service = await good.stop();
    console.log(
      `${sent.length} heads without an end closed after at most ${Math.max(...sent)} bytes sent; ` +
        `resident memory ${before} to ${peak} MiB; others meanwhile: ${JSON.stringify(service)}`,
    );
    assert.ok(Math.max(...sent) < ENDLESS_BYTES_MAX);
    assert.deepEqual(service.failures, []);
    assert.ok(peak - before < 60, `${before} to ${peak} MiB`);
  });

  test('a head of 3 KiB is served, one of a mebibyte never, and those in between are answered or closed', async () => {
    const ask = async (bytes: number): Promise<AttackConnection> => {
      const connection = new AttackConnection(node.url);
      await connection.connected;
      await connection.write(`GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ${'x'.repeat(bytes)}\r\n\r\n`);
      await eventually(
        'an answer or a closed connection',
        async () => connection.status !== undefined || connection.isClosed,
      );
      connection.socket.destroy();
      return connection;
    };
    assert.equal((await ask(3 * 1024)).status, 200);
    for (const kib of [16, 17, 64, 256, 1024]) {
      // A head in one piece has been received before its length is known, so it may be served.
      const { status } = await ask(kib * 1024);
      console.log(`a head of ${kib} KiB: ${status ?? 'closed'}`);
      assert.ok(status === undefined || status >= 400 || (status === 200 && kib < 1024), `${kib} KiB: ${status ?? ''}`);
    }
    assert.equal((await send(node.url, '/healthz')).status, 200);
  });

  test('random bytes, alone and pipelined behind valid requests, do not affect the server', async () => {
    const seed = seedOfRun();
    console.log(`SEED=${seed}`);
    const random = new Mulberry32(seed);
    const before = residentMib(node.server);
    const good = new GoodClient(node.url, 'good-garbage');
    const pieces = [
      'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n',
      'POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"garbage":0}',
      'POST /increment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n',
      'd\r\n{"garbage":0}\r\n0\r\n\r\n',
      'HEAD /counters/garbage HTTP/1.1\r\nHost: localhost\r\n\r\n',
      'DELETE /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n',
      '\r\n\r\n',
      '\r\n',
      ' ',
      'HTTP/1.1 200 OK\r\n\r\n',
      'Content-Length: 5\r\n',
      '\0\0\0\0',
    ];
    const rounds = countOfRuns(400);
    for (let round = 0; round < rounds; round += 20) {
      const wave = await openConnections(node.url, 20);
      for (const connection of wave) {
        for (let piece = random.below(8); piece >= 0; piece -= 1) {
          const noise = Buffer.from(Array.from({ length: random.below(200) }, () => random.below(256)));
          await connection.write(random.below(3) === 0 ? noise : random.pick(pieces));
        }
        connection.socket.end();
      }
      await Promise.all(wave.map(({ closed }) => closed));
    }
    const service = await good.stop();
    const after = residentMib(node.server);
    console.log(
      `${rounds} connections of garbage; resident memory ${before} to ${after} MiB; others meanwhile: ${JSON.stringify(service)}`,
    );
    assert.deepEqual(service.failures, []);
    assert.equal(await sumOf(node.url, 'good-garbage'), BigInt(service.requests));
    assert.ok([0n, undefined].includes(await sumOf(node.url, 'garbage')));
    assert.ok(after - before < 100, `${before} to ${after} MiB`);
  });
});
