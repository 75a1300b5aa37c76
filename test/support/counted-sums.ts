/**
 * The content of PostgreSQL after a run.
 */
import { connectTo } from './database-connection.js';

/** The tables after a run. */
export interface CountedSums {
  readonly sums: ReadonlyMap<string, bigint>;
  /** Rows that PostgreSQL refused. */
  readonly rejected: number;
  /** Since the server's statistics began, at its last recovery from a crash. */
  readonly deadlocks: number;
}

/** Reads them over a connection of its own. */
export async function readCountedSums(url: string): Promise<CountedSums> {
  const connection = await connectTo(url, 'test-verification');
  try {
    const counters = await connection.query<{ key: string; sum: string }>({
      text: 'select key, sum::text as sum from counters',
    });
    const [facts] = await connection.query<{ rejected: number; deadlocks: number }>({
      text: `select (select count(*)::int from rejected_increments) as rejected,
                    (select deadlocks::int from pg_stat_database where datname = current_database()) as deadlocks`,
    });
    if (facts === undefined) throw new Error('PostgreSQL does not answer');
    return { sums: new Map(counters.map(({ key, sum }) => [key, BigInt(sum)])), ...facts };
  } finally {
    await connection.close();
  }
}
