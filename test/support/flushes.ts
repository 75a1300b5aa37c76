/**
 * Pairs and flush requests for tests of the database side.
 */
import { randomUUID } from 'node:crypto';
import type { CheckpointStore } from '#product/db/checkpoint-store.js';
import type { FlushRequest } from '#product/db/flush-request.js';
import { SumArrayEncoder } from '#product/db/binary-array.js';
import { connect, parseDatabaseUrl } from '#product/db/connection.js';
import { migrate } from '#product/db/schema/migrate.js';
import type { Sum } from '#product/core/increment.js';
import { createTestDatabase, type TestDatabase } from './database.js';

/** The binary arrays of some pairs. */
export function encodeIncrements(increments: Iterable<readonly [string | Buffer, Sum]>): {
  keys: Buffer;
  amounts: Buffer;
} {
  const encoder = new SumArrayEncoder();
  for (const [key, sum] of increments) {
    const bytes = typeof key === 'string' ? Buffer.from(key) : key;
    encoder.append(bytes, 0, bytes.length, sum);
  }
  return { keys: encoder.keys(), amounts: encoder.amounts() };
}

/** A flush of `pairs` that moves the stream from one LSN to the next. */
export function flushOf(
  at: { readonly stream: string; readonly epoch: number; readonly fromLsn: number; readonly toLsn: number },
  increments: Iterable<readonly [string | Buffer, Sum]>,
): FlushRequest {
  return { ...at, acceptedThrough: new Date(), ...encodeIncrements(increments) };
}

/** A new stream at epoch 0, LSN 0. */
export async function newStream(store: CheckpointStore): Promise<string> {
  const stream = randomUUID();
  await store.ensureStream(stream, { node: randomUUID(), shard: 0, journal: 'memory' });
  return stream;
}

/** A fresh database with the current schema. */
export async function createMigratedDatabase(): Promise<TestDatabase> {
  const database = await createTestDatabase();
  const connection = await connect(parseDatabaseUrl(database.url), { applicationName: 'test-migrate' });
  await migrate(connection);
  await connection.close();
  return database;
}
