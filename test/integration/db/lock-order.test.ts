import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DatabaseConnection } from '#product/db/connection.js';
import { errorCode } from '#product/db/database-errors.js';
import { FLUSH } from '#product/db/statements.js';
import { connectTo } from '../../support/database.js';
import { encodeIncrements, flushOf, TestShard } from '../../support/flushes.js';
import { createMigratedDatabase } from '../../support/migrated-database.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { seedOfRun } from '../../support/random-runs.js';
import type { TakenStream } from '../../support/taken-stream.js';

const WRITERS = 4;
const KEYS = 5000;
const INCREMENTS_OF_FLUSH = 2000;

/** Distinct keys in random order, whose UTF-16 order is not their bytewise order. */
function randomIncrements(random: Mulberry32): Map<string, number> {
  const increments = new Map<string, number>();
  while (increments.size < INCREMENTS_OF_FLUSH) {
    const n = random.below(KEYS);
    increments.set(`${n % 2 === 0 ? '\u{1F600}' : '\uFFFD'}${n}`, random.below(2001) - 1000);
  }
  return increments;
}

async function deadlocks(connection: DatabaseConnection): Promise<number> {
  const [row] = await connection.query<{ deadlocks: string }>({
    text: 'select deadlocks from pg_stat_database where datname = current_database()',
  });
  return Number(row?.deadlocks);
}

test('four nodes that flush the same keys for six seconds never deadlock, and every sum is exact', async (context) => {
  const seed = seedOfRun();
  context.diagnostic(`SEED=${seed}`);
  const database = await createMigratedDatabase();
  const expected = new Map<string, number>();
  const end = performance.now() + 6000;
  const writer = async (number: number): Promise<number> => {
    const random = new Mulberry32(seed + number);
    const shard = new TestShard(database.url, { applicationName: `writer ${number}` });
    const { stream, epoch } = await shard.newStream();
    let lsn = 0;
    for (; performance.now() < end; lsn += 1) {
      const increments = randomIncrements(random);
      const result = await shard.flush(flushOf({ stream, epoch, fromLsn: lsn, toLsn: lsn + 1 }, increments));
      assert.equal(result.applied, true);
      assert.equal(result.keys, INCREMENTS_OF_FLUSH);
      for (const [key, amount] of increments) expected.set(key, (expected.get(key) ?? 0) + amount);
    }
    await shard.close();
    return lsn;
  };
  const flushes = await Promise.all(Array.from({ length: WRITERS }, (_, number) => writer(number)));
  context.diagnostic(`flushes of the writers: ${flushes.join(', ')}`);
  assert.ok(flushes.every((count) => count > 1));
  const observer = await connectTo(database.url);
  const rows = await observer.query<{ key: string; sum: string }>({ text: 'select key, sum::text from counters' });
  assert.deepEqual(new Map(rows.map((row) => [row.key, Number(row.sum)])), expected);
  assert.equal(await deadlocks(observer), 0);
  await observer.close();
  await database.drop();
});

test('the same statement without its order deadlocks, so the test above would see it', async (context) => {
  const seed = seedOfRun();
  context.diagnostic(`SEED=${seed}`);
  const unsorted = FLUSH.replace('from sums order by key collate "C"', 'from sums');
  assert.notEqual(unsorted, FLUSH);
  const database = await createMigratedDatabase();
  const shard = new TestShard(database.url, { applicationName: 'streams' });
  const streams: TakenStream[] = [];
  for (let number = 0; number < WRITERS; number += 1) streams.push(await shard.newStream());
  const end = performance.now() + 30_000;
  let found = 0;
  const writer = async ({ stream, epoch }: TakenStream, number: number): Promise<void> => {
    const random = new Mulberry32(seed + number);
    const connection = await connectTo(database.url, `writer ${number}`);
    for (let lsn = 0; found === 0 && performance.now() < end;) {
      const { keys, amounts } = encodeIncrements(randomIncrements(random));
      try {
        await connection.query({ text: unsorted, values: [stream, epoch, lsn, lsn + 1, new Date(), keys, amounts] });
        lsn += 1;
      } catch (error) {
        assert.equal(errorCode(error), '40P01');
        found += 1;
      }
    }
    await connection.close();
  };
  await Promise.all(streams.map((stream, number) => writer(stream, number)));
  assert.ok(found > 0);
  await shard.close();
  await database.drop();
});
