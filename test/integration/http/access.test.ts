import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { ErrorCode } from '#product/core/errors.js';
import { api } from '#product/http/api.js';
import { increment, send, type Answer } from '../../support/http.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { RawConnection } from '../../support/raw-connection.js';
import { startServer, temporaryDirectory, type TestServer } from '../../support/server.js';
import { assertCleanStop, SuiteServer } from '../../support/suite-server.js';
import { own } from '../../support/own.js';

const TOKENS = {
  write: 'write-3f9a1c',
  read: 'read-77b0e2.x~y',
  admin: 'admin+d41d8/cd98==',
  both: 'both-5a105e',
  file: 'file-0cc175',
} as const;
const GUESS = 'guess-c4ca42';

const AUTH_TOKENS = `write:${TOKENS.write},read:${TOKENS.read} admin:${TOKENS.admin},read:${TOKENS.both},write:${TOKENS.both}`;

function bearer(token: string): { readonly headers: Readonly<Record<string, string>> } {
  return { headers: { authorization: `Bearer ${token}` } };
}

function assertRefused(answer: Answer, code: 'unauthorized' | 'forbidden'): void {
  assertProblem(answer, code);
  assert.equal(answer.headers['www-authenticate'], code === 'unauthorized' ? 'Bearer' : undefined);
}

/** One request for each operation of the table. */
const requests = Object.entries(api).map(([name, { method, path, access, reply }]) => ({
  name,
  access,
  method: method.toUpperCase(),
  path: path.replace('{key}', 'a') + (['/counters', '/key_sum', '/watch'].includes(path) ? '?key=a&name=a' : ''),
  // A stream does not end by itself.
  ...((reply.content as readonly string[]).includes('events') ? { until: '\n\n' } : {}),
  ...(name === 'increment' ? { body: '{"a":1}' } : {}),
}));

