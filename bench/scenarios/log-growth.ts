/**
 * `npm run bench:log`: an hour of appends to `increment_log` in some minutes, with the statements of the product, beside flushes and
 * rounds of the pruner. It measures whether the table stays as large as what it must keep, and what a kept increment takes.
 *
 * Time is compressed: appends, flushes, rounds of the pruner and the autovacuum launcher come faster by the same factor, and
 * records are kept for a shorter time. Vacuum itself is not faster, which makes the growth look a little worse than it is.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Turns } from '#product/core/turns.js';
import { PRUNE_LOG } from '#product/db/log-statements.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { PostgresJournal } from '#product/shard-worker/journal/postgres/postgres-journal.js';
import { GroupEncoder } from '#product/shard-worker/journal/postgres/postgres-records.js';
import { RECORD_HEADER_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import { incrementEntries } from '../../test/support/record-entries.js';
import { startBenchPostgres, type BenchDatabase } from '../processes/bench-postgres.js';
import { withCleanup } from '../processes/owned-process.js';
import { wholeNumber } from './options.js';

const usage = `npm run bench:log -- [options]
Options:
  --records N         appended in a second of the hour, default 20
  --increments N      of a record, default 50
  --factor N          how much faster than the hour, default 20
  --keep N            JOURNAL_KEEP_SECONDS in the hour, default 60; 3600 keeps all
`;

const HOUR_SECONDS = 3600;
const PRUNE_INTERVAL_SECONDS = 60;
const PRUNE_BATCH = 500;
const KEYS = 1000;

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      records: { type: 'string', default: '20' },
      increments: { type: 'string', default: '50' },
      factor: { type: 'string', default: '20' },
      keep: { type: 'string', default: '60' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  const recordsPerSecond = wholeNumber('records', values.records, 1);
  const increments = wholeNumber('increments', values.increments, 1);
  const factor = wholeNumber('factor', values.factor, 1);
  const keepSeconds = wholeNumber('keep', values.keep, 1);
  const server = await startBenchPostgres();
  try {
    const database = await server.database('log_growth');
    await measure(database, { recordsPerSecond, increments, factor, keepSeconds });
    await database.connection.close();
  } finally {
    await server.stop();
  }
});

interface Hour {
  readonly recordsPerSecond: number;
  readonly increments: number;
  readonly factor: number;
  readonly keepSeconds: number;
}

async function measure(database: BenchDatabase, hour: Hour): Promise<void> {
  const { recordsPerSecond, increments, factor, keepSeconds } = hour;
  const { connection, target } = database;
  const naptime = Math.max(1, Math.round(60 / factor));
  await connection.query({ text: `alter system set autovacuum_naptime = ${naptime}` });
  await connection.query({ text: 'select pg_reload_conf()' });
  const open = (): ShardConnection => new ShardConnection(target, { applicationName: 'benchmark' });
  const [appends, flushes, pruner] = [open(), open(), open()];
  const log = new PostgresJournal({
    ...{ statements: appends, flushes, flushTurns: new Turns() },
    owner: { node: randomUUID(), shard: 0, flusher: randomUUID() },
  });
  const { stream, time } = await log.begin(randomUUID());
  const appendEpoch = log.appendEpochOf(stream);
  const encoder = new GroupEncoder();
  const walBefore = await walPosition(database);
  const startMs = performance.now();
  let lsn = 0;
  let mostBytes = 0;
  for (let second = 0; second < HOUR_SECONDS; second += 1) {
    for (let record = 0; record < recordsPerSecond; record += 1) {
      const outcome = await log.append(stream, appendEpoch, time, lsn + 1, encoder.encode([recordOf(lsn, increments)]));
      if (outcome.kind !== 'appended') throw new Error(`an append was ${outcome.kind}`);
      lsn += 1;
    }
    await connection.query({
      text: 'update journal_checkpoints set lsn = $2 where stream = $1',
      values: [stream, lsn],
    });
    if (second % PRUNE_INTERVAL_SECONDS === PRUNE_INTERVAL_SECONDS - 1) {
      await prune(pruner, keepSeconds / factor);
      const { total } = await sizeOf(database);
      mostBytes = Math.max(mostBytes, total);
      if ((second + 1) % 600 === 0) console.log(`minute ${(second + 1) / 60}: ${mib(total)} in all`);
    }
    const earlyMs = startMs + ((second + 1) * 1000) / factor - performance.now();
    if (earlyMs > 1) await delay(earlyMs);
  }
  const seconds = (performance.now() - startMs) / 1000;
  const { total, table, toast, index, rows } = await sizeOf(database);
  const wal = (await walPosition(database)) - walBefore;
  for (const opened of [appends, flushes, pruner]) await opened.close();
  const counted = lsn * increments;
  const keptSeconds = keepSeconds + PRUNE_INTERVAL_SECONDS;
  console.log(
    [
      `${lsn} records of ${increments} increments in ${Math.round(seconds)} s, ${factor} times as fast as an hour; kept for ${keepSeconds} s of it`,
      `at the end ${rows} records, ${mib(total)}: table ${mib(table)}, long values ${mib(toast)}, index ${mib(index)}; at most ${mib(mostBytes)}`,
      `an increment takes ${Math.round(total / (rows * increments))} bytes of what is kept, and ${Math.round(wal / counted)} bytes of write-ahead log`,
      `what must be kept, ${keptSeconds} s, is ${recordsPerSecond * Math.min(keptSeconds, HOUR_SECONDS)} records`,
    ].join('\n'),
  );
}

function recordOf(lsn: number, increments: number): Uint8Array {
  const keys = Array.from({ length: increments }, (_, index) => `page:/articles/${(lsn * 31 + index * 7) % KEYS}`);
  const entries = incrementEntries(keys.map((key) => [key, 1]));
  const record = new Uint8Array(RECORD_HEADER_BYTES + entries.length);
  record.set(entries, RECORD_HEADER_BYTES);
  return record;
}

async function prune(connection: ShardConnection, keepSeconds: number): Promise<void> {
  for (;;) {
    const values = [keepSeconds, PRUNE_BATCH, PRUNE_BATCH];
    const [row] = await connection.run<{ pruned: number }>({ text: PRUNE_LOG, values });
    if ((row?.pruned ?? 0) < PRUNE_BATCH) return;
  }
}

interface LogSize {
  readonly total: number;
  readonly table: number;
  readonly toast: number;
  readonly index: number;
  readonly rows: number;
}

async function sizeOf({ connection }: BenchDatabase): Promise<LogSize> {
  const [row] = await connection.query<Record<keyof LogSize, string>>({
    text: `select pg_total_relation_size(c.oid)::text as total, pg_relation_size(c.oid)::text as table,
                  pg_total_relation_size(c.reltoastrelid)::text as toast, pg_indexes_size(c.oid)::text as index,
                  (select count(*) from increment_log)::text as rows
           from pg_class c where c.oid = 'increment_log'::regclass`,
  });
  const of = (name: keyof LogSize): number => Number(row?.[name]);
  return { total: of('total'), table: of('table'), toast: of('toast'), index: of('index'), rows: of('rows') };
}

async function walPosition({ connection }: BenchDatabase): Promise<number> {
  const [row] = await connection.query<{ bytes: string }>({
    text: `select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::text as bytes`,
  });
  return Number(row?.bytes);
}

function mib(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
