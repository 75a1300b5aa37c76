/**
 * A writer that has nothing to write learns that its stream was taken over, also where the one that took it is gone before it
 * has finished it. Otherwise the stream would stay open, and hold the pruning of idempotency keys, for as long as it is idle.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { systemClock } from '#product/core/clock.js';
import { Turns } from '#product/core/turns.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { migrate } from '#product/db/schema/migrate.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { PostgresIncrementLog } from '#product/shard-worker/journal/postgres/increment-log.js';
import { makeStats, statsRow } from '#product/shard-worker/protocol/stats.js';
import { PostgresShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { SharedShard } from '#product/shard-worker/thread/shared-shard.js';
import { connectTo, createTestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';

test('an idle writer whose stream was taken over goes on as a new one', async () => {
  const database = await createTestDatabase();
  const connection = await connectTo(database.url);
  await migrate(connection);
  await connection.close();
  const open = (): ShardConnection => new ShardConnection(parseDatabaseUrl(database.url), { applicationName: 'test' });
  const logOf = (flusher?: string): [PostgresIncrementLog, PostgresShardDatabase] => {
    const [flushes, turns, node] = [open(), new Turns(), randomUUID()];
    const owner = { node, shard: 0, flusher };
    const flushDatabase = new PostgresShardDatabase(flushes, { node, shard: 0, journal: 'postgres' }, turns);
    return [new PostgresIncrementLog(open(), flushes, turns, owner), flushDatabase];
  };
  const [incrementLog, shardDatabase] = logOf();
  const [other, otherDatabase] = logOf(randomUUID());
  const streams: string[] = [];
  const ended: string[] = [];
  const shard = new SharedShard({
    role: 'ingest',
    incrementLog,
    database: shardDatabase,
    clock: systemClock,
    stats: statsRow(makeStats(1), 0),
    random: () => 0.5,
    flushIntervalMs: 1000,
    earlyFlush: { keysMax: 1000, bytesMax: 2 ** 20, recordBytesMax: 2 ** 20 },
    ackTimeoutMs: 5000,
    node: randomUUID(),
    shard: 0,
    shards: 1,
    intervals: { roundMs: 20, wordMs: 100 },
    tell: () => undefined,
    fail: (error) => {
      throw error;
    },
    log: (_, fields, message) => {
      const { stream } = fields as { stream: string };
      if (message.startsWith('Began a stream')) streams.push(stream);
      if (message.startsWith('The stream has ended')) ended.push(stream);
    },
  });
  try {
    await shard.start();
    const [stream = ''] = streams;
    const found = (await other.survey()).streams.find((survey) => survey.stream === stream);
    assert.ok(found?.isWritten === true);
    const taken = await other.take(stream, found.epoch, true);
    assert.notEqual(taken?.appendEpoch, undefined);
    await eventually('a new stream', () => Promise.resolve(streams.length === 2));
    assert.deepEqual(ended, [stream]);
  } finally {
    await shard.drain();
    await other.close();
    await otherDatabase.close();
    await database.drop();
  }
});
