import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import { CounterError } from '#product/core/errors.js';
import { IdempotentArrayEncoder } from '#product/db/binary-array.js';
import type { DatabaseConnection } from '#product/db/connection.js';
import { OutcomeUnknownError, StatementRefusedError } from '#product/db/database-errors.js';
import { RAISE_EPOCH } from '#product/db/statements.js';
import type { OwnershipClaim } from '#product/shard-worker/journal/ownership-claim.js';
import { PendingSums, type FrozenRange } from '#product/shard-worker/thread/pending-sums.js';
import { connectTo, createTestDatabase, type TestDatabase } from '../../support/database.js';
import { createMigratedDatabase, flushOf, TestShard } from '../../support/flushes.js';
import { idempotentEntry, incrementEntries } from '../../support/record-entries.js';

let database: TestDatabase;
let observer: DatabaseConnection;
let shard: TestShard;

before(async () => {
  database = await createMigratedDatabase();
  observer = await connectTo(database.url, 'observer');
  shard = new TestShard(database.url, { applicationName: 'shard' });
});

after(async () => {
  await shard.close();
  await observer.close();
  await database.drop();
});

/** Claims the stream, which is at `epoch`. */
async function claim(stream: string, epoch: number, lsn: number): Promise<{ id: string; epoch: number }> {
  const id = randomUUID();
  const at = await shard.readBack(stream);
  assert.ok(at !== undefined);
  const row = await shard.database.claimStream(stream, { epoch, lsn: at.lsn }, [{ id, lsn }]);
  assert.ok(row !== undefined);
  return { id, epoch: row.epoch };
}

async function claimsOf(stream: string): Promise<readonly OwnershipClaim[]> {
  return (await shard.database.readClaims(stream)).claims;
}

async function sumsOf(prefix: string): Promise<Record<string, string>> {
  const rows = await observer.query<{ key: string; sum: string }>({
    text: `select key, sum::text from counters where starts_with(key, $1) order by key`,
    values: [prefix],
  });
  return Object.fromEntries(rows.map((row) => [row.key, row.sum]));
}

test('a flush adds the sums and moves the checkpoint, and the same flush again does nothing', async () => {
  const stream = await shard.newStream();
  const request = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 7 }, [
    ['f:a', 5],
    ['f:b', -3],
    ['f:c', 0],
  ]);
  assert.deepEqual(await shard.flush(request), { applied: true, keys: 3, duplicates: [] });
  assert.deepEqual(await shard.flush(request), { applied: false, keys: 0, duplicates: [] });
  await shard.flush(flushOf({ stream, epoch: 0, fromLsn: 7, toLsn: 8 }, [['f:a', 9007199254740993n]]));
  assert.deepEqual(await sumsOf('f:'), { 'f:a': '9007199254740998', 'f:b': '-3', 'f:c': '0' });
  assert.deepEqual(await shard.readBack(stream), { epoch: 0, lsn: 8, retired: false });
});

test('a flush with an epoch that was raised in the meantime does nothing', async () => {
  const stream = await shard.newStream();
  await claim(stream, 0, 0);
  const late = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['late', 1]]);
  assert.deepEqual(await shard.flush(late), { applied: false, keys: 0, duplicates: [] });
  assert.deepEqual(await sumsOf('late'), {});
});

test('a raise of the epoch that arrives late does not fence the owner that came after it', async () => {
  const stream = await shard.newStream();
  const late = { text: RAISE_EPOCH, values: [stream, 0, [randomUUID()], [0], 0] };
  const { epoch } = await claim(stream, 0, 0);
  assert.deepEqual(await observer.query(late), []);
  assert.deepEqual(await shard.readBack(stream), { epoch, lsn: 0, retired: false });
});

