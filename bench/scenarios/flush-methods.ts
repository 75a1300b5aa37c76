/**
 * Methods to write rows into `counters`: the flush of the product, an alternative with COPY, and the most that
 * PostgreSQL can take without sums, conflicts and fencing.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { SumArrayEncoder } from '#product/db/binary-array.js';
import type { DatabaseTarget } from '#product/db/connection.js';
import { FlushStatement } from '#product/db/flush-statement.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { PostgresShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { takeStream } from '../../test/support/taken-stream.js';
import { open } from '../processes/bench-postgres.js';
import { copyInto, copyRows } from './copy-into.js';
import type { RowSource } from './row-source.js';

/** The name of a method. */
export type FlushMethodName = 'unnest' | 'copy and merge' | 'copy, new rows only' | 'insert select, new rows only';

/** A writer, like a shard. */
export interface FlushWriter {
  /** Writes the next `rows` rows of the source into the table, each with the amount 1. Settles after the commit. */
  write(rows: number): Promise<void>;
  close(): Promise<void>;
}

/** A method and how to open a writer for it. */
export interface FlushMethod {
  readonly name: FlushMethodName;
  /** Whether it fails for rows that exist. */
  readonly newRowsOnly: boolean;
  open(target: DatabaseTarget, source: RowSource): Promise<FlushWriter>;
}

/** All methods. The first is that of the product. */
export const flushMethods: readonly FlushMethod[] = [
  { name: 'unnest', newRowsOnly: false, open: openProductFlush },
  { name: 'copy and merge', newRowsOnly: false, open: openCopyAndMerge },
  { name: 'copy, new rows only', newRowsOnly: true, open: openCopy },
  { name: 'insert select, new rows only', newRowsOnly: true, open: openInsertSelect },
];

/** The statement of the product, sent by its code. */
async function openProductFlush(target: DatabaseTarget, source: RowSource): Promise<FlushWriter> {
  const connection = new ShardConnection(target, { applicationName: 'benchmark' });
  const owner = { node: randomUUID(), shard: 0, journal: 'memory' };
  const flush = new FlushStatement(connection);
  const encoder = new SumArrayEncoder();
  const { stream, epoch } = await takeStream(new PostgresShardDatabase(connection, owner));
  let lsn = 0;
  return {
    async write(rows) {
      encode(encoder, source, rows);
      const { applied, keys } = await flush.run({
        ...{ stream, epoch, fromLsn: lsn, toLsn: lsn + 1, acceptedThrough: 0 },
        ...{ keys: encoder.keys(), amounts: encoder.amounts() },
      });
      if (!applied || keys !== rows) throw new Error(`a flush of ${rows} rows wrote ${keys}`);
      lsn += 1;
    },
    close: () => connection.close(),
  };
}

const CREATE_INCOMING = `create temp table incoming (key text collate "C", amount numeric) on commit delete rows`;
/** As the statement of the product, except for the source of the rows. */
const MERGE = `
with fence as (
  update journal_checkpoints set lsn = $2 + 1, accepted_through = greatest(accepted_through, now()), heard_at = now()
  where stream = $1 and epoch = 0 and lsn = $2 and closed_at is null and retired_at is null
  returning 1
),
added as (
  insert into counters (key, sum, updated_at)
  select key, amount, now() from fence cross join incoming order by key collate "C"
  on conflict (key) do update set sum = counters.sum + excluded.sum, updated_at = excluded.updated_at
  returning 1
)
select (select count(*)::int from added) as keys`;

/** COPY into a temporary table and a merge of it, in one transaction. */
async function openCopyAndMerge(target: DatabaseTarget, source: RowSource): Promise<FlushWriter> {
  const client = await openClient(target);
  const encoder = new SumArrayEncoder();
  const stream = randomUUID();
  await client.query('insert into journal_checkpoints (stream, epoch, lsn) values ($1, 0, 0)', [stream]);
  await client.query(CREATE_INCOMING);
  let lsn = 0;
  return {
    async write(rows) {
      encode(encoder, source, rows);
      await client.query('begin');
      await copyInto(client, 'copy incoming from stdin (format binary)', copyRows(encoder.keys(), encoder.amounts()));
      const merge = { name: 'merge', text: MERGE, values: [stream, lsn] };
      const { rows: merged } = await client.query<{ keys: number }>(merge);
      await client.query('commit');
      if (merged[0]?.keys !== rows) throw new Error(`a merge of ${rows} rows wrote ${merged[0]?.keys ?? 0}`);
      lsn += 1;
    },
    close: () => client.end(),
  };
}

/** COPY directly into the table, of rows that are sorted by key. */
async function openCopy(target: DatabaseTarget, source: RowSource): Promise<FlushWriter> {
  const client = await openClient(target);
  const encoder = new SumArrayEncoder();
  return {
    async write(rows) {
      encoder.reset();
      source.forEachSorted(rows, (bytes) => {
        encoder.append(bytes, 0, bytes.length, 1);
      });
      const bytes = copyRows(encoder.keys(), encoder.amounts());
      await copyInto(client, 'copy counters (key, sum) from stdin (format binary)', bytes);
    },
    close: () => client.end(),
  };
}

const INSERT_SELECT = `
insert into counters (key, sum) select $1 || lpad(n::text, 21, '0'), 1 from generate_series($2::bigint, $3::bigint) n`;

/** Rows that PostgreSQL generates in ascending order of keys: no client, no parameters. */
async function openInsertSelect(target: DatabaseTarget, source: RowSource): Promise<FlushWriter> {
  const connection = await open(target);
  const prefix = `w${source.writer}:`;
  return {
    async write(rows) {
      const values = [prefix, source.takeRange(rows), source.position - 1];
      await connection.query({ name: 'insert-select', text: INSERT_SELECT, values });
    },
    close: () => connection.close(),
  };
}

function encode(encoder: SumArrayEncoder, source: RowSource, rows: number): void {
  encoder.reset();
  source.forEach(rows, (bytes) => {
    encoder.append(bytes, 0, bytes.length, 1);
  });
}

async function openClient({ url }: DatabaseTarget): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  // The triggers of the schema refuse writes of sessions that do not say which protocol they follow.
  await client.query('set summing_counters.protocol = 2');
  return client;
}
