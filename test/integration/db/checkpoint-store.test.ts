import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import { IdempotentArrayEncoder } from '#product/db/binary-array.js';
import { CheckpointStore, type Claim } from '#product/db/checkpoint-store.js';
import { parseDatabaseUrl, type DatabaseConnection } from '#product/db/connection.js';
import { OutcomeUnknownError, StatementRefusedError } from '#product/db/database-errors.js';
import { RAISE_EPOCH } from '#product/db/statements.js';
import { CounterError } from '#product/core/errors.js';
import { connectTo, createTestDatabase, type TestDatabase } from '../../support/database.js';
import { createMigratedDatabase, encodeIncrements, flushOf, newStream } from '../../support/flushes.js';

let database: TestDatabase;
let observer: DatabaseConnection;
let store: CheckpointStore;

before(async () => {
  database = await createMigratedDatabase();
  observer = await connectTo(database.url, 'observer');
  store = new CheckpointStore(parseDatabaseUrl(database.url), { applicationName: 'store' });
});

after(async () => {
  await store.close();
  await observer.close();
  await database.drop();
});

/** Claims the stream, which is at `epoch`. */
async function claim(stream: string, epoch: number, lsn: number): Promise<{ id: string; epoch: number }> {
  const id = randomUUID();
  const at = await store.readBack(stream);
  assert.ok(at !== undefined);
  const row = await store.claim(stream, epoch, at.lsn, [{ id, lsn }]);
  assert.ok(row !== undefined);
  return { id, epoch: row.epoch };
}

async function claimsOf(stream: string): Promise<readonly Claim[] | undefined> {
  return (await store.readClaims(stream))?.claims;
}

async function sumsOf(prefix: string): Promise<Record<string, string>> {
  const rows = await observer.query<{ key: string; sum: string }>({
    text: `select key, sum::text from counters where starts_with(key, $1) order by key`,
    values: [prefix],
  });
  return Object.fromEntries(rows.map((row) => [row.key, row.sum]));
}

test('a flush adds the sums and moves the checkpoint, and the same flush again does nothing', async () => {
  const stream = await newStream(store);
  const request = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 7 }, [
    ['f:a', 5],
    ['f:b', -3],
    ['f:c', 0],
  ]);
  assert.deepEqual(await store.flush(request), { fenced: 1, claimed: 0, keys: 3, unclaimed: [] });
  assert.deepEqual(await store.flush(request), { fenced: 0, claimed: 0, keys: 0, unclaimed: [] });
  await store.flush(flushOf({ stream, epoch: 0, fromLsn: 7, toLsn: 8 }, [['f:a', 9007199254740993n]]));
  assert.deepEqual(await sumsOf('f:'), { 'f:a': '9007199254740998', 'f:b': '-3', 'f:c': '0' });
  assert.deepEqual(await store.readBack(stream), { epoch: 0, lsn: 8, retired: false });
});

test('a flush with an epoch that was raised meanwhile does nothing', async () => {
  const stream = await newStream(store);
  await claim(stream, 0, 0);
  const late = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['late', 1]]);
  assert.deepEqual(await store.flush(late), { fenced: 0, claimed: 0, keys: 0, unclaimed: [] });
  assert.deepEqual(await sumsOf('late'), {});
});

test('a raise of the epoch that arrives late does not fence the owner that came after it', async () => {
  const stream = await newStream(store);
  const late = { text: RAISE_EPOCH, values: [stream, 0, [randomUUID()], [0], 0] };
  const { epoch } = await claim(stream, 0, 0);
  assert.deepEqual(await observer.query(late), []);
  assert.deepEqual(await store.readBack(stream), { epoch, lsn: 0, retired: false });
});

test("a claim is written with the epoch that it raises, at the journal's end or the checkpoint, whichever is higher", async () => {
  const stream = await newStream(store);
  await store.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 7 }, [['claimed', 1]]));
  const behind = await claim(stream, 0, 5);
  assert.equal(await store.claim(stream, 0, 7, [{ id: randomUUID(), lsn: 100 }]), undefined);
  assert.equal(await store.claim(stream, behind.epoch, 6, [{ id: randomUUID(), lsn: 100 }]), undefined);
  const beyond = await claim(stream, behind.epoch, 9);
  assert.ok(0 < behind.epoch && behind.epoch < beyond.epoch);
  assert.deepEqual(await store.readClaims(stream), {
    epoch: beyond.epoch,
    lsn: 7,
    retired: false,
    claims: [
      { id: behind.id, lsn: 7 },
      { id: beyond.id, lsn: 9 },
    ],
    isComplete: true,
  });
});

