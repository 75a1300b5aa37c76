/**
 * The table of the peers and its upsert: one prepared statement for any number of increments, in the order of the keys,
 * so that two statements cannot deadlock.
 */
import pg from 'pg';

const upsert = `
  insert into counters (key, sum)
  select key, amount from unnest($1::text[], $2::bigint[]) as pair (key, amount) order by key
  on conflict (key) do update set sum = counters.sum + excluded.sum`;

/** A pool on DATABASE_URL, with the table in it. */
export async function openCounters(connections) {
  const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: connections });
  await pool.query(
    'create table if not exists counters (key text collate "C" primary key, sum bigint not null) with (fillfactor = 50)',
  );
  return {
    add: (increments) =>
      pool.query({
        name: 'add',
        text: upsert,
        values: [increments.map(([key]) => key), increments.map(([, amount]) => amount)],
      }),
    async total() {
      const { rows } = await pool.query(
        'select coalesce(sum(sum), 0)::text as sum, count(*)::text as keys from counters',
      );
      return rows[0];
    },
    close: () => pool.end(),
  };
}
