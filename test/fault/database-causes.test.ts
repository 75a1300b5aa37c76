/** What the log says while PostgreSQL is unavailable: why, when the cause changes, and for how long. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runStatements } from '../support/database-connection.js';
import { createTestDatabase, testServerUrl } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { createMigratedDatabase } from '../support/flushes.js';
import { increment, send } from '../support/http.js';
import { assertCreated } from '../support/problem.js';
import { startServer, type TestServer } from '../support/server.js';
import { assertCleanStop, committedSums } from '../support/suite-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const KEYS = Array.from({ length: 40 }, (_, n) => `key ${n}`);
const SHARDS = [0, 1, 2, 3];

function said(server: TestServer): readonly (readonly [unknown, unknown])[] {
  return server.log.flatMap(({ msg, cause, shards }) =>
    /^PostgreSQL (still )?unavailable/.test(String(msg)) ? [[cause, shards] as const] : [],
  );
}

test(
  'an outage of four shards is one line for each cause, and its end says how long it was and how much waited',
  { timeout: 240_000 },
  async () => {
    const database = await createTestDatabase();
    const adminUrl = await testServerUrl();
    const role = new URL(database.url).pathname.slice(1);
    await runStatements(adminUrl, `create role ${role} login password 'of-this-test'`);
    await runStatements(database.url, `alter database ${role} owner to ${role}; alter schema public owner to ${role}`);
    const proxy = await TcpProxy.start(database.url);
    const url = new URL(proxy.urlOf(database.url));
    [url.username, url.password] = [role, 'of-this-test'];
    const server = await startServer({ env: { DATABASE_URL: url.href, SHARDS: '4', FLUSH_INTERVAL_MS: '50' } });
    try {
      const post = async (): Promise<void> =>
        assertCreated(await increment(server.url, Object.fromEntries(KEYS.map((key) => [key, 1]))));
      await post();
      assert.equal((await send(server.url, '/flush', { method: 'POST' })).status, 200);
      await proxy.refuse();
      await post();
      const named = (cause: string): Promise<unknown> =>
        eventually(cause, () => Promise.resolve(said(server).some(([name]) => name === cause)));
      await named('connection-refused');
      await runStatements(adminUrl, `alter role ${role} nologin`);
      await proxy.accept();
      await named('login-refused');
      await runStatements(adminUrl, `alter role ${role} login connection limit 0`);
      await named('too-many-connections');
      await runStatements(
        adminUrl,
        `alter database ${role} rename to ${role}_elsewhere; alter role ${role} connection limit -1`,
      );
      await named('no-such-database');
      await runStatements(adminUrl, `alter database ${role}_elsewhere rename to ${role}`);
      await server.waitFor('"msg":"PostgreSQL available again after ');
      assert.deepEqual(said(server), [
        ['connection-refused', SHARDS],
        ['login-refused', SHARDS],
        ['too-many-connections', SHARDS],
        ['no-such-database', SHARDS],
      ]);
      const again = server.log.filter(({ msg }) => String(msg).startsWith('PostgreSQL available again'));
      assert.equal(again.length, 1);
      assert.deepEqual([again[0]?.['shards'], again[0]?.['pending']], [SHARDS, KEYS.length]);
      assert.match(
        server.output,
        /PostgreSQL unavailable; buffering increments in the journal \(reason: no server listens/,
      );
      assert.match(
        server.output,
        /still unavailable after [\d.]+ s, now for another reason; .*is not permitted to log in/,
      );
      await assertCleanStop(server);
      assert.deepEqual(await committedSums(database.url), new Map(KEYS.map((key) => [key, 2n])));
    } finally {
      await server.dispose();
      await proxy.close();
      await runStatements(database.url, `reassign owned by ${role} to current_user; drop owned by ${role}`);
      await database.drop();
      await runStatements(adminUrl, `drop role ${role}`);
    }
  },
);

test(
  'a start without the database logs the cause once, whatever the number of shards',
  { timeout: 240_000 },
  async () => {
    // With its tables, so that no shard finds the database back before they are made, which is a cause of its own.
    const database = await createMigratedDatabase();
    const proxy = await TcpProxy.start(database.url);
    await proxy.refuse();
    const server = await startServer({ env: { DATABASE_URL: proxy.urlOf(database.url), SHARDS: '4' } });
    try {
      await server.waitFor('"msg":"PostgreSQL unavailable');
      assertCreated(await increment(server.url, { early: 1 }));
      await proxy.accept();
      await server.waitFor('"msg":"PostgreSQL available again');
      await eventually('ready', async () => (await send(server.url, '/readyz')).body === '{"status":"ok"}');
      assert.deepEqual(
        said(server).map(([cause]) => cause),
        ['connection-refused'],
      );
      assert.equal(server.output.split('ECONNREFUSED').length - 1, 1, server.output);
      await assertCleanStop(server);
    } finally {
      await server.dispose();
      await proxy.close();
      await database.drop();
    }
  },
);
