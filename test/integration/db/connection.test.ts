import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { classifyDatabaseError, errorCode } from '#product/db/database-errors.js';
import { connectTo, createTestDatabase } from '../../support/database.js';

/** An empty database for one test. */
async function emptyDatabase(context: TestContext): Promise<string> {
  const database = await createTestDatabase();
  context.after(() => database.drop());
  return database.url;
}

async function settingsOf(url: string): Promise<Record<string, string>> {
  const connection = await connectTo(url, 'settings');
  try {
    const rows = await connection.query<{ name: string; value: string }>({
      text: `select name, current_setting(name) as value from pg_settings where name in ('synchronous_commit',
               'default_transaction_isolation', 'lock_timeout', 'statement_timeout', 'application_name',
               'idle_in_transaction_session_timeout', 'transaction_timeout', 'tcp_keepalives_idle', 'tcp_user_timeout',
               'client_connection_check_interval')`,
    });
    const settings = Object.fromEntries(rows.map(({ name, value }) => [name, value]));
    assert.equal(settings['transaction_timeout'] ?? '1min', '1min', 'servers before 17 have none');
    delete settings['transaction_timeout'];
    assert.equal(settings['client_connection_check_interval'] ?? '10s', '10s', 'servers before 14 have none');
    delete settings['client_connection_check_interval'];
    return settings;
  } finally {
    await connection.close();
  }
}

const SETTINGS = {
  application_name: 'settings',
  default_transaction_isolation: 'read committed',
  idle_in_transaction_session_timeout: '10s',
  lock_timeout: '5s',
  statement_timeout: '30s',
  synchronous_commit: 'on',
  tcp_keepalives_idle: '10',
  tcp_user_timeout: '30000',
};

test('a session has the limits of this program whatever the database sets, and at least its durability', async (context) => {
  const url = await emptyDatabase(context);
  assert.deepEqual(await settingsOf(url), SETTINGS);
  const administrator = await connectTo(url);
  const name = new URL(url).pathname.slice(1);
  const change = (to: string): Promise<unknown> => administrator.query({ text: `alter database ${name} set ${to}` });
  await change(`default_transaction_isolation = 'serializable'`);
  await change('statement_timeout = 0');
  for (const weaker of ['off', 'local', 'remote_write']) {
    await change(`synchronous_commit = ${weaker}`);
    assert.deepEqual(await settingsOf(url), SETTINGS);
  }
  await change('synchronous_commit = remote_apply');
  assert.deepEqual(await settingsOf(url), { ...SETTINGS, synchronous_commit: 'remote_apply' });
  await administrator.close();
});

test('the end of an idle session by the server is reported once, and ends nothing else', async (context) => {
  const url = await emptyDatabase(context);
  const idle = await connectTo(url, 'idle');
  const other = await connectTo(url, 'other');
  let told = 0;
  const lost = new Promise<void>((resolve) => {
    idle.onLost(() => {
      told += 1;
      resolve();
    });
  });
  await other.query({
    text: `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'idle' and datname = current_database()`,
  });
  await lost;
  assert.equal(idle.lost, true);
  await assert.rejects(idle.query({ text: 'select 1' }), (error) => classifyDatabaseError(error) === 'retry');
  await idle.close();
  assert.deepEqual(await other.query({ text: 'select 1 as n' }), [{ n: 1 }]);
  await other.close();
  assert.equal(told, 1);
});

test("a statement that exceeds the client's limit ends its session, so that its reply is never taken for that of another", async (context) => {
  const url = await emptyDatabase(context);
  const connection = await connectTo(url);
  const slow = connection.query({ text: 'select pg_sleep(20)', timeoutMs: 100 });
  await assert.rejects(slow, (error) => classifyDatabaseError(error) === 'retry');
  assert.equal(connection.lost, true);
  await connection.close();
});

test('an unknown database and an unknown role are refused', async (context) => {
  const url = await emptyDatabase(context);
  const elsewhere = new URL(url);
  elsewhere.pathname = '/no-such-database';
  await assert.rejects(connectTo(elsewhere.href), (error) => classifyDatabaseError(error) === 'refused');
  const stranger = new URL(url);
  stranger.username = 'no-such-role';
  await assert.rejects(connectTo(stranger.href), (error) => classifyDatabaseError(error) === 'refused');
});

test('a host name that does not exist is unreachable', async () => {
  const url = 'postgres://u:p@no-such-host.invalid/d';
  await assert.rejects(connectTo(url), (error) => classifyDatabaseError(error) === 'unreachable');
});

test('a session that takes no writes is closed at its first refusal, any other after five in a row', async (context) => {
  const url = await emptyDatabase(context);
  const connection = await connectTo(url);
  const refused = async (sqlState: string, text: string): Promise<void> => {
    await assert.rejects(connection.query({ text }), (error) => errorCode(error) === sqlState);
  };
  for (let refusals = 0; refusals < 4; refusals += 1) await refused('42P01', 'select from nowhere');
  await connection.query({ text: 'select 1' });
  for (let refusals = 0; refusals < 5; refusals += 1) {
    assert.equal(connection.lost, false);
    await refused('42P01', 'select from nowhere');
  }
  assert.equal(connection.lost, true);
  await connection.close();

  const readOnly = await connectTo(url);
  await readOnly.query({ text: 'set default_transaction_read_only = on' });
  const write = readOnly.query({ text: 'create table written (n int)' });
  await assert.rejects(write, (error) => errorCode(error) === '25006');
  assert.equal(readOnly.lost, true);
  await readOnly.close();
});