test("a claim is written with the epoch that it raises, at the journal's end or the checkpoint, whichever is higher", async () => {
  const stream = await shard.newStream();
  await shard.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 7 }, [['claimed', 1]]));
  const behind = await claim(stream, 0, 5);
  assert.equal(
    await shard.database.claimStream(stream, { epoch: 0, lsn: 7 }, [{ id: randomUUID(), lsn: 100 }]),
    undefined,
  );
  assert.equal(
    await shard.database.claimStream(stream, { epoch: behind.epoch, lsn: 6 }, [{ id: randomUUID(), lsn: 100 }]),
    undefined,
  );
  const beyond = await claim(stream, behind.epoch, 9);
  assert.ok(0 < behind.epoch && behind.epoch < beyond.epoch);
  assert.deepEqual(await shard.database.readClaims(stream), {
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

test('claims of epochs that the database went back from do not count, and are deleted', async () => {
  const stream = await shard.newStream();
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
  const stream = await shard.newStream();
  const epochs = new Set<number>();
  for (let times = 0; times < 10; times += 1) {
    epochs.add((await claim(stream, 0, 0)).epoch);
    await observer.query({ text: 'update journal_checkpoints set epoch = 0 where stream = $1', values: [stream] });
  }
  // Two of ten random numbers below a million are the same once in twenty thousand runs; three never.
  assert.ok(epochs.size >= 9, [...epochs].join(' '));
});

test('claims that the database had lost are recorded before the new one, each with an epoch', async () => {
  const stream = await shard.newStream();
  await shard.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 7 }, [['lost claims', 1]]));
  const claims = [3, 4, 5].map((lsn) => ({ id: randomUUID(), lsn }));
  await shard.database.claimStream(stream, { epoch: 0, lsn: 7 }, claims);
  assert.deepEqual(
    await claimsOf(stream),
    [3, 4, 7].map((lsn, index) => ({ id: claims[index]?.id, lsn })),
  );
});

test('a thousand claims are kept, and the reader learns that there may have been more', async () => {
  const stream = await shard.newStream();
  let epoch = 0;
  for (let lsn = 1; lsn <= 999; lsn += 1) ({ epoch } = await claim(stream, epoch, lsn));
  assert.equal((await shard.database.readClaims(stream)).isComplete, true);
  ({ epoch } = await claim(stream, epoch, 1000));
  const thousand = await shard.database.readClaims(stream);
  assert.deepEqual([thousand.claims.length, thousand.isComplete], [1000, false]);
  const last = await claim(stream, epoch, 1001);
  assert.deepEqual(await claimsOf(stream), [...thousand.claims.slice(1), { id: last.id, lsn: 1001 }]);
});

test('a flush of a stream without a row does nothing, and neither raising nor reading makes one', async () => {
  const stream = randomUUID();
  const result = await shard.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['ghost', 1]]));
  assert.deepEqual(result, { applied: false, keys: 0, duplicates: [] });
  const claims = [{ id: randomUUID(), lsn: 0 }];
  assert.equal(await shard.database.claimStream(stream, { epoch: 0, lsn: 0 }, claims), undefined);
  assert.equal(await shard.readBack(stream), undefined);
  assert.deepEqual(await sumsOf('ghost'), {});
});

test('a stream that exists is not created again', async () => {
  const stream = await shard.newStream();
  await shard.flush(flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 3 }, [['anew', 1]]));
  await shard.database.ensureStream(stream);
  assert.deepEqual(await shard.readBack(stream), { epoch: 0, lsn: 3, retired: false });
});

test('an idle owner advances accepted_through and retires its stream; a fenced one does neither', async () => {
  const stream = await shard.newStream();
  const at = new Date('2026-01-02T03:04:05.678Z');
  assert.equal(await shard.database.touch(stream, { epoch: 0, lsn: 0 }, at.getTime()), true);
  assert.equal(await shard.database.touch(stream, { epoch: 1, lsn: 0 }, Date.now()), false);
  // An owner that is not idle only checks the row.
  assert.equal(await shard.database.touch(stream, { epoch: 0, lsn: 0 }, undefined), true);
  assert.equal(await shard.database.touch(stream, { epoch: 0, lsn: 1 }, undefined), false);
  const [row] = await observer.query<{ accepted_through: Date }>({
    text: 'select accepted_through from journal_checkpoints where stream = $1',
    values: [stream],
  });
  assert.equal(row?.accepted_through.toISOString(), at.toISOString());
  assert.equal(await shard.database.retire(stream, { epoch: 0, lsn: 1 }), false);
  assert.equal(await shard.database.retire(stream, { epoch: 0, lsn: 0 }), true);
  assert.equal(await shard.database.retire(stream, { epoch: 0, lsn: 0 }), true);
  assert.equal((await shard.readBack(stream))?.retired, true);
});

