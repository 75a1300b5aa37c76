import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import { connectTo, createTestDatabase, testServerUrl } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { increment, send } from '../../support/http.js';
import { freePort } from '../../support/free-port.js';
import { OutagePostgres } from '../../support/outage-postgres.js';
import { assertCreated, assertProblem } from '../../support/problem.js';
import { spawnServer, startServer, type TestServer } from '../../support/server.js';
import { assertCleanStop, committedSums, serves } from '../../support/suite-server.js';
import { own, ownNode, refusedStart } from '../../support/own.js';
import { runStatements } from '../../support/database-connection.js';

/** The last lines of the process on standard error, without its name. */
function sentences(output: string): string[] {
  const prefix = 'summing-counters: ';
  return output.split('\n').flatMap((line) => (line.startsWith(prefix) ? line.slice(prefix.length) : []));
}

/** Starts a server that must end with 78 and one sentence. */
async function assertRefused(databaseUrl: string, sentence: RegExp): Promise<void> {
  const server = await refusedStart({ DATABASE_URL: databaseUrl, SHARDS: '1' }, 78);
  const said = sentences(server.output);
  assert.equal(said.length, 1, server.output);
  assert.match(said[0] ?? '', sentence);
  assert.match(said[0] ?? '', /^[A-Z].*[^.]\.$/);
  const { password } = new URL(databaseUrl);
  assert.ok(password !== '' && !server.output.includes(password), 'the password is not printed');
}

describe('a database that refuses the server', { concurrency: 2 }, () => {
  test('a wrong password ends the start with 78', async () => {
    const url = new URL(await testServerUrl());
    url.password = 'not-the-password';
    await assertRefused(url.href, /password authentication failed/);
  });

  test('an unknown database name ends the start with 78', async () => {
    const url = new URL(await testServerUrl());
    url.pathname = '/no_such_database';
    await assertRefused(url.href, /no_such_database/);
  });

  test('an encoding other than UTF8 ends the start with 78', async (t) => {
    const { url } = own(t, await createTestDatabase(`encoding 'SQL_ASCII' locale 'C' template template0`));
    await assertRefused(url, /SQL_ASCII.*UTF8/);
  });

  test('a foreign counters table ends the start with 78 and stays unchanged', async (t) => {
    const { url } = own(t, await createTestDatabase());
    await runStatements(url, 'create table counters (id int primary key, value text)');
    await assertRefused(url, /counters/);
    await runStatements(url, `insert into counters (id, value) values (1, 'still there')`);
  });

  test('a schema made by a newer server ends the start with 78', async (t) => {
    const { server, databaseUrl } = await ownNode(t, { SHARDS: '1' });
    await assertCleanStop(server);
    await runStatements(
      databaseUrl,
      `insert into summing_counters_migrations (version, name) values (999, 'of the future')`,
    );
    await assertRefused(databaseUrl, /999.*newer/);
  });

  test('a role without permission to create tables ends the start with 78', async (t) => {
    const { url } = own(t, await createTestDatabase());
    const asRole = new URL(url);
    const role = asRole.pathname.slice(1);
    await runStatements(url, `create role ${role} login password 'of-no-rights'`);
    own(t, { close: () => runStatements(url, `drop role ${role}`) });
    // Before version 15 every role may create tables.
    await runStatements(url, 'revoke create on schema public from public');
    asRole.username = role;
    asRole.password = 'of-no-rights';
    await assertRefused(asRole.href, /permission denied/);
  });
});

