/**
 * Rows that PostgreSQL refuses although the server accepted them: they are set aside and do not delay others.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readCountedSums } from '../support/counted-sums.js';
import { runStatements } from '../support/database-connection.js';
import { connectTo } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { checkHistory } from '../support/history/check-history.js';
import { flushAll, increment, send } from '../support/http.js';
import { runJournalCommand, type CommandOutcome } from '../support/journal-command.js';
import { startServer, temporaryDirectory } from '../support/server.js';
import { committedSums } from '../support/suite-server.js';
import { CLEAN, NEVER_MS, testNode } from '../support/node-test.js';
import { rowsOf } from '../support/journal-servers.js';

const CHECK = `alter table counters add constraint not_poison check (key not like 'poison%')`;
const TRIGGER = `
  create function refuse_poison() returns trigger language plpgsql as $$
  begin
    if new.key like 'poison%' then raise exception 'numeric value out of range' using errcode = '22003'; end if;
    return new;
  end $$;
  create trigger refuse_poison before insert or update on counters for each row execute function refuse_poison()`;

/** As most triggers do it: without an SQLSTATE, which is then P0001. */
const PLAIN_TRIGGER = TRIGGER.replace(` using errcode = '22003'`, '');

/** PostgreSQL asks it at the commit only, where no row is left to blame. */
const DEFERRED_TRIGGER = PLAIN_TRIGGER.replace(
  'create trigger refuse_poison before insert or update on counters',
  'create constraint trigger refuse_poison after insert or update on counters deferrable initially deferred',
);

for (const [how, statements, sqlState] of [
  ['a constraint', CHECK, '23514'],
  ['a trigger', TRIGGER, '22003'],
  ['a trigger without an SQLSTATE', PLAIN_TRIGGER, 'P0001'],
  ['a deferred trigger', DEFERRED_TRIGGER, 'P0001'],
] as const) {
  testNode(
    `rows that ${how} refuses are stored with the reason, and all others are counted`,
    { FLUSH_INTERVAL_MS: '50' },
    async ({ node, databaseUrl }) => {
      const server = await node.start();
      const load = node.load();
      await load.acknowledgements(100);
      await runStatements(databaseUrl, statements);
      for (let index = 0; index < 3; index += 1) {
        assert.equal((await increment(node.url, { [`poison ${index}`]: 7, [`also poison ${index}`]: 0 })).status, 202);
        await load.acknowledgements(50);
      }
      await load.stop();
      await node.flush();
      const ready = await send(node.url, '/readyz');
      assert.equal(
        ready.body,
        '{"status":"ok","reason":"3 increments of rejected rows are kept in rejected_increments."}',
      );
      assert.deepEqual(await server.stop(), { code: 1, signal: null }, server.output);
      assert.match(server.output, /"rejected":3/, 'the balance at the end counts them');
      assert.match(
        server.output,
        /3 increments of rejected rows are kept in rejected_increments and not counted; list/,
      );
      assert.match(server.output, /Everything else that was acknowledged is committed/);
      const lines = server.log.filter(({ msg }) => String(msg).startsWith('PostgreSQL refused'));
      assert.ok(lines.length > 0);
      for (const line of lines) assert.deepEqual([line['level'], line['sqlState']], ['error', sqlState]);
      assert.match(String(lines[0]?.['key']), /^poison \d$/);
      assert.equal(
        lines.reduce((total, line) => total + Number(line['increments']), 0),
        3,
      );
      const { sums } = await readCountedSums(databaseUrl);
      const others = new Map([...sums].filter(([key]) => !key.startsWith('also poison')));
      assert.equal(others.size, sums.size - 3);
      assert.deepEqual(checkHistory(node.history.operations, others), []);
      assert.deepEqual(await rejectedRows(databaseUrl), [
        { key: 'poison 0', amount: '7', sqlstate: sqlState },
        { key: 'poison 1', amount: '7', sqlstate: sqlState },
        { key: 'poison 2', amount: '7', sqlstate: sqlState },
      ]);
    },
  );
}

testNode(
  'rows that are set aside by a flush whose reply is lost are reported like others',
  { SHARDS: '1', FLUSH_INTERVAL_MS: NEVER_MS },
  async ({ node, databaseUrl, proxy }) => {
    const server = await node.start();
    await runStatements(databaseUrl, CHECK);
    assert.equal((await increment(node.url, { 'poison a': 7, good: 1 })).status, 202);
    // The statement of such a flush has no name, and contains its text.
    proxy.setRule((bytes) =>
      bytes.includes('insert into rejected_increments') && proxy.faults === 0 ? 'lose-answer' : 'forward',
    );
    await send(node.url, '/flush', { method: 'POST' });
    await eventually('the flush is known to be committed', async () =>
      (await send(node.url, '/readyz')).body.includes('1 increment of rejected rows is kept'),
    );
    assert.equal(proxy.faults, 1);
    assert.deepEqual(await server.stop(), { code: 1, signal: null }, server.output);
    assert.match(server.output, /PostgreSQL refused/);
    assert.deepEqual(await committedSums(databaseUrl), new Map([['good', 1n]]));
    assert.deepEqual(await rejectedRows(databaseUrl), [{ key: 'poison a', amount: '7', sqlstate: '23514' }]);
  },
);

