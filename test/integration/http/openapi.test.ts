import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { api, isStream, type OperationName } from '#product/http/api.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { EventReader } from '../../support/event-reader.js';
import { eventually } from '../../support/eventually.js';
import { send, type Answer, type RequestOptions } from '../../support/http.js';
import { OpenApiConformance, type OpenApi } from '../../support/openapi-conformance.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { startServer, type ServerOptions, type TestServer } from '../../support/server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { own } from '../../support/own.js';

const ADMIN = { authorization: 'Bearer the-admin' };
const WRITER = { authorization: 'Bearer the-writer' };
const READER = { authorization: 'Bearer the-reader' };
const AUTH_TOKENS = 'admin:the-admin write:the-writer read:the-reader';
const operations = Object.keys(api) as readonly OperationName[];

interface Variation extends RequestOptions {
  /** What follows the path. */
  readonly query?: string;
  readonly key?: string;
}

/** The parts of a valid request of an operation. */
const GOOD: Readonly<Record<OperationName, Variation>> = {
  increment: { body: '{"a":1}' },
  readSum: { query: '?name=a' },
  readCounter: { key: 'a' },
  deleteCounter: { key: 'removed' },
  readCounters: {},
  watch: { query: '?key=a&key=b' },
  deleteCounterByQuery: { query: '?key=removed' },
  flush: {},
  health: {},
  readiness: {},
  metrics: {},
  dashboardEvents: {},
  version: {},
  openApi: {},
};