test('claims of epochs that the database went back from do not count, and go', async () => {
  const stream = await newStream(store);
  const first = await claim(stream, 0, 1);
  await claim(stream, first.epoch, 2);
  const goBack = 'update journal_checkpoints set epoch = $2 where stream = $1';
  await observer.query({ text: goBack, values: [stream, first.epoch] });
  assert.deepEqual(await claimsOf(stream), [{ id: first.id, lsn: 1 }]);
  const again = await claim(stream, first.epoch, 3);
  assert.deepEqual(await claimsOf(stream), [
    { id: first.id, lsn: 1 },
    { id: again.id, lsn: 3 },
  ]);
});

test('an epoch that the database went back from does not come again', async () => {
  const stream = await newStream(store);
  const epochs = new Set<number>();
  for (let times = 0; times < 10; times += 1) {
    epochs.add((await claim(stream, 0, 0)).epoch);
    await observer.query({ text: 'update journal_checkpoints set epoch = 0 where stream = $1', values: [stream] });
  }
  // Two of ten random numbers below a million are the same once in twenty thousand runs; three never.
  assert.ok(epochs.size >= 9, [...epochs].join(' '));
});

test('claims that the database had lost are written down before the one that is made, each with an epoch', async () => {
  const stream = await newStream(store);
  await store.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 7 }, [['lost claims', 1]]));
  const claims = [3, 4, 5].map((lsn) => ({ id: randomUUID(), lsn }));
  await store.claim(stream, 0, 7, claims);
  assert.deepEqual(
    await claimsOf(stream),
    [3, 4, 7].map((lsn, index) => ({ id: claims[index]?.id, lsn })),
  );
});

test('a thousand claims are kept, and the reader is told that there may have been more', async () => {
  const stream = await newStream(store);
  let epoch = 0;
  for (let lsn = 1; lsn <= 999; lsn += 1) ({ epoch } = await claim(stream, epoch, lsn));
  assert.equal((await store.readClaims(stream))?.isComplete, true);
  ({ epoch } = await claim(stream, epoch, 1000));
  const thousand = await store.readClaims(stream);
  assert.deepEqual([thousand?.claims.length, thousand?.isComplete], [1000, false]);
  const last = await claim(stream, epoch, 1001);
  assert.deepEqual(await claimsOf(stream), [...(thousand?.claims.slice(1) ?? []), { id: last.id, lsn: 1001 }]);
});

test('a flush of a stream without a row does nothing, and neither raising nor reading makes one', async () => {
  const stream = randomUUID();
  const result = await store.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['ghost', 1]]));
  assert.deepEqual(result, { fenced: 0, claimed: 0, keys: 0, unclaimed: [] });
  assert.equal(await store.claim(stream, 0, 0, [{ id: randomUUID(), lsn: 0 }]), undefined);
  assert.equal(await store.readClaims(stream), undefined);
  assert.equal(await store.readBack(stream), undefined);
  assert.deepEqual(await sumsOf('ghost'), {});
});

test('a stream that exists is not made anew', async () => {
  const stream = await newStream(store);
  await store.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 3 }, [['anew', 1]]));
  await store.ensureStream(stream, { node: randomUUID(), shard: 0, journal: 'file' });
  assert.deepEqual(await store.readBack(stream), { epoch: 0, lsn: 3, retired: false });
});

