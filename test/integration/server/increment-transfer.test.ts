import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { describe, test } from 'node:test';
import { sumOf } from '../../support/counters.js';
import { eventually } from '../../support/eventually.js';
import { flushAll, increment, send } from '../../support/http.js';
import { assertCreated, assertProblem, assertRawProblem } from '../../support/problem.js';
import { RawConnection } from '../../support/raw-connection.js';
import { SuiteServer } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

const BODY_BYTES_MAX = 4096;

/** The head of a POST /increment. */
function head(...headers: readonly string[]): string {
  return ['POST /increment HTTP/1.1', 'Host: localhost', ...headers, '', ''].join('\r\n');
}

/** A chunk of a chunked body. */
function chunk(text: string): string {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
}

/** A body of exactly `bytes` bytes that counts 1. */
function bodyOf(key: string, bytes: number): string {
  return `{"${key}":1}`.padEnd(bytes, ' ');
}

describe('POST /increment over the wire', () => {
  const node = new SuiteServer({ MAX_BODY_BYTES: String(BODY_BYTES_MAX) });

  test('every method but POST is 405 with Allow, and HEAD has no body', async () => {
    for (const method of ['GET', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
      const answer = await send(node.url, '/increment', { method });
      assertProblem(answer, 'method-not-allowed');
      assert.equal(answer.headers.allow, 'POST');
    }
    const answer = await send(node.url, '/increment', { method: 'HEAD' });
    assert.deepEqual([answer.status, answer.headers.allow, answer.body], [405, 'POST', '']);
  });

  test('an unknown path is 404, for every method', async () => {
    for (const path of ['/', '/increment/', '/incremen', '/increments', '/INCREMENT', '//increment', '/favicon.ico']) {
      if (path !== '/') assertProblem(await send(node.url, path), 'not-found');
      if (path !== '/')
        assertProblem(await send(node.url, path, { method: 'POST', body: '{"unknown":1}' }), 'not-found');
    }
    const answer = await send(node.url, '/nowhere', { method: 'HEAD' });
    assert.deepEqual([answer.status, answer.body], [404, '']);
    assert.equal(await sumOf(node.url, 'unknown'), undefined);
  });

  test('a query behind /increment changes nothing', async () => {
    assertCreated(await send(node.url, '/increment?a=b', { method: 'POST', body: '{"with-query":1}' }));
    assert.equal(await sumOf(node.url, 'with-query'), 1n);
  });

  test('a Content-Encoding other than identity is 415, and not counted', async () => {
    for (const encoding of ['gzip', 'br', 'deflate', 'identity, gzip', 'GZIP']) {
      const options = { headers: { 'content-encoding': encoding } };
      const answer = await increment(node.url, { encoded: 1 }, options);
      assertProblem(answer, 'unsupported-encoding');
      assert.equal(answer.headers['accept-encoding'], 'identity');
    }
    assert.equal(await sumOf(node.url, 'encoded'), undefined);
    for (const encoding of ['identity', 'Identity', '']) {
      assertCreated(await increment(node.url, { encoded: 1 }, { headers: { 'content-encoding': encoding } }));
    }
    assert.equal(await sumOf(node.url, 'encoded'), 3n);
  });

  test('every one of several Content-Encoding lines must be identity', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    const request = (...encodings: readonly string[]): string =>
      head('Content-Length: 11', ...encodings.map((encoding) => `Content-Encoding: ${encoding}`)) + '{"lines":1}';
    await connection.write(request('identity', 'gzip'));
    assertRawProblem(await connection.answer(), 'unsupported-encoding');
    await connection.write(request('identity', 'identity'));
    assert.equal((await connection.answer()).status, 202);
    assert.equal(await sumOf(node.url, 'lines'), 1n);
  });

  test('an empty Idempotency-Key is the same as none', async () => {
    for (const idempotencyKey of ['', ' ']) {
      assertCreated(await increment(node.url, { plain: 1 }, { headers: { 'idempotency-key': idempotencyKey } }));
    }
    assert.equal(await sumOf(node.url, 'plain'), 2n);
  });

  test('an Idempotency-Key that is not 1 to 255 visible ASCII characters is 400, and not counted', async () => {
    for (const idempotencyKey of ['a b', 'tab\tbed', '\u00e9t\u00e9s', 'x'.repeat(256)]) {
      const answer = await increment(
        node.url,
        { 'invalid-key': 1 },
        { headers: { 'idempotency-key': idempotencyKey } },
      );
      assert.match(assertProblem(answer, 'invalid-request'), /Idempotency-Key/);
    }
    assert.equal(await sumOf(node.url, 'invalid-key'), undefined);
    for (const idempotencyKey of ['x'.repeat(255), '"quoted"', '!~']) {
      assertCreated(await increment(node.url, { 'valid-key': 1 }, { headers: { 'idempotency-key': idempotencyKey } }));
    }
    assert.equal(await sumOf(node.url, 'valid-key'), 3n);
  });

  test('a body of exactly MAX_BODY_BYTES is taken, and one byte more is 413, by Content-Length and by chunks', async (t) => {
    const exact = bodyOf('exact', BODY_BYTES_MAX);
    const over = bodyOf('over', BODY_BYTES_MAX + 1);
    assertCreated(await increment(node.url, exact));
    assert.match(assertProblem(await increment(node.url, over), 'body-too-large'), /4096/);
    const connection = own(t, await RawConnection.open(node.url));
    await connection.write(head('Transfer-Encoding: chunked') + chunk(exact) + chunk(''));
    assert.equal((await connection.answer()).status, 202);
    await connection.write(head('Transfer-Encoding: chunked') + chunk(over) + chunk(''));
    assertRawProblem(await connection.answer(), 'body-too-large');
    assert.equal(await sumOf(node.url, 'exact'), 2n);
    assert.equal(await sumOf(node.url, 'over'), undefined);
  });

  test('with Content-Length 413 comes before the body, and the connection stays open', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    const over = bodyOf('announced', BODY_BYTES_MAX + 1);
    await connection.write(head(`Content-Length: ${over.length}`));
    assertRawProblem(await connection.answer(), 'body-too-large');
    await connection.write(over);
    await connection.write(head('Content-Length: 19') + '{"after-content":1}');
    assert.equal((await connection.answer()).status, 202);
    assert.equal(await sumOf(node.url, 'announced'), undefined);
    assert.equal(await sumOf(node.url, 'after-content'), 1n);
  });

  test('413 comes as soon as the chunks are too large together, and the connection stays open', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    await connection.write(head('Transfer-Encoding: chunked') + chunk('{"chunked":1'.padEnd(BODY_BYTES_MAX, ' ')));
    await connection.write(chunk('}'));
    assertRawProblem(await connection.answer(), 'body-too-large');
    await connection.write(chunk(' ') + chunk(''));
    await connection.write(head('Content-Length: 18') + '{"after-chunks":1}');
    assert.equal((await connection.answer()).status, 202);
    assert.equal(await sumOf(node.url, 'chunked'), undefined);
  });

  test('a Content-Length of more than eight times the limit is answered 413 and closed', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    await connection.write(head(`Content-Length: ${8 * BODY_BYTES_MAX + 1}`));
    const answer = await connection.answer();
    assertRawProblem(answer, 'body-too-large');
    assert.equal(answer.headers.get('connection'), 'close');
    await connection.closed();
  });

  test('head and body may come in many pieces', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    const bytes = head(`Content-Length: ${Buffer.byteLength('{"pieces-ä":1}')}`) + '{"pieces-ä":1}';
    for (const byte of Buffer.from(bytes)) await connection.write(Uint8Array.of(byte));
    assert.equal((await connection.answer()).status, 202);
    assert.equal(await sumOf(node.url, 'pieces-ä'), 1n);
  });

  test('a chunked body may come in many pieces', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    const bytes = head('Transfer-Encoding: chunked') + Array.from('{"chunk-pieces":1}', chunk).join('') + chunk('');
    for (const byte of Buffer.from(bytes)) await connection.write(Uint8Array.of(byte));
    assert.equal((await connection.answer()).status, 202);
    assert.equal(await sumOf(node.url, 'chunk-pieces'), 1n);
  });

  test('a request without Content-Length has an empty body', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    await connection.write(head());
    assertRawProblem(await connection.answer(), 'invalid-request');
  });

  test('Expect: 100-continue is answered first, then the request', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    await connection.write(head('Content-Length: 12', 'Expect: 100-continue'));
    assert.equal((await connection.answer()).status, 100);
    await connection.write('{"expect":1}');
    assert.equal((await connection.answer()).status, 202);
  });

  test('one connection carries thousands of requests', async (t) => {
    const agent = own(t, new Agent({ keepAlive: true, maxSockets: 1 }));
    for (let sent = 0; sent < 2000; sent += 1) {
      const answer = await increment(node.url, { kept: 1 }, { agent });
      if (answer.status !== 202) assertCreated(answer);
    }
    assert.equal(await sumOf(node.url, 'kept'), 2000n);
  });

  test('a request sent before the answer to the previous one is never counted, and the previous one at most once', async (t) => {
    const connection = own(t, await RawConnection.open(node.url));
    const body = '{"ahead":1}';
    const behind = '{"behind":1}';
    await connection.write(
      head(`Content-Length: ${body.length}`) + body + head(`Content-Length: ${behind.length}`) + behind,
    );
    await connection.closed();
    await flushAll(node.url);
    assert.ok([undefined, 1n].includes(await sumOf(node.url, 'ahead')));
    assert.equal(await sumOf(node.url, 'behind'), undefined);
  });

  test('a request whose client disconnects in the middle of the body is not counted, and the server continues', async () => {
    for (let times = 0; times < 20; times += 1) {
      const connection = await RawConnection.open(node.url);
      await connection.write(`${head('Content-Length: 20')}{"half-sent":1`);
      connection.abort();
      const chunked = await RawConnection.open(node.url);
      await chunked.write(head('Transfer-Encoding: chunked') + chunk('{"half-sent":1}'));
      chunked.abort();
    }
    assertCreated(await increment(node.url, { 'after-aborts': 1 }));
    assert.equal(await sumOf(node.url, 'half-sent'), undefined);
  });

  test('a request whose client disconnects while it waits is counted at most once, and other sums are exact', async () => {
    for (let times = 0; times < 50; times += 1) {
      const connection = await RawConnection.open(node.url);
      await connection.write(`${head('Content-Length: 10')}{"gone":1}`);
      connection.abort();
      assertCreated(await increment(node.url, { stayed: 1 }));
    }
    assert.equal(await sumOf(node.url, 'stayed'), 50n);
    await eventually('pending increments are committed', async () => (await node.table()).get('stayed') === 50n);
    const gone = (await sumOf(node.url, 'gone')) ?? 0n;
    assert.ok(gone >= 0n && gone <= 50n, String(gone));
  });

  test('a request without Host, or with a length that is no number or beside chunks, is closed and not counted', async (t) => {
    const requests = [
      'POST /increment HTTP/1.1\r\nContent-Length: 12\r\n\r\n{"nohost":1}',
      `${head('Content-Length: -1')}{"nohost":1}`,
      `${head('Content-Length: 1e1')}{"nohost":1}`,
      `${head('Content-Length: 12', 'Transfer-Encoding: chunked')}${chunk('{"nohost":1}')}${chunk('')}`,
    ];
    for (const request of requests) {
      const connection = own(t, await RawConnection.open(node.url));
      await connection.write(request);
      await connection.closed();
    }
    assert.equal(await sumOf(node.url, 'nohost'), undefined);
  });
});
