/**
 * `npm run bench:table`: an hour of flushes in about a minute, with the statement of the product, into `counters` with
 * the settings of PostgreSQL, with those of the product's migrations, and with other fill factors. It measures how many
 * updates write no index, and whether the table grows.
 *
 * Time is compressed. So the autovacuum launcher checks the tables more often than once a minute, by the same factor as
 * the flushes are faster than one a second. Vacuum itself is not faster, which makes the default settings, whose vacuum
 * pauses, look a little worse than they are.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { SumArrayEncoder } from '#product/db/binary-array.js';
import type { DatabaseTarget } from '#product/db/connection.js';
import { FlushStatement } from '#product/db/flush-statement.js';
import { ShardConnection } from '#product/db/shard-connection.js';
import { PostgresShardDatabase } from '#product/shard-worker/thread/flush/shard-database.js';
import { takeStream } from '../../test/support/taken-stream.js';
import { startBenchPostgres, type BenchDatabase } from '../processes/bench-postgres.js';
import { wholeNumber } from './options.js';
import { withCleanup } from '../processes/owned-process.js';
import { appendRecord, provenance, runsFile, type TableSize, type UpkeepCase } from '../report/record.js';
import { RowSource } from './row-source.js';
import { plainTable, provenanceSentence, upkeepRows } from '../report/table.js';

const usage = `npm run bench:table -- [options]
Options:
  --flushes N         of each case, default 3600: an hour of one a second
  --fillfactors A,B   besides the default's and the migration's, such as 50,90; default none
  --out FILE          append the run's line to this file, default bench/results/runs.jsonl
`;

const USUAL_NAPTIME_SECONDS = 60;
const STATISTICS_MS_MAX = 30_000;
const POLL_MS = 100;

interface Load {
  readonly tableRows: number;
  readonly rowsAFlush: number;
  readonly flushesPerSecond: number;
  /** Share of the requested flushes, because a large flush counts as several. */
  readonly share: number;
}

const loads: readonly Load[] = [
  { tableRows: 1_000, rowsAFlush: 1_000, flushesPerSecond: 60, share: 1 },
  { tableRows: 100_000, rowsAFlush: 10_000, flushesPerSecond: 10, share: 1 / 6 },
];

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      flushes: { type: 'string', default: '3600' },
      fillfactors: { type: 'string', default: '' },
      out: { type: 'string', default: runsFile },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  const flushes = wholeNumber('flushes', values.flushes, 12);
  const others = values.fillfactors.split(',').filter((text) => text !== '');
  const settings = [
    'default',
    'migration',
    ...others.map((text) => `fillfactor ${wholeNumber('fillfactors', text, 10)}`),
  ];
  const facts = provenance('no uWebSockets.js');
  const server = await startBenchPostgres();
  try {
    const cases: UpkeepCase[] = [];
    for (const load of loads) {
      for (const name of settings) {
        const database = await server.database(`upkeep_${cases.length}`);
        console.log(
          `${name}: ${load.rowsAFlush} of ${load.tableRows} rows a flush, about ${Math.round((flushes * load.share) / load.flushesPerSecond)} s`,
        );
        const found = await measure(database, load, name, Math.ceil(flushes * load.share));
        cases.push(found);
        console.log(upkeepRows([found]).at(-1)?.join('  '));
        await database.connection.close();
      }
    }
    const record = { ...facts, kind: 'upkeep', postgres: server.version, cases } as const;
    appendRecord(values.out, record);
    console.log(`\n${plainTable(upkeepRows(cases))}\n\n${provenanceSentence(record)}`);
  } finally {
    await server.stop();
  }
});