describe('the OpenAPI document and the server', () => {
  let database: TestDatabase;
  let server: TestServer;
  let document: OpenApi;
  let conformance: OpenApiConformance;

  before(async () => {
    database = await createTestDatabase();
    server = await start({
      env: { MAX_BODY_BYTES: '65536', MAX_PENDING_KEYS: '100', FLUSH_INTERVAL_MS: '3600000', MAX_WATCHERS: '5' },
    });
    document = JSON.parse((await send(server.url, '/openapi.json', { headers: ADMIN })).body) as OpenApi;
    conformance = new OpenApiConformance(document);
  });
  after(async () => {
    await server.dispose();
    await database.drop();
  });

  function start(options: ServerOptions): Promise<TestServer> {
    const env = { DATABASE_URL: database.url, SHARDS: '1', AUTH_TOKENS, ...options.env };
    return startServer({ ...options, env });
  }

  /** Sends a request of the operation and compares the answer with the document. */
  async function ask(name: OperationName, variation: Variation = {}, to = server): Promise<Answer> {
    const { method, path } = api[name];
    const { query, key, headers, ...options } = { ...GOOD[name], ...variation };
    const target = path.replace('{key}', key ?? '') + (query ?? '');
    const answer = await send(to.url, target, {
      method: method.toUpperCase(),
      headers: { ...ADMIN, ...headers },
      ...(isStream(name) ? { until: '\n\n' } : {}),
      ...options,
    });
    conformance.check(name, answer);
    return answer;
  }

  async function expect(status: number, name: OperationName, variation: Variation = {}, to = server): Promise<void> {
    const answer = await ask(name, variation, to);
    assert.equal(answer.status, status, `${name}: ${answer.body}`);
  }

  test('the served document and the server have the same operations', async () => {
    for (const [path, methods] of Object.entries(document.paths)) {
      const allow = new Set<string>();
      for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
        const answer = await send(server.url, path.replace('{key}', 'routed'), {
          method,
          headers: ADMIN,
          until: '\n\n',
        });
        if (answer.status === 405)
          String(answer.headers.allow)
            .split(', ')
            .forEach((name) => allow.add(name));
        const isDocumented = (method === 'HEAD' ? 'get' : method.toLowerCase()) in methods;
        assert.equal(answer.status !== 405, isDocumented, `${method} ${path}`);
      }
      const documented = Object.keys(methods).flatMap((method) =>
        method === 'get' ? ['GET', 'HEAD'] : method.toUpperCase(),
      );
      assert.deepEqual([...allow].sort(), documented.sort(), path);
    }
  });

  test('valid requests are answered as documented', async () => {
    await expect(202, 'increment', { body: '{"a":1,"removed":12345678901234}' });
    for (let times = 0; times < 2; times += 1) {
      await expect(202, 'increment', { headers: { 'idempotency-key': 'once' } });
    }
    await expect(200, 'readCounter');
    for (const name of operations.filter((name) => !['increment', 'deleteCounterByQuery'].includes(name))) {
      await expect(200, name);
    }
    await ask('increment', { body: '{"removed":5}' });
    await expect(200, 'deleteCounterByQuery');
    await expect(200, 'readCounters', { query: '?key=a' });
    await expect(200, 'readCounters', { query: '?key=never&key=a' });
    await expect(200, 'readCounters', { query: '?limit=1&prefix=a' });
  });

  test('invalid requests are answered as documented', async () => {
    await expect(400, 'increment', { body: '{"a":1.5}' });
    await expect(413, 'increment', { body: `{"${'k'.repeat(70_000)}":1}` });
    await expect(415, 'increment', { headers: { 'content-encoding': 'gzip' } });
    await expect(422, 'increment', { headers: { 'idempotency-key': 'once' }, body: '{"b":1}' });
    await expect(400, 'readSum', { query: '' });
    await expect(404, 'readSum', { query: '?name=never' });
    await expect(400, 'readCounter', { key: '%00' });
    await expect(404, 'readCounter', { key: 'never' });
    await expect(400, 'readCounters', { query: '?limit=0' });
    await expect(404, 'readCounters', { query: '?key=never' });
    await expect(400, 'watch', { query: '' });
    for (const [name, target] of [
      ['deleteCounter', (key: string) => ({ key })],
      ['deleteCounterByQuery', (key: string) => ({ query: `?key=${key}` })],
    ] as const) {
      await expect(400, name, target('%00'));
      await expect(404, name, target('never'));
      await ask('increment', { body: '{"first":1,"second":2}' });
      const headers = { 'idempotency-key': `of-${name}` };
      await expect(200, name, { ...target('first'), headers });
      await expect(200, name, { ...target('first'), headers });
      await expect(422, name, { ...target('second'), headers });
    }
  });

  test('requests without a bearer token, and with one of another scope, are answered as documented', async () => {
    for (const name of operations) {
      if (api[name].access === 'open') continue;
      await expect(401, name, { headers: { authorization: '' } });
      await expect(403, name, { headers: api[name].access === 'write' ? READER : WRITER });
    }
  });

  test('a request at a limit is answered as documented', async () => {
    await ask('flush');
    const room = JSON.stringify(Object.fromEntries(Array.from({ length: 101 }, (_, index) => [`bound-${index}`, 1])));
    const refused = await ask('increment', { body: room });
    assert.equal((JSON.parse(refused.body) as { code: string }).code, 'overloaded');
    const watching: EventReader[] = [];
    await eventually('MAX_WATCHERS streams are open', async () => {
      const opened = await EventReader.open(server.url, '/watch?key=a', ADMIN).catch(() => undefined);
      if (opened !== undefined) watching.push(opened);
      return watching.length === 5;
    });
    await expect(503, 'watch');
    await expect(503, 'dashboardEvents');
    for (const reader of watching) reader.close();
  });

  test('a starting server answers as documented', async (t) => {
    const env = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none', JOURNAL: 'memory' };
    const starting = own(t, await start({ env, until: 'Database postgresql://' }));
    const always: readonly OperationName[] = ['health', 'metrics', 'dashboardEvents', 'version'];
    for (const name of operations) await expect(always.includes(name) ? 200 : 503, name, {}, starting);
  });

  test('a server without its database answers as documented', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    await postgres.start();
    const apart = own(t, await start({ env: { DATABASE_URL: postgres.url } }));
    await expect(200, 'readiness', {}, apart);
    await expect(202, 'increment', {}, apart);
    await postgres.stop('fast');
    await eventually('degraded', async () => (await ask('readiness', {}, apart)).body.includes('degraded'));
    await expect(200, 'readiness', {}, apart);
    await expect(202, 'increment', {}, apart);
    for (const name of [
      'readSum',
      'readCounter',
      'readCounters',
      'deleteCounter',
      'deleteCounterByQuery',
      'flush',
    ] as const) {
      await expect(503, name, {}, apart);
    }
  });

  test('a request whose outcome is not known in time is answered as documented', async (t) => {
    const hasty = own(t, await start({ env: { ACK_TIMEOUT_MS: '10', MAX_BODY_BYTES: '1MiB' } }));
    const body = JSON.stringify(
      Object.fromEntries(Array.from({ length: 30_000 }, (_, index) => [`hasty-${index}`, 1])),
    );
    await eventually('a request takes longer than 10 ms', async () => {
      const answers = await Promise.all(Array.from({ length: 8 }, () => ask('increment', { body }, hasty)));
      return answers.some(({ status }) => status === 500);
    });
  });

  test('a delete whose reply from the database is lost is answered as documented', async (t) => {
    const proxy = own(t, await TcpProxy.start(database.url));
    const remote = own(t, await start({ env: { DATABASE_URL: proxy.urlOf(database.url) } }));
    for (const [name, key] of [
      ['deleteCounter', 'lost-1'],
      ['deleteCounterByQuery', 'lost-2'],
    ] as const) {
      await ask('increment', { body: JSON.stringify({ [key]: 7 }) }, remote);
      await ask('flush', {}, remote);
      proxy.setRule((bytes) => (bytes.includes('delete from counters') ? 'lose-answer' : 'forward'));
      const target = name === 'deleteCounter' ? { key } : { query: `?key=${key}` };
      const headers = { 'idempotency-key': `of-${key}` };
      await expect(500, name, { ...target, headers }, remote);
      proxy.setRule();
      const again = await ask(name, { ...target, headers }, remote);
      assert.deepEqual([again.status, again.body], [200, `{"key":"${key}","sum":7}`]);
    }
  });

  test('the tests above met every documented response of every operation', () => {
    assert.deepEqual(conformance.unmet, []);
    assert.ok(conformance.documented.length > 40);
  });
});
