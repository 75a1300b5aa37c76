/**
 * The content of PostgreSQL after a run.
 */
import { connectTo } from './database-connection.js';

/** The tables after a run. */
export interface CountedSums {
  readonly sums: ReadonlyMap<string, bigint>;
  /** Sums of idempotent requests in `rejected_increments` that could not be checked against the window any more. */
  readonly putAside: ReadonlyMap<string, bigint>;
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
    const putAside = await connection.query<{ key: string; sum: string }>({
      text: `select convert_from(key, 'UTF8') as key, sum(amount::numeric)::text as sum
             from rejected_increments where sqlstate is null group by 1`,
    });
    const [facts] = await connection.query<{ rejected: number; deadlocks: number }>({
      text: `select (select count(*)::int from rejected_increments where sqlstate is not null) as rejected,
                    (select deadlocks::int from pg_stat_database where datname = current_database()) as deadlocks`,
    });
    if (facts === undefined) throw new Error('PostgreSQL does not answer');
    return { sums: sumsOf(counters), putAside: sumsOf(putAside), ...facts };
  } finally {
    await connection.close();
  }
}

function sumsOf(rows: readonly { readonly key: string; readonly sum: string }[]): ReadonlyMap<string, bigint> {
  return new Map(rows.map(({ key, sum }) => [key, BigInt(sum)]));
}