async function measure(
  { connection, target }: BenchDatabase,
  { tableRows, rowsAFlush, flushesPerSecond }: Load,
  settings: string,
  flushes: number,
): Promise<UpkeepCase> {
  const autovacuumNaptimeSeconds = Math.max(1, Math.round(USUAL_NAPTIME_SECONDS / flushesPerSecond));
  await connection.query({ text: `alter system set autovacuum_naptime = ${autovacuumNaptimeSeconds}` });
  await connection.query({ text: 'select pg_reload_conf()' });
  await applySettings(connection, settings);
  const storage = await storageOf(connection);
  const source = new RowSource(0, tableRows);
  await flushPaced(target, source, { flushes: 1, rows: tableRows, perSecond: 1 });
  await connection.query({ text: 'vacuum analyze counters' });
  const atStart = await sizeOf(connection);
  const half = Math.ceil(flushes / 2);
  const startMs = performance.now();
  const aHalf = { flushes: half, rows: rowsAFlush, perSecond: flushesPerSecond };
  await flushPaced(target, source, aHalf);
  const first = await statisticsOf(connection, half * rowsAFlush);
  const atMiddle = await sizeOf(connection);
  await flushPaced(target, source, aHalf);
  const both = await statisticsOf(connection, 2 * half * rowsAFlush);
  const seconds = (performance.now() - startMs) / 1000;
  const atEnd = await sizeOf(connection);
  const [sum] = await connection.query<{ sum: string }>({ text: 'select sum(sum)::text as sum from counters' });
  if (Number(sum?.sum) !== tableRows + 2 * half * rowsAFlush)
    throw new Error(`The sum ${sum?.sum ?? 0} is not the sum of the flushes.`);
  return {
    ...{
      settings,
      storage,
      tableRows,
      rowsAFlush,
      flushes: 2 * half,
      flushesPerSecond,
      autovacuumNaptimeSeconds,
      seconds,
    },
    hotShare: [first.hot / first.updated, (both.hot - first.hot) / (both.updated - first.updated)],
    autovacuums: both.autovacuums,
    ...{ atStart, atMiddle, atEnd },
  };
}

type Connection = BenchDatabase['connection'];

async function applySettings(connection: Connection, settings: string): Promise<void> {
  if (settings === 'migration') return;
  const reset = [...((await storageOf(connection)).match(/\w+(?==)/g) ?? [])];
  const fillfactor = /^fillfactor (\d+)$/.exec(settings)?.[1];
  if (fillfactor === undefined) await connection.query({ text: `alter table counters reset (${reset.join(', ')})` });
  else await connection.query({ text: `alter table counters set (fillfactor = ${fillfactor})` });
}

async function storageOf(connection: Connection): Promise<string> {
  const [row] = await connection.query<{ storage: string }>({
    text: `select coalesce(array_to_string(reloptions, ', '), '') as storage from pg_class where oid = 'counters'::regclass`,
  });
  return row?.storage ?? '';
}

async function sizeOf(connection: Connection): Promise<TableSize> {
  const [row] = await connection.query<{ table: string; index: string }>({
    text: `select pg_relation_size('counters')::text as table, pg_indexes_size('counters')::text as index`,
  });
  return { tableBytes: Number(row?.table), indexBytes: Number(row?.index) };
}

/** The statistics of PostgreSQL, once they include all `updated` updates, which sessions report when they end. */
async function statisticsOf(
  connection: Connection,
  updated: number,
): Promise<{ readonly updated: number; readonly hot: number; readonly autovacuums: number }> {
  for (const startMs = performance.now(); ;) {
    const [row] = await connection.query<{ updated: string; hot: string; autovacuums: string }>({
      text: `select n_tup_upd::text as updated, n_tup_hot_upd::text as hot, autovacuum_count::text as autovacuums
             from pg_stat_all_tables where relid = 'counters'::regclass`,
    });
    const found = Number(row?.updated ?? 0);
    if (found === updated) return { updated, hot: Number(row?.hot), autovacuums: Number(row?.autovacuums) };
    if (performance.now() - startMs > STATISTICS_MS_MAX) {
      throw new Error(`PostgreSQL counts ${found} updates, ${updated} were made.`);
    }
    await delay(POLL_MS);
  }
}

/** Flushes at a fixed rate with the code of the product, in a session and a stream of its own. */
async function flushPaced(
  target: DatabaseTarget,
  source: RowSource,
  { flushes, rows, perSecond }: { readonly flushes: number; readonly rows: number; readonly perSecond: number },
): Promise<void> {
  const connection = new ShardConnection(target, { applicationName: 'benchmark' });
  const owner = { node: randomUUID(), shard: 0, journal: 'memory' };
  const flush = new FlushStatement(connection);
  const encoder = new SumArrayEncoder();
  const { stream, epoch } = await takeStream(new PostgresShardDatabase(connection, owner));
  const startMs = performance.now();
  for (let lsn = 0; lsn < flushes; lsn += 1) {
    const earlyMs = startMs + (lsn * 1000) / perSecond - performance.now();
    if (earlyMs > 1) await delay(earlyMs);
    encoder.reset();
    source.forEach(rows, (bytes) => {
      encoder.append(bytes, 0, bytes.length, 1);
    });
    const { applied } = await flush.run({
      ...{ stream, epoch, fromLsn: lsn, toLsn: lsn + 1, acceptedThrough: 0 },
      ...{ keys: encoder.keys(), amounts: encoder.amounts() },
    });
    if (!applied) throw new Error('a flush was fenced');
  }
  await connection.close();
}
