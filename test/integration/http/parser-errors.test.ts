/**
 * Requests that the parser of uWebSockets.js refuses, wholly or because of the bytes behind them. The two builds differ in
 * what they answer (docs/http.md); none may count what it refuses.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { counterOf, sumOf } from '../../support/counters.js';
import { increment } from '../../support/http.js';
import { assertCreated, assertRawProblem } from '../../support/problem.js';
import { RawConnection, type RawAnswer } from '../../support/raw-connection.js';
import { SuiteServer } from '../../support/suite-server.js';

/** A request with a head of these lines. */
function request(method: string, path: string, lines: readonly string[], body = ''): string {
  return [`${method} ${path} HTTP/1.1`, 'Host: localhost', ...lines, '', body].join('\r\n');
}

function post(body: string, ...lines: readonly string[]): string {
  return request('POST', '/increment', [`Content-Length: ${body.length}`, ...lines], body);
}

function chunk(text: string): string {
  return `${text.length.toString(16)}\r\n${text}\r\n`;
}

/** What may come behind a request in the same TCP segment. */
const MALFORMED: Readonly<Record<string, string>> = {
  'a head without Host': 'POST /increment HTTP/1.1\r\nContent-Length: 13\r\n\r\n{"behind-a":1}',
  'HTTP/1.0': 'POST /increment HTTP/1.0\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n{"behind-a":1}',
  'a length and chunks': post('{"behind-a":1}', 'Transfer-Encoding: chunked'),
  'a head of 20 KB': post('{"behind-a":1}', `X-Long: ${'x'.repeat(20_000)}`),
  'the beginning of such a head': post('{"behind-a":1}', `X-Long: ${'x'.repeat(20_000)}`).slice(0, 18_000),
  'bytes that are no head': '\0\0\0\0\r\n\r\n',
  'a valid request': post('{"behind-a":1}'),
};

/** Forms of a request that adds 1 to `key`, and with some 1 to other keys, in one segment. */
const FORMS: Readonly<Record<string, (key: string) => string>> = {
  'one key': (key) => post(`{"${key}":1}`),
  'keys of all shards': (key) => post(JSON.stringify(Object.fromEntries(manyKeys(key).map((name) => [name, 1])))),
  'an Idempotency-Key': (key) => post(`{"${key}":1}`, `Idempotency-Key: ${key}`),
  chunks: (key) =>
    request('POST', '/increment', ['Transfer-Encoding: chunked'], chunk(`{"${key}"`) + chunk(':1}') + chunk('')),
};

function manyKeys(key: string): readonly string[] {
  return [key, ...Array.from({ length: 20 }, (_, index) => `${key}/${index}`)];
}

/** The first answer, or undefined if the connection closes without one. */
async function outcome(url: string, bytes: string): Promise<RawAnswer | undefined> {
  const connection = await RawConnection.open(url);
  try {
    await connection.write(bytes);
    return await connection.answer();
  } catch (error) {
    if (!connection.isClosed) throw error;
    return undefined;
  } finally {
    connection.close();
  }
}