test('a flush that holds a key twice is refused as a whole, and does not count as poison', async () => {
  const stream = await shard.newStream();
  const twice = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [
    ['twice', 2],
    ['twice', 3],
  ]);
  await assert.rejects(
    shard.flush(twice),
    (error) => error instanceof StatementRefusedError && error.sqlState === '21000' && error.kind === 'other',
  );
  assert.deepEqual(await sumsOf('twice'), {});
  assert.deepEqual(await shard.readBack(stream), { epoch: 0, lsn: 0, retired: false });
});

test('the id of the database is that of its migration, and a database without a schema has none', async () => {
  const [row] = await observer.query<{ database_id: string }>({
    text: 'select database_id from summing_counters_migrations',
  });
  assert.equal(await shard.database.databaseId(), row?.database_id);
  const bare = await createTestDatabase();
  const elsewhere = new TestShard(bare.url, { applicationName: 'bare' });
  await assert.rejects(
    elsewhere.database.databaseId(),
    (error) =>
      error instanceof CounterError &&
      error.code === 'database-unavailable' &&
      error.cause instanceof StatementRefusedError &&
      error.cause.sqlState === '42P01',
  );
  await elsewhere.close();
  await bare.drop();
});

test('an idempotency key counts once in a flush with other increments, and is recorded together with its sums or not at all', async () => {
  const stream = await shard.newStream();
  const encoder = new IdempotentArrayEncoder();
  // Idempotency keys, digests and keys are parts of larger buffers.
  encoder.appendRequest(Buffer.from('[t-2]'), 1, 3, Buffer.from('12'), 1, 1);
  encoder.appendSum(Buffer.from('t:a'), 0, 3, 20);
  encoder.appendSum(Buffer.from('[t:b]'), 1, 3, 300);
  encoder.appendRequest(Buffer.from('t-1'), 0, 3, Buffer.from('12'), 0, 1);
  encoder.appendSum(Buffer.from('t:a'), 0, 3, 1);
  const idempotencyKeys = encoder.finish();
  const first = { ...flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['t:a', 4000]]), idempotencyKeys };
  assert.deepEqual(await shard.flush({ ...first, epoch: 9 }), {
    applied: false,
    keys: 0,
    duplicates: ['t-2', 't-1'],
  });
  assert.deepEqual(await shard.flush(first), { applied: true, keys: 2, duplicates: [] });
  const replay = { ...flushOf({ stream, epoch: 0, fromLsn: 1, toLsn: 2 }, [['t:a', 5000]]), idempotencyKeys };
  assert.deepEqual(await shard.flush(replay), { applied: true, keys: 1, duplicates: ['t-2', 't-1'] });
  const digests = await observer.query<{ digest: Buffer }>({
    text: `select digest from idempotency_keys where token = 't-1'`,
  });
  assert.deepEqual(digests, [{ digest: Buffer.from('1') }]);
  assert.deepEqual(await sumsOf('t:'), { 't:a': '9021', 't:b': '300' });
});

/** The next range of a stream, of one record. */
function rangeOf(stream: string, lsn: number, ...entries: readonly Buffer[]): FrozenRange {
  const pendingSums = new PendingSums(stream, { epoch: 0, lsn });
  const record = Buffer.concat(entries);
  pendingSums.apply(lsn + 1, record, 0, record.length);
  return pendingSums.freeze(Date.now());
}

test('a duplicate with other content is a mismatch, and counts once', async () => {
  const stream = await shard.newStream();
  const first = rangeOf(stream, 0, idempotentEntry('d-1', [['d', 1]], 1), idempotentEntry('d-2', [['d', 20]], 2));
  const committed = { kind: 'committed', keys: 1, rejected: 0, duplicates: [], mismatches: 0 };
  assert.deepEqual(await shard.database.flush(first), committed);
  const second = rangeOf(stream, 1, idempotentEntry('d-1', [['d', 1]], 1), idempotentEntry('d-2', [['d', 300]], 3));
  const duplicates = ['d-1', 'd-2'];
  assert.deepEqual(await shard.database.flush(second), { ...committed, keys: 0, duplicates, mismatches: 1 });
  assert.deepEqual(await sumsOf('d'), { d: '21' });
});

