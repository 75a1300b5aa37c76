import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:net';
import { after, before, test } from 'node:test';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { CounterStore } from '#product/db/counter-store.js';
import { CounterError } from '#product/core/errors.js';
import { connectTo, type TestDatabase } from '../../support/database.js';
import { createMigratedDatabase, flushOf, TestShard } from '../../support/flushes.js';

let database: TestDatabase;
let shard: TestShard;
let store: CounterStore;

before(async () => {
  database = await createMigratedDatabase();
  shard = new TestShard(database.url, { applicationName: 'flusher' });
  store = new CounterStore(parseDatabaseUrl(database.url), { applicationName: 'reader' });
});

after(async () => {
  await store.close();
  await shard.close();
  await database.drop();
});

const failedWith =
  (code: string) =>
  (error: unknown): boolean =>
    error instanceof CounterError && error.code === code;

test('a read has the exact sum, its time, and the checkpoints of the streams that have a row', async () => {
  const { stream, epoch } = await shard.newStream();
  await shard.flush(
    flushOf({ stream, epoch, fromLsn: 0, toLsn: 4 }, [
      ['big', 10n ** 30n + 1n],
      ['safe', 2 ** 53 - 1],
    ]),
  );
  const streams = [stream, randomUUID()];
  const big = await store.readCounter(Buffer.from('big'), streams);
  assert.equal(big.committed, 10n ** 30n + 1n);
  assert.equal(big.exists, true);
  assert.ok(big.updatedAt instanceof Date && Math.abs(big.updatedAt.getTime() - Date.now()) < 60_000);
  assert.deepEqual([...big.checkpoints], [[stream, { epoch, lsn: 4 }]]);
  assert.equal((await store.readCounter(Buffer.from('safe'), [])).committed, 2 ** 53 - 1);
});

test('a key that was never counted does not exist, and its read has the checkpoints, too', async () => {
  const { stream, epoch } = await shard.newStream();
  const reading = await store.readCounter(Buffer.from('never'), [stream]);
  assert.deepEqual(reading, {
    committed: 0,
    updatedAt: null,
    exists: false,
    checkpoints: new Map([[stream, { epoch, lsn: 0 }]]),
  });
});

test('a thousand reads at once each get their own counter', async () => {
  const { stream, epoch } = await shard.newStream();
  const increments = Array.from({ length: 1000 }, (_, n) => [`many:${n}`, n] as const);
  await shard.flush(flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, increments));
  const streams = [stream];
  const readings = await Promise.all(increments.map(([key]) => store.readCounter(Buffer.from(key), streams)));
  assert.deepEqual(
    readings.map((reading) => reading.committed),
    increments.map(([, n]) => n),
  );
});

test('a key that PostgreSQL refuses fails alone', async () => {
  const streams: string[] = [];
  const reads = [Buffer.from('a'), Buffer.from([0xff]), Buffer.from('b')].map((key) => store.readCounter(key, streams));
  const outcomes = await Promise.allSettled(reads);
  assert.deepEqual(
    outcomes.map((outcome) => outcome.status),
    ['fulfilled', 'rejected', 'fulfilled'],
  );
});

test('one read more than the limit of waiting reads is overloaded', async () => {
  const small = new CounterStore(parseDatabaseUrl(database.url), { applicationName: 'small', waitingMax: 2 });
  try {
    const waiting = [small.readCounter(Buffer.from('a'), []), small.readCounter(Buffer.from('b'), [])];
    await assert.rejects(small.readCounter(Buffer.from('c'), []), failedWith('overloaded'));
    await Promise.all(waiting);
  } finally {
    await small.close();
  }
});

test('after the end of its session the store reads again', async () => {
  await store.readCounter(Buffer.from('a'), []);
  const observer = await connectTo(database.url);
  try {
    await observer.query({
      text: `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reader'`,
    });
  } finally {
    await observer.close();
  }
  for (;;) {
    const [outcome] = await Promise.allSettled([store.readCounter(Buffer.from('a'), [])]);
    if (outcome.status === 'fulfilled') return;
    assert.ok(failedWith('database-unavailable')(outcome.reason));
  }
});

test('while no server answers, reads fail within the connect timeout, and at once when that is known', async () => {
  const mute = createServer((socket) => socket.on('error', () => undefined));
  await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
  const address = mute.address();
  assert.ok(address !== null && typeof address === 'object');
  const target = parseDatabaseUrl(`postgres://u@127.0.0.1:${address.port}/d`);
  const waiting = new CounterStore(target, { applicationName: 'mute', connectTimeoutMs: 200 });
  try {
    await assert.rejects(waiting.readCounter(Buffer.from('a'), []), failedWith('database-unavailable'));
    assert.equal(waiting.available(), false);
    await assert.rejects(waiting.readCounter(Buffer.from('a'), []), failedWith('database-unavailable'));
  } finally {
    await waiting.close();
    mute.close();
  }
  await assert.rejects(waiting.readCounter(Buffer.from('a'), []), failedWith('database-unavailable'));
});
