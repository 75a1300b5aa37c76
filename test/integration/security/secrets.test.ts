import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { eventually } from '../../support/eventually.js';
import { increment, send, type RequestOptions } from '../../support/http.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { startServer, type TestServer } from '../../support/server.js';
import { own, refusedStart } from '../../support/own.js';
import { testServerUrl } from '../../support/database.js';

const TOKENS = ['secret-writer-1f3870be', 'secret-reader-274b2a01', 'secret-admin-8dd5a1c4'] as const;
const AUTH_TOKENS = `write:${TOKENS[0]} read:${TOKENS[1]} admin:${TOKENS[2]}`;
const WRONG_TOKEN = 'secret-guess-9b74c989';
const WRONG_PASSWORD = 'secret-password-c9f0f895';

function assertNone(text: string, secrets: readonly string[]): void {
  for (const secret of secrets) assert.ok(!text.includes(secret), `found in:\n${text}`);
}

describe('secrets', () => {
  test('no answer or log line has a bearer token or password, through an outage, invalid requests and the stop', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    await postgres.start();
    const password = new URL(postgres.url).password;
    assert.ok(password.length >= 16);
    const env = { DATABASE_URL: postgres.url, AUTH_TOKENS, SHARDS: '1', LOG_LEVEL: 'trace', FLUSH_INTERVAL_MS: '50' };
    const server = own(t, await startServer({ env }));
    const said: string[] = [];
    const ask = async (path: string, token: string, options: RequestOptions = {}): Promise<number> => {
      const answer = await send(server.url, path, { ...options, headers: { authorization: `Bearer ${token}` } });
      said.push(JSON.stringify(answer.headers), answer.body);
      return answer.status;
    };
    const post = { method: 'POST' };
    assert.equal(await ask('/increment', TOKENS[0], { ...post, body: '{"a":1}' }), 202);
    assert.equal(await ask('/increment', TOKENS[0], { ...post, body: '{"a":' }), 400);
    assert.equal(await ask('/increment', TOKENS[1], { ...post, body: '{"a":1}' }), 403);
    assert.equal(await ask('/increment', WRONG_TOKEN, { ...post, body: '{"a":1}' }), 401);
    for (const path of ['/', '/metrics', '/openapi.json', '/counters', '/nothing', '/readyz'])
      await ask(path, TOKENS[2]);
    await postgres.stop('crash');
    assert.equal(await ask('/increment', TOKENS[0], { ...post, body: '{"a":1}' }), 202);
    await server.waitFor('PostgreSQL unavailable');
    assert.equal(await ask('/flush', TOKENS[2], post), 503);
    assert.equal(await ask('/counters/a', TOKENS[1]), 503);
    await postgres.start();
    await eventually('the database is back', async () => (await ask('/flush', TOKENS[2], post)) === 200);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    assert.match(server.output, /"level":"debug"|"level":"info"/);
    assertNone([server.output, ...said].join('\n'), [...TOKENS, WRONG_TOKEN, password]);
  });

  test('a wrong password ends the start with 78 and is in no message, nor is one in an invalid URL', async () => {
    const wrong = new URL(await testServerUrl());
    wrong.password = WRONG_PASSWORD;
    const urls = [
      wrong.href,
      wrong.href.replace(wrong.host, `${wrong.host},${wrong.host}`),
      `postgres://user:${WRONG_PASSWORD}@host,other:notaport/db`,
      `postgres://user:${WRONG_PASSWORD}@host:notaport/db`,
      `mysql://user:${WRONG_PASSWORD}@host/db`,
    ];
    for (const DATABASE_URL of urls) {
      const { output } = await refusedStart({ DATABASE_URL, SHARDS: '1', LOG_LEVEL: 'trace' }, 78);
      assertNone(output, [WRONG_PASSWORD]);
    }
  });

  test('malformed bearer tokens end the start with 78; messages name only their position', async () => {
    for (const [text, place] of [
      [`write:${TOKENS[0]} owner:${TOKENS[1]}`, /entry 2/],
      [TOKENS[0], /entry 1/],
      [`write:${TOKENS[0]}"`, /entry 1/],
    ] as const) {
      const { output } = await refusedStart({ AUTH_TOKENS: text }, 78, place);
      assertNone(output, TOKENS);
    }
  });
});

describe('secrets and an embedded database', () => {
  let server: TestServer;
  before(async () => {
    const env = { AUTH_TOKENS, SUMMING_COUNTERS_TOKEN: TOKENS[1], SHARDS: '1', LOG_LEVEL: 'trace' };
    server = await startServer({ env });
  });
  after(() => server.dispose());

  test('no setting is in the environment of the processes of an embedded PostgreSQL', async (t) => {
    if (process.platform !== 'linux') {
      // Other systems do not show the environment of a process of another user.
      t.skip('only Linux has /proc, where the environment of PostgreSQL is read');
      return;
    }
    const postmaster = Number(server.log.find(({ msg }) => msg === 'Embedded PostgreSQL is running')?.['pid']);
    const children = await readFile(`/proc/${postmaster}/task/${postmaster}/children`, 'utf8');
    const processes = [postmaster, ...children.trim().split(' ').map(Number)];
    assert.ok(processes.length > 4, String(processes));
    for (const pid of processes) {
      const environment = await readFile(`/proc/${pid}/environ`, 'utf8');
      // Processes of PostgreSQL other than the first show their title there.
      if (pid === postmaster) assert.match(environment, /(^|\0)PATH=/);
      assertNone(environment, TOKENS);
      assert.doesNotMatch(environment, /(^|\0)(AUTH_TOKENS|SHARDS|LOG_LEVEL|DATA_DIR)=/);
    }
  });

  test('an embedded database has a password, which is not in the log', async () => {
    const headers = { authorization: `Bearer ${TOKENS[0]}` };
    assert.equal((await increment(server.url, { a: 1 }, { headers })).status, 202);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    assert.doesNotMatch(server.output, /postgres(ql)?:\/\/[^/\s"]*:[^*/\s"][^/\s"]*@/);
    assert.doesNotMatch(server.output, /password["']?\s*[:=]/i);
  });
});
