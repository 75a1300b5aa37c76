/**
 * How bodies are sent, as the parser of uWebSockets.js leaves it to the server to check.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { sumOf } from '../../support/counters.js';
import { assertProblem } from '../../support/problem.js';
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
  const node = new SuiteServer();

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
      const detail = assertProblem({ ...answer, headers: Object.fromEntries(answer.headers) }, 'invalid-request');
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
      assertProblem({ ...answer, headers: Object.fromEntries(answer.headers) }, 'unsupported-encoding');
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
