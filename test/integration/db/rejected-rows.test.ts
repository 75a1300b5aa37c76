/** What the command says and does about increments that were set aside. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { listRejected, retryRejected, retrySetAside } from '#product/cli/rejected-rows.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { connectTo } from '../../support/database.js';
import { createMigratedDatabase } from '../../support/migrated-database.js';

test('increments that could not be checked against the window are listed with what a check needs, and no retry counts them', async () => {
  const database = await createMigratedDatabase();
  const connection = await connectTo(database.url);
  try {
    const stream = randomUUID();
    await connection.query({
      text: `insert into rejected_increments (stream, key, amount, reason, sqlstate, lsn, token, digest, accepted_after) values
               ($1, 'refused', '5', 'refused', '23514', null, null, null, null),
               ($1, 'old', '7', 'not checked', null, 17, 'order-17', 'digest', '2026-01-02T03:04:05Z'),
               ($1, 'older', '-7', 'not checked', null, 16, 'order-16', 'digest', '-infinity')`,
      values: [stream],
    });
    const target = parseDatabaseUrl(database.url);
    const lines: string[] = [];
    assert.equal(await listRejected(target, (line) => lines.push(line)), 3);
    const [refused, old, older] = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    assert.ok(refused !== undefined && !('idempotencyKey' in refused));
    assert.deepEqual([refused['key'], refused['sqlstate']], ['refused', '23514']);
    const common = { stream, sqlstate: null, reason: 'not checked' };
    const { id: oldId, rejectedAt: oldAt, ...oldFields } = old ?? {};
    assert.deepEqual([typeof oldId, typeof oldAt], ['string', 'string']);
    assert.deepEqual(oldFields, {
      key: 'old',
      amount: '7',
      ...common,
      lsn: 17,
      idempotencyKey: 'order-17',
      acceptedAfter: '2026-01-02T03:04:05.000Z',
    });
    assert.deepEqual(
      [older?.['key'], older?.['lsn'], older?.['idempotencyKey'], older?.['acceptedAfter']],
      ['older', 16, 'order-16', null],
    );
    assert.deepEqual(await retryRejected(target), { counted: 1, refused: 0, untried: 0 });
    assert.deepEqual(await connection.query({ text: 'select key, sum::int from counters' }), [
      { key: 'refused', sum: 5 },
    ]);
    const left = await connection.query<{ key: string }>({
      text: `select convert_from(key, 'UTF8') as key from rejected_increments order by id`,
    });
    assert.deepEqual(
      left.map(({ key }) => key),
      ['old', 'older'],
    );
    assert.deepEqual(await retryRejected(target), { counted: 0, refused: 0, untried: 0 });
  } finally {
    await connection.close();
    await database.drop();
  }
});

test('of requests that were put aside one copy each is counted, unless the key is known, and a refused one stays', async () => {
  const database = await createMigratedDatabase();
  const connection = await connectTo(database.url);
  try {
    const [here, copy] = [randomUUID(), randomUUID()];
    await connection.query({
      text: `insert into rejected_increments (stream, key, amount, reason, sqlstate, lsn, token, digest) values
               ($1, 'a', '5', 'not checked', null, 17, 'order-1', 'one'), ($1, 'b', '-2', 'not checked', null, 17, 'order-1', 'one'),
               ($2, 'a', '5', 'not checked', null, 17, 'order-1', 'one'), ($2, 'b', '-2', 'not checked', null, 17, 'order-1', 'one'),
               ($2, 'a', '5', 'not checked', null, 99, 'order-1', 'one'), ($2, 'b', '-2', 'not checked', null, 99, 'order-1', 'one'),
               ($1, 'a', '100', 'not checked', null, 18, 'order-2', 'two'),
               ($1, 'poison', '1', 'not checked', null, 19, 'order-3', 'three'),
               ($1, 'a', '7', 'not checked', null, 20, 'order-4', 'four'),
               ($1, 'other', '9', 'not checked', null, 21, 'bill-1', 'five'),
               ($1, 'refused', '9', 'refused', '23514', null, null, null)`,
      values: [here, copy],
    });
    await connection.query({
      text: `insert into idempotency_keys (token, digest, claimed_at) values ('order-2', 'two', now());
             alter table counters add check (key <> 'poison')`,
    });
    const sums = async (): Promise<unknown> =>
      connection.query({ text: `select key, sum::int from counters order by key` });
    const target = parseDatabaseUrl(database.url);
    const { refused, ...rest } = await retrySetAside(target, 'order-');
    assert.deepEqual(rest, { counted: 2, known: 1, copies: 2 });
    assert.deepEqual([...refused.keys()], ['order-3']);
    assert.match(refused.get('order-3') ?? '', /violates check constraint/);
    const counted = [
      { key: 'a', sum: 12 },
      { key: 'b', sum: -2 },
    ];
    assert.deepEqual(await sums(), counted);
    // Once more: nothing is left of them.
    assert.deepEqual(
      { ...(await retrySetAside(target, 'order-')), refused: 0 },
      { counted: 0, known: 0, copies: 0, refused: 0 },
    );
    assert.deepEqual(await sums(), counted);
    const left = await connection.query<{ token: string | null }>({
      text: 'select token from rejected_increments order by id',
    });
    assert.deepEqual(
      left.map(({ token }) => token),
      ['order-3', 'bill-1', null],
    );
    const keys = await connection.query<{ token: string }>({
      text: 'select token from idempotency_keys order by token',
    });
    assert.deepEqual(
      keys.map(({ token }) => token),
      ['order-1', 'order-2', 'order-4'],
    );
  } finally {
    await connection.close();
    await database.drop();
  }
});
