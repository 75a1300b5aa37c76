import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:net';
import { before, describe, test } from 'node:test';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { CounterStore } from '#product/db/counter-store.js';
import { CounterError } from '#product/core/errors.js';
import { eventually } from '../../support/eventually.js';
import { flushOf, TestShard } from '../../support/flushes.js';
import { SuiteDatabase } from '../../support/migrated-database.js';

describe('The store of counters', () => {
  const database = new SuiteDatabase();
  let shard: TestShard;
  let store: CounterStore;

  before(() => {
    shard = database.closing(new TestShard(database.url, { applicationName: 'flusher' }));
    store = database.closing(new CounterStore(parseDatabaseUrl(database.url), { applicationName: 'reader' }));
  });

  /** One counter, which can be read, and the checkpoints. */
  async function readOne(from: CounterStore, key: string | Uint8Array, streams: readonly string[]) {
    const { counters, checkpoints } = await from.readCounters([Buffer.from(key)], streams);
    const [counter] = counters;
    assert.ok(counter !== undefined && counters.length === 1 && !('unreadable' in counter));
    return { ...counter, checkpoints };
  }

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
    const big = await readOne(store, 'big', streams);
    assert.equal(big.committed, 10n ** 30n + 1n);
    assert.equal(big.exists, true);
    assert.match(big.updatedAt ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.ok(Math.abs(Date.parse(big.updatedAt ?? '') - Date.now()) < 60_000);
    assert.deepEqual([...big.checkpoints], [[stream, { epoch, lsn: 4 }]]);
    assert.equal((await readOne(store, 'safe', [])).committed, 2 ** 53 - 1);
  });

  test('a key that was never counted does not exist, and its read has the checkpoints, too', async () => {
    const { stream, epoch } = await shard.newStream();
    const reading = await readOne(store, 'never', [stream]);
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
    const readings = await Promise.all(increments.map(([key]) => readOne(store, key, streams)));
    assert.deepEqual(
      readings.map((reading) => reading.committed),
      increments.map(([, n]) => n),
    );
  });

  test('several keys are read in one snapshot, in their order, and one whose row is no integer spoils no other', async () => {
    const { stream, epoch } = await shard.newStream();
    const increments = Array.from({ length: 450 }, (_, n) => [`several:${n}`, n] as const);
    await shard.flush(flushOf({ stream, epoch, fromLsn: 0, toLsn: 1 }, increments));
    await database.query(`update counters set sum = 'NaN' where key = 'several:7'`);
    const keys = increments.map(([key]) => Buffer.from(key)).reverse();
    const [all, few] = await Promise.all([
      store.readCounters([...keys, Buffer.from('never')], [stream]),
      store.readCounters([Buffer.from('several:1'), Buffer.from('several:0')], [stream]),
    ]);
    assert.deepEqual(
      all.counters.map((counter) =>
        'unreadable' in counter ? counter.unreadable : [counter.committed, counter.exists],
      ),
      [
        ...Array.from({ length: 450 }, (_, n) =>
          n === 442 ? 'The table "counters" has NaN as a sum; correct that row.' : [449 - n, true],
        ),
        [0, false],
      ],
    );
    assert.deepEqual([...all.checkpoints], [[stream, { epoch, lsn: 1 }]]);
    assert.deepEqual(
      few.counters.map((counter) => !('unreadable' in counter) && counter.committed),
      [1, 0],
    );
  });

  test('a key that PostgreSQL refuses fails alone', async () => {
    const streams: string[] = [];
    const reads = [Buffer.from('a'), Buffer.from([0xff]), Buffer.from('b')].map((key) => readOne(store, key, streams));
    const outcomes = await Promise.allSettled(reads);
    assert.deepEqual(
      outcomes.map((outcome) => outcome.status),
      ['fulfilled', 'rejected', 'fulfilled'],
    );
  });

  test('one read more than the limit of waiting reads is overloaded', async () => {
    const small = new CounterStore(parseDatabaseUrl(database.url), { applicationName: 'small', waitingMax: 2 });
    try {
      const waiting = [readOne(small, 'a', []), readOne(small, 'b', [])];
      await assert.rejects(readOne(small, 'c', []), failedWith('overloaded'));
      await Promise.all(waiting);
    } finally {
      await small.close();
    }
  });

  test('after the end of its session the store reads again', async () => {
    await readOne(store, 'a', []);
    await database.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reader' and datname = current_database()`,
    );
    await eventually('the store reads again', async () => {
      const [outcome] = await Promise.allSettled([readOne(store, 'a', [])]);
      assert.ok(outcome.status === 'fulfilled' || failedWith('database-unavailable')(outcome.reason));
      return outcome.status === 'fulfilled';
    });
  });

  test('reads fail within the connect timeout while no server answers', async () => {
    const mute = createServer((socket) => socket.on('error', () => undefined));
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
    const address = mute.address();
    assert.ok(address !== null && typeof address === 'object');
    const target = parseDatabaseUrl(`postgres://u@127.0.0.1:${address.port}/d`);
    const waiting = new CounterStore(target, { applicationName: 'mute', connectTimeoutMs: 200 });
    try {
      await assert.rejects(readOne(waiting, 'a', []), failedWith('database-unavailable'));
      assert.equal(waiting.available(), false);
      await assert.rejects(readOne(waiting, 'a', []), failedWith('database-unavailable'));
    } finally {
      await waiting.close();
      mute.close();
    }
    await assert.rejects(readOne(waiting, 'a', []), failedWith('database-unavailable'));
    await assert.rejects(waiting.list({ prefix: '', after: undefined, limit: 1 }), failedWith('database-unavailable'));
  });

  test('a store that is closed while it connects keeps no session', async () => {
    const closing = new CounterStore(parseDatabaseUrl(database.url), { applicationName: 'closing' });
    const read = assert.rejects(readOne(closing, 'a', []), failedWith('database-unavailable'));
    await closing.close();
    await read;
    await readOne(store, 'a', []);
    await eventually('no session', async () => {
      const sessions = await database.query(`select 1 from pg_stat_activity where application_name = 'closing'`);
      return sessions.length === 0;
    });
  });
});
