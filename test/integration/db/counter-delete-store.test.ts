import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { parseDatabaseUrl, type DatabaseConnection } from '#product/db/connection.js';
import { OnDemandConnection } from '#product/db/on-demand-connection.js';
import { CounterDeleteStore } from '#product/db/counter-delete-store.js';
import { CounterError } from '#product/core/errors.js';
import { connectTo, type TestDatabase } from '../../support/database.js';
import { eventually } from '../../support/eventually.js';
import { createMigratedDatabase } from '../../support/flushes.js';

let database: TestDatabase;
let observer: DatabaseConnection;
let nodes: readonly [OnDemandConnection, OnDemandConnection];
let one: CounterDeleteStore;
let other: CounterDeleteStore;

before(async () => {
  database = await createMigratedDatabase();
  observer = await connectTo(database.url, 'observer');
  const target = parseDatabaseUrl(database.url);
  nodes = [
    new OnDemandConnection(target, { applicationName: 'one' }),
    new OnDemandConnection(target, { applicationName: 'other' }),
  ];
  [one, other] = [new CounterDeleteStore(nodes[0]), new CounterDeleteStore(nodes[1])];
});

after(async () => {
  await Promise.all(nodes.map((node) => node.close()));
  await observer.close();
  await database.drop();
});

async function count(key: string, sum: number): Promise<void> {
  await observer.query({ text: 'insert into counters (key, sum) values ($1, $2)', values: [key, sum] });
}

async function waitUntilWaiting(applicationName: string): Promise<void> {
  await eventually(`${applicationName} waits for a lock`, async () => {
    const rows = await observer.query({
      text: `select 1 from pg_stat_activity
             where application_name = $1 and wait_event_type = 'Lock' and datname = current_database()`,
      values: [applicationName],
    });
    return rows.length === 1;
  });
}

async function closingValues(key: string): Promise<string | null> {
  const [row] = await observer.query<{ sum: string | null }>({
    text: 'select sum(sum)::text as sum from counter_resets where key = $1',
    values: [key],
  });
  return row?.sum ?? null;
}

test('a retry that waits for the row together with its original gets the same closing sum', async () => {
  const key = Buffer.from('raced');
  await count('raced', 7);
  const blocker = await connectTo(database.url, 'blocker');
  try {
    await blocker.query({ text: 'begin' });
    await blocker.query({ text: `select from counters where key = 'raced' for update` });
    const original = one.delete('same', key);
    await waitUntilWaiting('one');
    const retry = other.delete('same', key);
    await waitUntilWaiting('other');
    await blocker.query({ text: 'commit' });
    assert.deepEqual(await Promise.all([original, retry]), [7, 7]);
    assert.equal(await closingValues('raced'), '7');
  } finally {
    await blocker.close();
  }
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
  const rows = await observer.query({ text: `select from counter_resets where key = 'never'` });
  assert.equal(rows.length, 0);
  await count('never', 4);
  assert.equal(await one.delete(undefined, Buffer.from('never')), 4);
});
