/** CORS_ORIGINS: what a server answers to browsers whose page comes from another origin. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { send } from '../../support/http.js';
import { assertProblem } from '../../support/problem.js';
import { SuiteServer } from '../../support/suite-server.js';

const PAGE = 'https://shop.example';
const OTHER = 'https://elsewhere.example';

function preflight(
  origin: string,
  method = 'POST',
): { readonly method: string; readonly headers: Record<string, string> } {
  const headers = {
    origin,
    'access-control-request-method': method,
    'access-control-request-headers': 'authorization',
  };
  return { method: 'OPTIONS', headers };
}

describe('with CORS_ORIGINS', () => {
  const node = new SuiteServer({ CORS_ORIGINS: `${PAGE}, http://localhost:8080`, AUTH_TOKENS: 'write:w,read:r' });

  test('a preflight of an allowed origin is 204 without a token, on every path', async () => {
    for (const path of ['/increment', '/counters/a', '/counters', '/key_sum', '/flush', '/metrics', '/nowhere']) {
      const answer = await send(node.url, path, preflight(PAGE));
      assert.equal(answer.status, 204);
      assert.equal(answer.body, '');
      assert.equal(answer.headers['access-control-allow-origin'], PAGE);
      assert.equal(answer.headers['access-control-allow-methods'], 'GET, HEAD, POST, DELETE');
      assert.equal(answer.headers['access-control-allow-headers'], 'authorization, content-type, idempotency-key');
      assert.equal(answer.headers['access-control-max-age'], '600');
      assert.equal(answer.headers.vary, 'origin');
    }
  });

  test('a preflight of another origin, or OPTIONS without one, is answered as any other method', async () => {
    const plain = { method: 'OPTIONS', headers: { authorization: 'Bearer r' } };
    for (const given of [preflight(OTHER), preflight('null'), { method: 'OPTIONS' }]) {
      const answer = await send(node.url, '/increment', given);
      assertProblem(answer, 'unauthorized');
      assert.equal(answer.headers['access-control-allow-origin'], undefined);
      assert.equal(answer.headers['access-control-allow-methods'], undefined);
    }
    const answer = await send(node.url, '/increment', plain);
    assertProblem(answer, 'method-not-allowed');
    assert.equal(answer.headers.allow, 'POST');
  });

  test('every answer to an allowed origin names it, refusals included, and no answer names another', async () => {
    const authorization = 'Bearer w';
    const cases = [
      { path: '/increment', method: 'POST', body: '{"a":1}', headers: { authorization }, status: 202 },
      { path: '/increment', method: 'POST', body: '{"a":"1"}', headers: { authorization }, status: 400 },
      { path: '/increment', method: 'POST', body: '{"a":1}', headers: {}, status: 401 },
      { path: '/version', method: 'GET', headers: { authorization }, status: 403 },
      { path: '/version', method: 'GET', headers: { authorization: 'Bearer r' }, status: 200 },
      { path: '/version', method: 'HEAD', headers: { authorization: 'Bearer r' }, status: 200 },
      { path: '/watch?key=a', method: 'GET', headers: { authorization: 'Bearer r' }, status: 200, until: '\n\n' },
      { path: '/nowhere', method: 'GET', headers: { authorization }, status: 404 },
      { path: '/readyz', method: 'GET', headers: {}, status: 200 },
      { path: '/', method: 'GET', headers: {}, status: 200 },
    ];
    for (const { path, status, headers, ...rest } of cases) {
      for (const origin of [PAGE, OTHER, undefined]) {
        const given = { ...rest, headers: { ...headers, ...(origin === undefined ? {} : { origin }) } };
        const answer = await send(node.url, path, given);
        assert.equal(answer.status, status, path);
        const isAllowed = origin === PAGE;
        assert.equal(answer.headers['access-control-allow-origin'], isAllowed ? PAGE : undefined);
        const exposed = answer.headers['access-control-expose-headers'];
        assert.equal(exposed, isAllowed ? 'allow, idempotency-replayed, retry-after, www-authenticate' : undefined);
        assert.equal(answer.headers.vary, 'origin');
      }
    }
  });
});

describe('with CORS_ORIGINS=*', () => {
  const node = new SuiteServer({ CORS_ORIGINS: '*' });

  test('any origin may call, and no answer varies by it', async () => {
    for (const origin of [PAGE, OTHER, 'null']) {
      const asked = await send(node.url, '/increment', preflight(origin));
      assert.deepEqual([asked.status, asked.headers['access-control-allow-origin']], [204, '*']);
      const answer = await send(node.url, '/increment', { method: 'POST', body: '{"any":1}', headers: { origin } });
      assert.deepEqual([answer.status, answer.headers['access-control-allow-origin']], [202, '*']);
      assert.equal(answer.headers.vary, undefined);
    }
  });

  test('a preflight that names another host is 403, as without CORS', async () => {
    const given = preflight(PAGE);
    const answer = await send(node.url, '/increment', {
      ...given,
      headers: { ...given.headers, host: 'evil.example' },
    });
    assertProblem(answer, 'forbidden');
  });
});

describe('without CORS_ORIGINS', () => {
  const node = new SuiteServer({});

  test('no answer has a header of the CORS protocol', async () => {
    assertProblem(await send(node.url, '/increment', preflight(PAGE)), 'method-not-allowed');
    const answer = await send(node.url, '/increment', { method: 'POST', body: '{"a":1}', headers: { origin: PAGE } });
    assert.equal(answer.status, 202);
    const names = Object.keys(answer.headers).filter((name) => name.startsWith('access-control-') || name === 'vary');
    assert.deepEqual(names, []);
  });
});
