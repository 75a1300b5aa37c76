import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { flushAll, increment, send } from '../../support/http.js';
import { runJournalCommand } from '../../support/journal-command.js';
import { assertCreated } from '../../support/problem.js';
import { startServer } from '../../support/server.js';
import { own } from '../../support/own.js';
import { SuiteServer } from '../../support/suite-server.js';

describe('npm run journal -- recount', () => {
  const SETTINGS = { JOURNAL: 'postgres', FLUSH_INTERVAL_MS: '100' };
  const node = new SuiteServer(SETTINGS);

  function recount(...args: string[]): Promise<{ readonly code: number | null; readonly output: string }> {
    return runJournalCommand(['recount', ...args], { DATABASE_URL: node.databaseUrl });
  }

  async function count(body: unknown, idempotencyKey?: string): Promise<void> {
    const headers = idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey };
    assertCreated(await increment(node.url, body, { headers }));
  }

  const flush = async (): Promise<void> => {
    await flushAll(node.url);
  };

  test('recount finds no difference after plain and idempotent requests, retries and deletes', async (t) => {
    await count({ 'page:a': 1, 'page:b': 2 });
    await count({ 'page:a': 10 }, 'one');
    await flush();
    await count({ 'page:b': 0 }, 'two');
    await count({ 'page:closed': 5 });
    assert.equal((await send(node.url, '/counters/page:closed', { method: 'DELETE' })).status, 200);
    await count({ 'page:closed': 7 });
    const other = own(t, await startServer({ env: { DATABASE_URL: node.databaseUrl, ...SETTINGS } }));
    assertCreated(await increment(other.url, { 'page:a': 10 }, { headers: { 'idempotency-key': 'one' } }));
    assertCreated(await increment(other.url, { 'page:a': 99 }, { headers: { 'idempotency-key': 'two' } }));
    assert.equal((await other.stop()).code, 0);
    await flush();
    const { code, output } = await recount();
    assert.equal(output.trim(), 'Every sum agrees with the journal.');
    assert.equal(code, 0);
  });

  test('recount lists every key whose sum differs, with --prefix only below the prefix', async () => {
    await node.execute("update counters set sum = sum + 3 where key = 'page:b'");
    await node.execute("insert into counters (key, sum) values ('other', 1)");
    await node.execute("delete from counters where key = 'page:a'");
    const { code, output } = await recount();
    assert.equal(code, 1);
    assert.deepEqual(output.trim().split('\n'), [
      '{"key":"other","stored":1,"recomputed":0}',
      '{"key":"page:a","stored":null,"recomputed":11}',
      '{"key":"page:b","stored":5,"recomputed":2}',
      '3 sums differ.',
    ]);
    const below = await recount('--prefix', 'page:c');
    assert.equal(below.code, 0, below.output);
  });

  test('recount compares nothing where the log is not complete, and names the missing LSNs', async () => {
    await node.execute('delete from increment_log where lsn = 1');
    const { code, output } = await recount();
    assert.equal(code, 2);
    assert.match(
      output,
      /^The sums cannot be recomputed:\n( {2}Stream \S+ counted LSN 1 to \d+; LSN 1 to 1 of it are no longer kept in increment_log\.\n)+$/,
    );
  });

  test('recount refuses wrong arguments', async () => {
    assert.equal((await recount('--stream', 'x')).code, 64);
    assert.equal((await runJournalCommand(['verify', '--prefix', 'x'], {})).code, 64);
    assert.equal((await runJournalCommand(['recount'], {})).code, 64);
  });
});