test('an idle owner moves accepted_through and retires its stream; a fenced one does neither', async () => {
  const stream = await newStream(store);
  const at = new Date('2026-01-02T03:04:05.678Z');
  assert.equal(await store.touch(stream, 0, 0, at.getTime()), true);
  assert.equal(await store.touch(stream, 1, 0, Date.now()), false);
  // One that is not idle only looks.
  assert.equal(await store.touch(stream, 0, 0, undefined), true);
  assert.equal(await store.touch(stream, 0, 1, undefined), false);
  const [row] = await observer.query<{ accepted_through: Date }>({
    text: 'select accepted_through from journal_checkpoints where stream = $1',
    values: [stream],
  });
  assert.equal(row?.accepted_through.toISOString(), at.toISOString());
  assert.equal(await store.retire(stream, 0, 1), false);
  assert.equal(await store.retire(stream, 0, 0), true);
  assert.equal(await store.retire(stream, 0, 0), true);
  assert.equal((await store.readBack(stream))?.retired, true);
});

test('a flush that holds a key twice is refused whole, and is not taken for a poison row', async () => {
  const stream = await newStream(store);
  const twice = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [
    ['twice', 2],
    ['twice', 3],
  ]);
  await assert.rejects(
    store.flush(twice),
    (error) => error instanceof StatementRefusedError && error.sqlState === '21000' && error.kind === 'other',
  );
  assert.deepEqual(await sumsOf('twice'), {});
  assert.deepEqual(await store.readBack(stream), { epoch: 0, lsn: 0, retired: false });
});

test('the id of the database is that of its migration, and one without a schema has none', async () => {
  const [row] = await observer.query<{ database_id: string }>({
    text: 'select database_id from summing_counters_migrations',
  });
  assert.equal(await store.databaseId(), row?.database_id);
  const bare = await createTestDatabase();
  const elsewhere = new CheckpointStore(parseDatabaseUrl(bare.url), { applicationName: 'bare' });
  await assert.rejects(
    elsewhere.databaseId(),
    (error) => error instanceof StatementRefusedError && error.sqlState === '42P01',
  );
  await elsewhere.close();
  await bare.drop();
});

test('a token counts once in a flush with other increments, and its claim and its pairs stand or fall together', async () => {
  const stream = await newStream(store);
  const encoder = new IdempotentArrayEncoder();
  // Tokens, digests and keys are parts of larger buffers.
  encoder.appendRequest(Buffer.from('[t-2]'), 1, 3, Buffer.from('12'), 1, 1);
  encoder.appendSum(Buffer.from('t:a'), 0, 3, 20);
  encoder.appendSum(Buffer.from('[t:b]'), 1, 3, 300);
  encoder.appendRequest(Buffer.from('t-1'), 0, 3, Buffer.from('12'), 0, 1);
  encoder.appendSum(Buffer.from('t:a'), 0, 3, 1);
  const idempotencyKeys = encoder.finish();
  const first = { ...flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['t:a', 4000]]), idempotencyKeys };
  assert.deepEqual(await store.flush({ ...first, epoch: 9 }), {
    fenced: 0,
    claimed: 0,
    keys: 0,
    unclaimed: ['t-2', 't-1'],
  });
  assert.deepEqual(await store.flush(first), { fenced: 1, claimed: 2, keys: 2, unclaimed: [] });
  const replay = { ...flushOf({ stream, epoch: 0, fromLsn: 1, toLsn: 2 }, [['t:a', 5000]]), idempotencyKeys };
  assert.deepEqual(await store.flush(replay), { fenced: 1, claimed: 0, keys: 1, unclaimed: ['t-2', 't-1'] });
  assert.deepEqual((await store.readDigests(['t-1', 'none'])).get('t-1'), Buffer.from('1'));
  assert.deepEqual(await sumsOf('t:'), { 't:a': '9021', 't:b': '300' });
});