test('a row that PostgreSQL refuses is poison, is found by probes, and is kept when the checkpoint moves', async () => {
  const stream = await shard.newStream();
  const bad = Buffer.from([0x70, 0xff]);
  const range = rangeOf(
    stream,
    0,
    incrementEntries([
      ['p:good', 1],
      [bad, 2],
    ]),
  );
  const refused = await shard.database.flush(range);
  assert.equal(refused.kind, 'poison');
  assert.deepEqual(await sumsOf('p:'), {});
  const committed = await shard.database.flushSettingAside(range);
  assert.equal(committed.kind, 'committed');
  const { rejectedKeys, ...counts } = committed;
  assert.deepEqual(counts, { kind: 'committed', keys: 1, rejected: 1, duplicates: [], mismatches: 0 });
  assert.deepEqual([rejectedKeys?.keys, rejectedKeys?.key, rejectedKeys?.sqlState], [1, 'p\ufffd', '22021']);
  assert.deepEqual(await shard.database.flushSettingAside(range), { kind: 'fenced' });
  assert.deepEqual(await sumsOf('p:'), { 'p:good': '1' }, 'a probe commits nothing');
  const rows = await observer.query<{ key: Buffer; amount: string; sqlstate: string }>({
    text: 'select key, amount, sqlstate from rejected_increments where stream = $1',
    values: [stream],
  });
  assert.deepEqual(
    rows.map((row) => [row.key.toString('hex'), row.amount, row.sqlstate]),
    [['70ff', '2', '22021']],
  );
});

test('a stream of a memory journal retires the streams of its shard before it, and no others', async () => {
  const other = await shard.newStream();
  const memory = new TestShard(database.url, { applicationName: 'memory' }, 'memory');
  const [first, second] = [await memory.newStream(), await memory.newStream()];
  assert.equal((await shard.readBack(first))?.retired, true);
  assert.equal((await shard.readBack(second))?.retired, false);
  assert.equal((await shard.readBack(other))?.retired, false);
  await memory.close();
});

test('a session that ends during a flush leaves the outcome unknown, and the row shows it', async () => {
  const stream = await shard.newStream();
  const blocker = await connectTo(database.url, 'blocker');
  try {
    await blocker.query({ text: 'begin' });
    await blocker.query({ text: 'select 1 from journal_checkpoints where stream = $1 for update', values: [stream] });
    const request = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['killed', 1]]);
    const flush = shard.flush(request);
    const settled = assert.rejects(flush, OutcomeUnknownError);
    await terminateWhenWaiting('shard');
    await settled;
    await blocker.query({ text: 'rollback' });
    assert.deepEqual(await shard.readBack(stream), { epoch: 0, lsn: 0, retired: false });
    assert.equal((await shard.flush(request)).applied, true);
    assert.deepEqual(await sumsOf('killed'), { killed: '1' });
  } finally {
    await blocker.close();
  }
});

test('reading back waits for a flush that goes on after its client gave up', async () => {
  const shortTimeout = new TestShard(database.url, {
    applicationName: 'short timeout',
    queryTimeoutMs: 300,
  });
  const blocker = await connectTo(database.url, 'blocker');
  try {
    const stream = await shard.newStream();
    await blocker.query({ text: `insert into counters (key, sum) values ('hot', 1)` });
    await blocker.query({ text: 'begin' });
    await blocker.query({ text: `update counters set sum = 2 where key = 'hot'` });
    const request = flushOf({ stream, epoch: 0, fromLsn: 0, toLsn: 1 }, [['hot', 10]]);
    await assert.rejects(shortTimeout.flush(request), OutcomeUnknownError);
    const readBack = shard.readBack(stream);
    await waitUntilWaiting('shard');
    await blocker.query({ text: 'commit' });
    assert.deepEqual(await readBack, { epoch: 0, lsn: 1, retired: false });
    assert.deepEqual(await sumsOf('hot'), { hot: '12' });
  } finally {
    await blocker.close();
    await shortTimeout.close();
  }
});

test('where no server listens every method rejects with database-unavailable', async () => {
  const nowhere = new TestShard('postgres://u:secret@127.0.0.1:1/d', { applicationName: 'nowhere' });
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
