/**
 * The database side of a shard, and flush requests, for tests.
 */
import { randomUUID } from 'node:crypto';
import type { Sum } from '#product/core/increment.js';
import { SumArrayEncoder } from '#product/db/binary-array.js';
import { parseDatabaseUrl } from '#product/db/connection.js';
import { FlushStatement, type FlushRequest, type FlushResult } from '#product/db/flush-statement.js';
import { ShardConnection, type ShardConnectionOptions } from '#product/db/shard-connection.js';
import { PostgresShardDatabase, type StreamRow } from '#product/shard-worker/thread/flush/shard-database.js';
import { takeStream, type TakenStream } from './taken-stream.js';

// The tests of faults import it from here.
export { createMigratedDatabase } from './migrated-database.js';

/** The binary arrays of some increments. */
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

/** A flush of `increments` that moves the stream from one LSN to the next. */
export function flushOf(
  at: { readonly stream: string; readonly epoch: number; readonly fromLsn: number; readonly toLsn: number },
  increments: Iterable<readonly [string | Buffer, Sum]>,
): FlushRequest {
  return { ...at, acceptedThrough: 1, ...encodeIncrements(increments) };
}

/** A shard's connection with both of its users: the shard's database calls, and the flush statement with any request. */
export class TestShard {
  readonly database: PostgresShardDatabase;
  readonly #flush: FlushStatement;

  constructor(url: string, options: ShardConnectionOptions, journal = 'file') {
    const connection = new ShardConnection(parseDatabaseUrl(url), options);
    this.database = new PostgresShardDatabase(connection, { node: randomUUID(), shard: 0, journal });
    this.#flush = new FlushStatement(connection);
  }

  /** A new stream at LSN 0. */
  newStream(): Promise<TakenStream> {
    return takeStream(this.database);
  }

  /** Runs the flush statement. */
  flush(request: FlushRequest): Promise<FlushResult> {
    return this.#flush.run(request);
  }

  readBack(stream: string): Promise<StreamRow | undefined> {
    return this.database.readBack(stream);
  }

  close(): Promise<void> {
    return this.database.close();
  }
}