describe('the table of the original application, in use while it is adopted', { concurrency: 2 }, () => {
  const upsert = `insert into counters (key, sum) values ('o', 1) on conflict (key) do update set sum = counters.sum + 1`;

  /** Starts a server while a report reads the table and the original writes to it. */
  async function adopt(
    t: TestContext,
    JOURNAL: 'file' | 'memory',
    whileBusy: (server: TestServer) => Promise<void>,
  ): Promise<void> {
    const { url } = own(t, await createTestDatabase());
    await runStatements(url, 'create table counters (key varchar(120) primary key, sum integer)');
    const report = own(t, await connectTo(url, 'report'));
    const original = own(t, await connectTo(url, 'original'));
    // The limit of our connections would end it on a slow machine.
    await report.query({ text: 'set idle_in_transaction_session_timeout = 0' });
    await report.query({ text: 'begin; select count(*) from counters' });
    const server = own(t, await spawnServer({ env: { SHARDS: '1', DATABASE_URL: url, JOURNAL } }));
    await server.waitFor('Other sessions use the tables');
    assert.match(server.output, /counters is in use by process \d+ \(report\)/);
    let slowestMs = 0;
    for (let times = 0; times < 100; times += 1) {
      const startedAt = performance.now();
      await original.query({ text: upsert });
      slowestMs = Math.max(slowestMs, performance.now() - startedAt);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.ok(slowestMs < 1500, `a write of the original took ${slowestMs} ms`);
    await whileBusy(server);
    await report.query({ text: 'commit' });
    await eventually('ready', async () => (await send(server.url, '/readyz')).body === '{"status":"ok"}');
    await original.query({ text: upsert });
    assertCreated(await increment(server.url, { o: 1000 }));
    await assertCleanStop(server);
    assert.equal((await committedSums(url)).get('o'), 1101n);
  }

  test('while the original application holds its table, its writes continue, the log names it, increments are journaled, and the table is adopted later', (t) =>
    adopt(t, 'file', async ({ url }) => {
      await eventually('degraded', async () => (await send(url, '/readyz')).body.includes('"status":"degraded"'));
      assertCreated(await increment(url, { early: 1 }));
    }));

  test('with the memory journal the start waits for the table and logs it', (t) =>
    adopt(t, 'memory', async ({ url }) => {
      assertProblem(await send(url, '/readyz'), 'starting');
      assertProblem(await increment(url, { early: 1 }), 'starting');
    }));
});

describe('a database that is unavailable at the start', { concurrency: 3 }, () => {
  test('with the memory journal the start fails after 30 s with a non-zero code and a sentence', async () => {
    const startedAt = performance.now();
    const DATABASE_URL = `postgres://u:secret@127.0.0.1:${await freePort()}/d`;
    const { output } = await refusedStart({ SHARDS: '1', DATABASE_URL, JOURNAL: 'memory' }, 1);
    const seconds = (performance.now() - startedAt) / 1000;
    assert.ok(seconds > 29 && seconds < 120, `it ended after ${seconds} s`);
    assert.match(sentences(output).join('\n'), /^The database is unavailable: .*ECONNREFUSED.*\.$/);
    assert.ok(!output.includes('secret'));
  });

  test('with the memory journal the start waits for the database: /healthz is 200, everything else 503 starting, then ready', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    const env = { DATABASE_URL: postgres.url, JOURNAL: 'memory', SHARDS: '1' };
    const server = own(t, await spawnServer({ env }));
    await server.waitFor('"msg":"Listening on ');
    assert.deepEqual(
      [(await send(server.url, '/healthz')).status, (await send(server.url, '/healthz')).body],
      [200, 'ok'],
    );
    for (const path of ['/readyz', '/counters/a', '/counters?key=a', '/key_sum?name=a', '/key_sum', '/watch?key=a']) {
      assertProblem(await send(server.url, path), 'starting');
    }
    assertProblem(await increment(server.url, { early: 1 }), 'starting');
    assertProblem(await increment(server.url, 'not even JSON'), 'starting');
    assert.equal((await send(server.url, '/dashboard/events', { method: 'HEAD' })).status, 200);
    assertProblem(await send(server.url, '/flush', { method: 'POST' }), 'starting');
    await postgres.start();
    await server.waitFor('"msg":"Ready"');
    assert.deepEqual(
      [(await send(server.url, '/readyz')).status, (await send(server.url, '/readyz')).body],
      [200, '{"status":"ok"}'],
    );
    assertCreated(await increment(server.url, { late: 1 }));
    await assertCleanStop(server);
    assert.deepEqual(await committedSums(postgres.url), new Map([['late', 1n]]));
  });

  test('with the file journal increments are taken, /readyz is degraded, and everything is committed when the database answers', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    const env = { DATABASE_URL: postgres.url, JOURNAL: 'file', SHARDS: '2' };
    const server = own(t, await spawnServer({ env }));
    await server.waitFor('"msg":"Ready"');
    const readiness = await send(server.url, '/readyz');
    assert.equal(readiness.status, 200);
    assert.equal((JSON.parse(readiness.body) as { status?: unknown }).status, 'degraded');
    assertCreated(await increment(server.url, { before: 1, first: 2 }));
    assertProblem(await send(server.url, '/key_sum?name=before'), 'database-unavailable');
    assertProblem(await send(server.url, '/flush', { method: 'POST' }), 'database-unavailable');
    await postgres.start();
    await eventually('ready', async () => (await send(server.url, '/readyz')).body === '{"status":"ok"}');
    assertCreated(await increment(server.url, { before: 10 }));
    assert.equal((await send(server.url, '/key_sum?name=before')).body, '11');
    await assertCleanStop(server);
    const sums = new Map([
      ['before', 11n],
      ['first', 2n],
    ]);
    assert.deepEqual(await committedSums(postgres.url), sums);
  });

  test('with the file journal a stop without the database keeps pending increments for the next start', async (t) => {
    const postgres = own(t, await OutagePostgres.prepare());
    const env = { DATABASE_URL: postgres.url, JOURNAL: 'file', SHARDS: '1' };
    const first = own(t, await startServer({ env }));
    assertCreated(await increment(first.url, { kept: 3 }));
    assert.deepEqual(await first.stop(), { code: 0, signal: null }, first.output);
    assert.match(first.output, /1 acknowledged increments stay in the journal for the next start/);
    await postgres.start();
    const second = await startServer({ env, dataDir: first.dataDir });
    await serves(second);
    assert.equal((await send(second.url, '/key_sum?name=kept')).body, '3');
    await assertCleanStop(second);
    assert.deepEqual(await committedSums(postgres.url), new Map([['kept', 3n]]));
  });
});