describe('access with bearer tokens', () => {
  let directory: string;
  let server: TestServer;
  const node = new SuiteServer({ AUTH_TOKENS, LOG_LEVEL: 'trace' });
  before(async () => {
    directory = await temporaryDirectory();
    const file = join(directory, 'tokens');
    await writeFile(file, `# of the nightly job\nread:${TOKENS.file} # rotated in May\n`);
    server = await startServer({
      dataDir: directory,
      env: { DATABASE_URL: node.databaseUrl, SHARDS: '1', AUTH_TOKENS_FILE: file },
    });
  });
  after(async () => {
    try {
      await assertCleanStop(server);
    } finally {
      await server.dispose();
    }
  });

  test('without a valid bearer token everything but the probes is 401 with WWW-Authenticate and is not counted', async () => {
    for (const { name, access, path, ...request } of requests) {
      for (const headers of [
        {},
        bearer(GUESS).headers,
        { authorization: `Basic ${TOKENS.admin}` },
        { authorization: TOKENS.admin },
      ]) {
        const answer = await send(node.url, path, { ...request, headers });
        if (access === 'open') assert.equal(answer.status, 200, name);
        else assertRefused(answer, 'unauthorized');
      }
    }
    assertProblem(await send(node.url, '/counters/a', bearer(TOKENS.read)), 'unknown-counter');
  });

  test('each bearer token allows the operations of its scope and no others', async () => {
    const granted = { write: ['write'], read: ['read'], admin: ['write', 'read', 'admin'], both: ['write', 'read'] };
    for (const [holder, scopes] of Object.entries(granted)) {
      for (const { name, access, path, ...request } of requests) {
        const token = TOKENS[holder as keyof typeof granted];
        const answer = await send(node.url, path, { ...request, ...bearer(token) });
        if (access === 'open' || scopes.includes(access))
          assert.ok(![401, 403].includes(answer.status), `${holder} ${name}`);
        else assertRefused(answer, 'forbidden');
      }
    }
  });

  test('a refused request is not counted, an allowed one is', async () => {
    assertCreated(await increment(node.url, { a: 0 }, bearer(TOKENS.write)));
    const before = BigInt((await send(node.url, '/key_sum?name=a', bearer(TOKENS.read))).body);
    for (const options of [{}, bearer(GUESS), bearer(TOKENS.read)]) {
      assert.ok([401, 403].includes((await increment(node.url, { a: 1000 }, options)).status));
    }
    assertCreated(await increment(node.url, { a: 1 }, { headers: { authorization: `bEaReR   ${TOKENS.write}` } }));
    assert.equal((await send(node.url, '/key_sum?name=a', bearer(TOKENS.read))).body, String(before + 1n));
  });

  test('a request without a token learns nothing about paths and methods, and a probe still names its methods', async () => {
    for (const [method, path] of [
      ['GET', '/nothing'],
      ['PUT', '/increment'],
      ['POST', '/counters/a'],
      ['GET', '/flush'],
    ] as const) {
      assertRefused(await send(node.url, path, { method }), 'unauthorized');
      const known: ErrorCode = path === '/nothing' ? 'not-found' : 'method-not-allowed';
      for (const token of [TOKENS.write, TOKENS.read])
        assertProblem(await send(node.url, path, { method, ...bearer(token) }), known);
    }
    assertProblem(await send(node.url, '/healthz', { method: 'POST' }), 'method-not-allowed');
  });

  test('HEAD is refused like GET, without a body', async () => {
    const answer = await send(node.url, '/counters/a', { method: 'HEAD' });
    assert.deepEqual([answer.status, answer.headers['www-authenticate'], answer.body], [401, 'Bearer', '']);
  });

  test('a request is refused before its body is read, and the connection stays open', async () => {
    const connection = await RawConnection.open(node.url);
    await connection.write('POST /increment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\n');
    assert.equal((await connection.answer()).status, 401);
    await connection.write('{"a":1}');
    await connection.write(`GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    assert.equal((await connection.answer()).status, 200);
    connection.close();
  });

  test('bearer tokens of a file work like those of the variable', async () => {
    assert.equal((await send(server.url, '/counters', bearer(TOKENS.file))).status, 200);
    assertRefused(await send(server.url, '/flush', { method: 'POST', ...bearer(TOKENS.file) }), 'forbidden');
    assertRefused(await send(server.url, '/counters', bearer('of')), 'unauthorized');
  });

  test('no bearer token appears in the log or in an answer, at any log level', async () => {
    const bad = await increment(node.url, '{', bearer(TOKENS.write));
    const refused = await increment(node.url, '{}', bearer(GUESS));
    const published = [node.server.output, server.output, bad.body, refused.body].join('\n');
    assert.match(published, /Listening on/);
    for (const token of [...Object.values(TOKENS), GUESS]) assert.ok(!published.includes(token), token);
  });
});

describe('access without bearer tokens', () => {
  test('everything is open, with a warning only if others can reach the address', async () => {
    for (const [host, isWarned] of [
      ['0.0.0.0', true],
      ['127.0.0.1', false],
    ] as const) {
      // The server listens before it connects to the database, and no database is at this address.
      const env = { HOST: host, DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none', SHARDS: '1' };
      const server = await startServer({ env, until: 'Database postgresql://' });
      try {
        assert.equal(
          server.log.some(({ level, msg }) => level === 'warn' && String(msg).includes('AUTH_TOKENS')),
          isWarned,
        );
      } finally {
        await server.stop();
        await server.dispose();
      }
    }
  });

  test('a starting server answers 401 without a token, and with one 503 starting, except for metrics, version and dashboard', async (t) => {
    const env = { AUTH_TOKENS, DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none', SHARDS: '1', JOURNAL: 'memory' };
    const server = own(t, await startServer({ env, until: 'Database postgresql://' }));
    for (const { name, access, path, ...request } of requests.filter(({ name }) => name !== 'health')) {
      const answer = await send(server.url, path, { ...request, ...bearer(TOKENS.admin) });
      if (['metrics', 'version', 'dashboardEvents'].includes(name)) assert.equal(answer.status, 200, answer.body);
      else assertProblem(answer, 'starting');
      if (access !== 'open') assertRefused(await send(server.url, path, request), 'unauthorized');
    }
  });
});

describe('the Host header without bearer tokens', () => {
  const node = new SuiteServer({ ALLOWED_HOSTS: 'counters.test' });

  /** A browser sends the name of the page's origin, wherever that name points. */
  function from(host: string): { readonly headers: Readonly<Record<string, string>> } {
    return { headers: { host } };
  }

  test('a name that is neither of this machine nor in ALLOWED_HOSTS is 403 on all but the probes, and not counted', async () => {
    for (const { name, access, path, ...request } of requests) {
      const answer = await send(node.url, path, { ...request, ...from('rebound.example:3333') });
      if (access === 'open') assert.equal(answer.status, 200, name);
      else assertProblem(answer, 'forbidden');
    }
    assertProblem(await send(node.url, '/nothing', from('rebound.example')), 'forbidden');
    assertProblem(await send(node.url, '/counters/a'), 'unknown-counter');
  });

  test('addresses, localhost and names in ALLOWED_HOSTS are allowed', async () => {
    for (const host of ['127.0.0.1', '[::1]:80', 'localhost:1', 'Counters.Test']) {
      assertCreated(await increment(node.url, { named: 1 }, from(host)));
    }
    assert.equal((await send(node.url, '/key_sum?name=named')).body, '4');
  });
});
