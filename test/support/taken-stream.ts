/** Streams whose row is taken, for tests and benchmarks of what comes after. */
import { randomUUID } from 'node:crypto';
import type { PostgresShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';

/** A stream whose row was taken. */
export interface TakenStream {
  readonly stream: string;
  readonly epoch: number;
}

/** Takes a stream under a random claim that begins at LSN 0 or at the checkpoint. */
export async function takeStream(database: PostgresShardDatabase, stream: string = randomUUID()): Promise<TakenStream> {
  const taken = await database.take(
    stream,
    ({ lsn }) => ({ claims: [{ id: randomUUID(), lsn }], lsn }),
    () => undefined,
  );
  if (taken === undefined) throw new Error(`another session has made the row of stream ${stream}`);
  return { stream, epoch: taken.row.epoch };
}
