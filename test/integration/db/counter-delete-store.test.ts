import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { OnDemandConnection } from '#product/db/on-demand-connection.js';
import { CounterDeleteStore } from '#product/db/counter-delete-store.js';
import { CounterError } from '#product/core/errors.js';
import { SuiteDatabase } from '../../support/migrated-database.js';

describe('The store of deletes', () => {
  const database = new SuiteDatabase();
  let one: CounterDeleteStore;
  let other: CounterDeleteStore;

  before(() => {
    [one, other] = [storeOf('one'), storeOf('other')];
  });

  function storeOf(applicationName: string): CounterDeleteStore {
    const connection = new OnDemandConnection(parseDatabaseUrl(database.url), { applicationName });
    return new CounterDeleteStore(database.closing(connection));
  }

  async function count(key: string, sum: number): Promise<void> {
    await database.query('insert into counters (key, sum) values ($1, $2)', key, sum);
  }

  async function closingValues(key: string): Promise<string | null> {
    const [row] = await database.query<{ sum: string | null }>(
      'select sum(sum)::text as sum from counter_resets where key = $1',
      key,
    );
    return row?.sum ?? null;
  }

  test('a retry that waits for the row together with its original gets the same closing sum', async (context) => {
    const key = Buffer.from('raced');
    await count('raced', 7);
    const blocker = await database.connect(context, 'blocker');
    await blocker.query({ text: 'begin' });
    await blocker.query({ text: `select from counters where key = 'raced' for update` });
    const original = one.delete('same', key);
    await database.waitsForLock('one');
    const retry = other.delete('same', key);
    await database.waitsForLock('other');
    await blocker.query({ text: 'commit' });
    assert.deepEqual(await Promise.all([original, retry]), [7, 7]);
    assert.equal(await closingValues('raced'), '7');
  });

  test('a delete of a missing counter is remembered under the id of its request, and a retry deletes nothing', async () => {
    const key = Buffer.from('absent');
    assert.equal(await one.delete('nothing', key), undefined);
    await count('absent', 3);
    assert.equal(await other.delete('nothing', key), undefined);
    await assert.rejects(
      other.delete('nothing', Buffer.from('another')),
      (error) => error instanceof CounterError && error.code === 'idempotency-mismatch',
    );
    assert.equal(await one.delete('later', key), 3);
    assert.equal(await closingValues('absent'), '3');
  });

  test('many deletes with one id, of an existing counter or not, have one answer', async () => {
    await count('many', 11);
    for (const [key, expected] of [
      ['many', 11],
      ['none', undefined],
    ] as const) {
      const deletes = Array.from({ length: 20 }, (_, n) => (n % 2 === 0 ? one : other).delete(key, Buffer.from(key)));
      assert.deepEqual(new Set(await Promise.all(deletes)), new Set([expected]));
    }
  });

  test('a delete without an id leaves no row where there is no counter', async () => {
    assert.equal(await one.delete(undefined, Buffer.from('never')), undefined);
    const rows = await database.query(`select from counter_resets where key = 'never'`);
    assert.equal(rows.length, 0);
    await count('never', 4);
    assert.equal(await one.delete(undefined, Buffer.from('never')), 4);
  });
});
