/**
 * Rows that PostgreSQL does not write although it reports no error: a trigger that returns null, a row-level policy.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { before, describe, test } from 'node:test';
import { silentRowWarnings } from '#product/db/schema/silent-rows.js';
import { DELETE_COUNTER } from '#product/db/statements.js';
import { PendingSums, type FrozenRange } from '#product/shard-worker/thread/pending-sums.js';
import { connectTo } from '../../support/database.js';
import { TestShard } from '../../support/flushes.js';
import { SuiteDatabase } from '../../support/migrated-database.js';
import { idempotentEntry, incrementEntries } from '../../support/record-entries.js';

/** Makes a trigger that keeps rows from being written; `where` as of a trigger. */
function silencing(table: string, events: string, where = 'true'): readonly string[] {
  return [
    `create function silence() returns trigger language plpgsql as 'begin return null; end'`,
    `create trigger silence before ${events} on ${table} for each row when (${where}) execute function silence()`,
  ];
}

describe('Rows that PostgreSQL does not write', () => {
  const database = new SuiteDatabase();
  let shard: TestShard;

  before(() => {
    shard = database.closing(new TestShard(database.url, { applicationName: 'shard' }));
  });

  async function run(statements: readonly string[]): Promise<void> {
    for (const statement of statements) await database.query(statement);
  }

  /** Runs `work` while the trigger is there. */
  async function silenced(table: string, events: string, work: () => Promise<void>, where?: string): Promise<void> {
    await run(silencing(table, events, where));
    try {
      await work();
    } finally {
      await run([`drop trigger silence on ${table}`, 'drop function silence()']);
    }
  }

  async function rangeOf(...entries: readonly Buffer[]): Promise<FrozenRange> {
    const { stream, epoch } = await shard.newStream();
    const pendingSums = new PendingSums(stream, { epoch, lsn: 0, coveredFrom: 0 });
    const record = Buffer.concat(entries);
    pendingSums.apply(1, record, 0, record.length, 0);
    return pendingSums.freeze();
  }

  async function sumsOf(prefix: string): Promise<Record<string, string>> {
    const rows = await database.query<{ key: string; sum: string }>(
      'select key, sum::text from counters where starts_with(key, $1) order by key',
      prefix,
    );
    return Object.fromEntries(rows.map(({ key, sum }) => [key, sum]));
  }

  for (const [events, existing] of [
    ['insert', false],
    ['update', true],
  ] as const) {
    test(`keys whose ${events} a trigger drops are set aside, and the others are counted`, async () => {
      const [good, bad] = [`${events}:good`, `${events}:bad`];
      const entries = incrementEntries([
        [good, 1],
        [bad, 2],
      ]);
      if (existing) assert.equal((await shard.database.flush(await rangeOf(entries))).kind, 'committed');
      const range = await rangeOf(entries);
      await silenced(
        'counters',
        events,
        async () => {
          assert.equal((await shard.database.flush(range)).kind, 'poison');
          const committed = await shard.database.flushSettingAside(range);
          assert.ok(committed.kind === 'committed', JSON.stringify(committed));
          assert.deepEqual([committed.keys, committed.rejected, committed.rejectedKeys?.key], [1, 1, bad]);
          assert.match(
            committed.rejectedKeys?.reason ?? '',
            /^a trigger or a policy keeps the row from being written$/,
          );
        },
        `new.key = '${bad}'`,
      );
      assert.deepEqual(await sumsOf(`${events}:`), existing ? { [bad]: '2', [good]: '2' } : { [good]: '1' });
      const rows = await database.query('select amount from rejected_increments where stream = $1', range.stream);
      assert.deepEqual(rows, [{ amount: '2' }]);
    });
  }

  test('where no key is written at all, nothing is set aside, and the same range counts afterwards', async () => {
    const range = await rangeOf(incrementEntries([['all', 7]]));
    await silenced('counters', 'insert or update', async () => {
      assert.equal((await shard.database.flush(range)).kind, 'poison');
      const attempt = await shard.database.flushSettingAside(range);
      assert.ok(attempt.kind === 'refused', JSON.stringify(attempt));
      assert.match(
        String(attempt.error),
        /a trigger or a policy keeps rows of counters from being written; written: 0/,
      );
    });
    assert.equal((await shard.database.flush(range)).kind, 'committed');
    assert.deepEqual(await sumsOf('all'), { all: '7' });
  });

  test('idempotency keys that are not written are no duplicates: the flush does nothing until they are', async () => {
    const range = await rangeOf(idempotentEntry('silent', [['keys', 3]], 1));
    await silenced('idempotency_keys', 'insert', async () => {
      const attempt = await shard.database.flush(range);
      assert.ok(attempt.kind === 'refused' && attempt.mayBePoison === false, JSON.stringify(attempt));
      assert.match(String(attempt.error), /idempotency keys that are neither written nor visible: 1/);
    });
    assert.equal((await shard.database.flush(range)).kind, 'committed');
    assert.deepEqual(await sumsOf('keys'), { keys: '3' });
  });

  test('an idempotency key that another flush records meanwhile is a duplicate at the next attempt', async () => {
    const range = await rangeOf(idempotentEntry('meanwhile', [['meanwhile', 5]], 1));
    const other = database.closing(await connectTo(database.url));
    await other.query({ text: 'begin' });
    await other.query({
      text: `insert into idempotency_keys (token, digest, claimed_at) values ('meanwhile', '\\x01', now())`,
    });
    const attempt = shard.database.flush(range);
    await database.waitsForLock('shard');
    await other.query({ text: 'commit' });
    assert.equal((await attempt).kind, 'refused');
    const committed = await shard.database.flush(range);
    assert.ok(committed.kind === 'committed');
    assert.deepEqual(committed.duplicates, ['meanwhile']);
    assert.deepEqual(await sumsOf('meanwhile'), {});
  });

  test('rows that cannot be set aside keep the checkpoint where it is', async () => {
    const range = await rangeOf(incrementEntries([[Buffer.from([0x70, 0xff]), 2]]));
    await silenced('rejected_increments', 'insert', async () => {
      const attempt = await shard.database.flushSettingAside(range);
      assert.ok(attempt.kind === 'poison', JSON.stringify(attempt));
      assert.match(String(attempt.error), /rows of rejected_increments from being written; written: 0/);
    });
    assert.equal((await shard.database.flushSettingAside(range)).kind, 'committed');
  });

  test('a counter whose delete cannot be recorded stays', async () => {
    assert.equal((await shard.database.flush(await rangeOf(incrementEntries([['stays', 4]])))).kind, 'committed');
    const deleted = (): Promise<readonly unknown[]> => database.query(DELETE_COUNTER, randomUUID(), 'stays', false);
    await silenced('counter_resets', 'insert', async () => {
      await assert.rejects(deleted(), /rows of counter_resets from being written; written: 0/);
    });
    assert.deepEqual(await deleted(), [{ sum: '4' }]);
  });

  test('a start names triggers and policies that can drop rows, and not those of the product', async () => {
    const connection = database.closing(await connectTo(database.url));
    assert.deepEqual(await silentRowWarnings(connection), []);
    await silenced('counters', 'insert', async () => {
      const [warning, ...others] = await silentRowWarnings(connection);
      assert.deepEqual(others, []);
      assert.match(warning ?? '', /^The trigger silence of the table counters runs before rows are written\./);
    });
  });
});