describe('requests that the parser refuses', () => {
  // No flush takes place unless a test asks for it.
  const node = new SuiteServer({ FLUSH_INTERVAL_MS: '600000' });

  async function sums(keys: readonly string[]): Promise<readonly (bigint | undefined)[]> {
    return Promise.all(keys.map((key) => sumOf(node.url, key)));
  }

  test('a request with malformed bytes behind it in the same segment is counted only if it is answered 202', async () => {
    for (const [malformed, behind] of Object.entries(MALFORMED)) {
      for (const [form, bytes] of Object.entries(FORMS)) {
        const key = `${malformed}, ${form}`.replaceAll(' ', '-');
        const answer = await outcome(node.url, bytes(key) + behind);
        console.log(`${form}, then ${malformed}: ${answer?.status ?? 'closed'}`);
        const expected = answer?.status === 202 ? 1n : undefined;
        const keys = form === 'keys of all shards' ? manyKeys(key) : [key];
        assert.deepEqual(
          await sums(keys),
          keys.map(() => expected),
          `${form}, then ${malformed}: ${answer?.status ?? 'closed'}`,
        );
      }
    }
    assert.equal(await sumOf(node.url, 'behind-a'), undefined);
  });

  test('an Idempotency-Key of such a request is free', async () => {
    const bytes = post('{"retried":1}', 'Idempotency-Key: retried');
    const refused = await outcome(node.url, bytes + (MALFORMED['a length and chunks'] ?? ''));
    assert.notEqual(refused?.status, 202);
    const again = await outcome(node.url, bytes);
    assert.deepEqual([again?.status, again?.headers.get('idempotency-replayed')], [202, undefined]);
    assert.equal(await sumOf(node.url, 'retried'), 1n);
  });

  test('requests of other connections in the same batch are counted', async () => {
    const bad = post('{"refused":1}') + (MALFORMED['a length and chunks'] ?? '');
    for (let round = 0; round < 10; round += 1) {
      const connections = await Promise.all(Array.from({ length: 60 }, () => RawConnection.open(node.url)));
      try {
        const good = connections.filter((_, index) => index % 3 !== 0);
        // All are written before any is read, so that the server finds them together.
        await Promise.all(
          connections.map((connection) => connection.write(good.includes(connection) ? post('{"beside":1}') : bad)),
        );
        for (const connection of good) assert.equal((await connection.answer()).status, 202);
        for (const connection of connections) if (!good.includes(connection)) await connection.closed();
      } finally {
        for (const connection of connections) connection.close();
      }
    }
    assert.deepEqual(await sums(['beside', 'refused']), [400n, undefined]);
  });

  test('a chunked request with a trailer is counted only if it is answered 202', async () => {
    const body = chunk('{"trailed":1}');
    const head = request('POST', '/increment', ['Transfer-Encoding: chunked']);
    const inOne = await outcome(node.url, `${head}${body}0\r\nX-Trailer: 1\r\n\r\n`);
    console.log(`with a trailer: ${inOne?.status ?? 'closed'}`);
    assert.equal(await sumOf(node.url, 'trailed'), inOne?.status === 202 ? 1n : undefined);
  });

  test('what only the parser can mend is counted as docs/http.md says', async () => {
    const chunked = request('POST', '/increment', ['Transfer-Encoding: chunked']);
    const body = (key: string): string => `{"${key}":1}`;
    const length = (key: string): string => body(key).length.toString(16);
    const cases: Readonly<Record<string, (key: string) => string>> = {
      'first-length': (key) => post(body(key), 'Content-Length: 2'),
      'skipped-bytes': (key) => `${chunked}${length(key)}\r\n${body(key)}XX0\r\n\r\n`,
      'extension-behind-space': (key) => `${chunked}${length(key)} ;x=1\r\n${body(key)}\r\n0\r\n\r\n`,
    };
    for (const [key, bytes] of Object.entries(cases)) {
      assert.equal((await outcome(node.url, bytes(key)))?.status, 202, key);
      assert.equal(await sumOf(node.url, key), 1n, key);
    }
    const lines = ['Content-Length: 2', `Content-Length: ${body('second-length').length}`];
    const second = await outcome(node.url, request('POST', '/increment', lines, body('second-length')));
    // 20.30 may close before it writes the answer.
    assert.ok([400, undefined].includes(second?.status));
    const extension = await RawConnection.open(node.url);
    await extension.write(`${chunked}${length('extension')};a=1\r\n${body('extension')}\r\n0\r\n\r\n`);
    assert.deepEqual(await sums(['second-length', 'extension']), [undefined, undefined]);
    extension.close();
    const trailed = await RawConnection.open(node.url);
    await trailed.write(`${chunked}${chunk(body('late-trailer'))}0\r\n`);
    assert.equal((await trailed.answer()).status, 202);
    await trailed.write('X-Trailer: 1\r\n\r\n');
    assert.equal(await sumOf(node.url, 'late-trailer'), 1n);
    trailed.close();
  });

  test('a DELETE with malformed bytes behind it deletes only if it is answered', async () => {
    for (const [malformed, behind] of Object.entries(MALFORMED)) {
      assertCreated(await increment(node.url, { deleted: 1 }));
      const answer = await outcome(node.url, request('DELETE', '/counters/deleted', []) + behind);
      console.log(`DELETE, then ${malformed}: ${answer?.status ?? 'closed'}`);
      const sum = answer?.status === 200 ? undefined : 1n;
      assert.equal(await sumOf(node.url, 'deleted'), sum, malformed);
      if (sum !== undefined)
        assert.equal((await outcome(node.url, request('DELETE', '/counters/deleted', [])))?.status, 200);
    }
  });

  test('a POST /flush with malformed bytes behind it flushes only if it is answered', async () => {
    assertCreated(await increment(node.url, { 'not-flushed': 1 }));
    const flush = request('POST', '/flush', ['Content-Length: 0']);
    assert.notEqual((await outcome(node.url, flush + (MALFORMED['a length and chunks'] ?? '')))?.status, 200);
    // Far longer than a flush takes; it is a request, not a wait.
    for (let times = 0; times < 50; times += 1) {
      assert.equal((await counterOf(node.url, 'not-flushed'))?.committed, 0n);
    }
    assert.equal((await outcome(node.url, flush))?.status, 200);
    assert.equal((await counterOf(node.url, 'not-flushed'))?.committed, 1n);
  });

  test('a Transfer-Encoding other than chunked is 400, closes the connection, and is not counted', async () => {
    const body = chunk('{"transferred":1}') + chunk('');
    const refused = [
      'gzip',
      'gzip, chunked',
      'chunked, gzip',
      'chunked, chunked',
      'identity',
      'xchunked',
      'chunkedx',
      '',
    ];
    const lines = [
      ...refused.map((coding) => [`Transfer-Encoding: ${coding}`]),
      ['Transfer-Encoding: chunked', 'Transfer-Encoding: gzip'],
      ['Transfer-Encoding: gzip', 'Transfer-Encoding: chunked'],
      ['Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'],
      ['Transfer-Encoding:', 'Transfer-Encoding: chunked'],
    ];
    for (const of of lines) {
      const connection = await RawConnection.open(node.url);
      await connection.write(request('POST', '/increment', of, body));
      const answer = await connection.answer();
      const detail = assertRawProblem(answer, 'invalid-request');
      assert.match(detail, /transfer encoding/, of.join());
      await connection.closed();
    }
    assert.equal(await sumOf(node.url, 'transferred'), undefined);
    for (const coding of ['chunked', 'Chunked', ' CHUNKED ']) {
      const answer = await outcome(node.url, request('POST', '/increment', [`Transfer-Encoding: ${coding}`], body));
      assert.equal(answer?.status, 202, coding);
    }
    assert.equal(await sumOf(node.url, 'transferred'), 3n);
  });

  test('gzip behind an empty Content-Encoding is 415, and not counted', async () => {
    const lines = ['Content-Encoding:', 'Content-Encoding: gzip'];
    const body = '{"compressed":1}';
    const gzip = gzipSync(body).toString('latin1');
    const requests = {
      'in chunks': request('POST', '/increment', [...lines, 'Transfer-Encoding: chunked'], chunk(body) + chunk('')),
      'in chunks, compressed': request(
        'POST',
        '/increment',
        [...lines, 'Transfer-Encoding: chunked'],
        chunk(gzip) + chunk(''),
      ),
      'with a length, compressed': post(gzip, ...lines),
      'compressed without a header': post(gzip),
    };
    for (const [name, bytes] of Object.entries(requests)) {
      const connection = await RawConnection.open(node.url);
      await connection.write(Buffer.from(bytes, 'latin1'));
      const answer = await connection.answer();
      assertRawProblem(answer, 'unsupported-encoding');
      assert.equal(answer.headers.get('accept-encoding'), 'identity', name);
      connection.close();
    }
    assert.equal(await sumOf(node.url, 'compressed'), undefined);
    const empty = request(
      'POST',
      '/increment',
      ['Content-Encoding: identity', 'Content-Encoding:', 'Transfer-Encoding: chunked'],
      chunk(body) + chunk(''),
    );
    assert.equal((await outcome(node.url, empty))?.status, 202);
  });
});