testNode(
  'npm run journal -- rejected lists refused rows, and --retry counts each once when its cause is gone',
  { FLUSH_INTERVAL_MS: '50' },
  async ({ node, databaseUrl }) => {
    await node.start();
    await runStatements(databaseUrl, PLAIN_TRIGGER);
    assert.equal((await increment(node.url, { 'poison a': 7, good: 1 })).status, 202);
    const headers = { 'idempotency-key': 'once' };
    assert.equal((await increment(node.url, { 'poison a': 5, 'poison b': -3 }, { headers })).status, 202);
    await flushAll(node.url);
    await runStatements(
      databaseUrl,
      `insert into rejected_increments (stream, key, amount, reason, sqlstate)
       values (gen_random_uuid(), '\\x70ff', '4', 'old', '22021'), (gen_random_uuid(), 'fine', '90071992547409930', 'old', '23514')`,
    );

    const listed = await journal(databaseUrl, 'rejected');
    assert.equal(listed.code, 1, listed.output);
    const rows = listed.output
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    assert.deepEqual(rows.map(({ key, keyHex, amount, sqlstate }) => [key ?? keyHex, amount, sqlstate]).sort(), [
      ['70ff', '4', '22021'],
      ['fine', '90071992547409930', '23514'],
      ['poison a', '5', 'P0001'],
      ['poison a', '7', 'P0001'],
      ['poison b', '-3', 'P0001'],
    ]);

    const refused = await journal(databaseUrl, 'rejected', '--retry');
    assert.deepEqual([refused.code, refused.output], [1, '1 row counted, 4 rows refused again.\n']);
    const again = await Promise.all([0, 1, 2].map(() => journal(databaseUrl, 'rejected', '--retry')));
    for (const { code } of again) assert.equal(code, 1);
    await runStatements(databaseUrl, 'drop trigger refuse_poison on counters');
    const both = await Promise.all([0, 1].map(() => journal(databaseUrl, 'rejected', '--retry')));
    for (const { code, output } of both) assert.equal(code, 1, output);
    assert.deepEqual(
      await committedSums(databaseUrl),
      new Map([
        ['good', 1n],
        ['fine', 90071992547409930n],
        ['poison a', 12n],
        ['poison b', -3n],
      ]),
    );
    const left = JSON.parse((await journal(databaseUrl, 'rejected')).output) as Record<string, unknown>;
    assert.deepEqual([left['keyHex'], left['sqlstate']], ['70ff', '22021']);
    assert.match(String(left['reason']), /invalid byte sequence/);
    await runStatements(databaseUrl, 'delete from rejected_increments');
    const none = await journal(databaseUrl, 'rejected');
    assert.deepEqual([none.code, none.output], [0, 'There are no rejected rows.\n']);
    await retryBesideLock(databaseUrl);
    assert.equal((await journal(databaseUrl, 'verify', '--retry')).code, 64);
    assert.equal((await journal('postgres://u:p@127.0.0.1:1/d', 'rejected')).code, 75);
  },
);

test('without DATABASE_URL, npm run journal -- rejected uses the embedded database of a running server', async () => {
  const dataDir = await temporaryDirectory();
  const server = await startServer({ dataDir, env: { DATABASE_URL: '' } });
  try {
    const running = await journal('', 'rejected', '--data-dir', dataDir);
    assert.deepEqual([running.code, running.output], [0, 'There are no rejected rows.\n']);
    assert.deepEqual(await server.stop(), CLEAN, server.output);
    const stopped = await journal('', 'rejected', '--data-dir', dataDir);
    assert.equal(stopped.code, 64);
    assert.match(stopped.output, /needs DATABASE_URL, or a running server/);
  } finally {
    await server.dispose();
  }
});

function journal(databaseUrl: string, ...args: readonly string[]): Promise<CommandOutcome> {
  return runJournalCommand(args, { DATABASE_URL: databaseUrl });
}

/** A row that another session locks is neither counted nor refused. */
async function retryBesideLock(url: string): Promise<void> {
  await runStatements(
    url,
    `insert into rejected_increments (stream, key, amount, reason, sqlstate)
     values (gen_random_uuid(), 'good', '1', 'old', '23514')`,
  );
  const other = await connectTo(url);
  try {
    await other.query({ text: 'set idle_in_transaction_session_timeout = 0' });
    await other.query({ text: 'begin' });
    await other.query({ text: `select from counters where key = 'good' for update` });
    const locked = await journal(url, 'rejected', '--retry');
    const said =
      '0 rows counted, 0 rows refused again.\n1 row could not be tried because of a lock or a timeout: run the command again.\n';
    assert.deepEqual([locked.code, locked.output], [1, said]);
  } finally {
    await other.close();
  }
  const retried = await journal(url, 'rejected', '--retry');
  assert.deepEqual([retried.code, retried.output], [0, '1 row counted, 0 rows refused again.\n']);
}

function rejectedRows(url: string): Promise<readonly Record<string, unknown>[]> {
  return rowsOf(url, `select convert_from(key, 'UTF8') as key, amount, sqlstate from rejected_increments order by key`);
}