test('a row that PostgreSQL refuses is told apart, found by probing, and kept when the checkpoint moves', async () => {
  const stream = await newStream(store);
  const bad = Buffer.from([0x70, 0xff]);
  const at = { stream, epoch: 0, fromLsn: 0, toLsn: 1 };
  await assert.rejects(
    store.flush(
      flushOf(at, [
        ['p:good', 1],
        [bad, 2],
      ]),
    ),
    (error) => error instanceof StatementRefusedError && error.kind === 'poison' && error.sqlState === '22021',
  );
  const good = encodeIncrements([['p:good', 1]]);
  const poison = encodeIncrements([[bad, 2]]);
  assert.equal(await store.probe(good.keys, good.amounts), undefined);
  const refusal = await store.probe(poison.keys, poison.amounts);
  assert.ok(refusal !== undefined);
  assert.equal(refusal.sqlState, '22021');
  assert.deepEqual(await sumsOf('p'), {}, 'a probe commits nothing');

  const rejected = [{ key: bad, amount: '2', reason: refusal.message, sqlState: '22021' }];
  assert.equal((await store.flush({ ...flushOf(at, [['p:good', 1]]), rejected })).fenced, 1);
  assert.equal((await store.flush({ ...flushOf(at, [['p:good', 1]]), rejected })).fenced, 0);
  assert.deepEqual(await sumsOf('p:'), { 'p:good': '1' });
  const rows = await observer.query<{ key: Buffer; amount: string; sqlstate: string }>({
    text: 'select key, amount, sqlstate from rejected_increments where stream = $1',
    values: [stream],
  });
  assert.deepEqual(
    rows.map((row) => [row.key.toString('hex'), row.amount, row.sqlstate]),
    [['70ff', '2', '22021']],
  );
});

test('a session that is ended while a flush runs leaves the outcome unknown, and the row says what it is', async () => {
  const stream = await newStream(store);
  const blocker = await connectTo(database.url, 'blocker');
  try {
    await blocker.query({ text: 'begin' });
    await blocker.query({ text: 'select 1 from journal_checkpoints where stream = $1 for update', values: [stream] });
    const request = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['killed', 1]]);
    const flush = store.flush(request);
    const settled = assert.rejects(flush, OutcomeUnknownError);
    await terminateWhenWaiting('store');
    await settled;
    await blocker.query({ text: 'rollback' });
    assert.deepEqual(await store.readBack(stream), { epoch: 0, lsn: 0, retired: false });
    assert.equal((await store.flush(request)).fenced, 1);
    assert.deepEqual(await sumsOf('killed'), { killed: '1' });
  } finally {
    await blocker.close();
  }
});

test('reading back waits for a flush that goes on after its client gave up', async () => {
  const shortTimeout = new CheckpointStore(parseDatabaseUrl(database.url), {
    applicationName: 'impatient',
    queryTimeoutMs: 300,
  });
  const blocker = await connectTo(database.url, 'blocker');
  try {
    const stream = await newStream(store);
    await blocker.query({ text: `insert into counters (key, sum) values ('hot', 1)` });
    await blocker.query({ text: 'begin' });
    await blocker.query({ text: `update counters set sum = 2 where key = 'hot'` });
    const request = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['hot', 10]]);
    await assert.rejects(shortTimeout.flush(request), OutcomeUnknownError);
    const readBack = store.readBack(stream);
    await waitUntilWaiting('store');
    await blocker.query({ text: 'commit' });
    assert.deepEqual(await readBack, { epoch: 0, lsn: 1, retired: false });
    assert.deepEqual(await sumsOf('hot'), { hot: '12' });
  } finally {
    await blocker.close();
    await shortTimeout.close();
  }
});

test('where nobody listens every method says database-unavailable', async () => {
  const nowhere = new CheckpointStore(parseDatabaseUrl('postgres://u:secret@127.0.0.1:1/d'), {
    applicationName: 'nowhere',
  });
  const expected = (error: unknown): boolean =>
    error instanceof CounterError && error.code === 'database-unavailable' && !error.detail.includes('secret');
  await assert.rejects(nowhere.readBack(randomUUID()), expected);
  await assert.rejects(
    nowhere.flush(flushOf({ stream: randomUUID(), epoch: 0, fromLsn: 0, toLsn: 1 }, [['k', 1]])),
    expected,
  );
  await nowhere.close();
});

async function waitUntilWaiting(applicationName: string): Promise<number> {
  for (;;) {
    const [row] = await observer.query<{ pid: number }>({
      text: `select pid from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock' and datname = current_database()`,
      values: [applicationName],
    });
    if (row !== undefined) return row.pid;
  }
}

async function terminateWhenWaiting(applicationName: string): Promise<void> {
  const pid = await waitUntilWaiting(applicationName);
  await observer.query({ text: 'select pg_terminate_backend($1)', values: [pid] });
}
