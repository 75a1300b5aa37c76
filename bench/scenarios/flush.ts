/**
 * `npm run bench:flush`: rows a second into PostgreSQL with the flush of the product and with other methods, for new
 * and for existing rows, with one and with two writers. Then, for a minute each, new rows with the flush of the product
 * and the most that PostgreSQL can take. There is no server: these rows limit the distinct keys a second of a node.
 */
import { parseArgs } from 'node:util';
import { startBenchPostgres, type BenchPostgres } from '../processes/bench-postgres.js';
import { flushMethods, type FlushMethod } from './flush-methods.js';
import { FlushTable, type FlushSubject } from './flush-stretch.js';
import { wholeNumber } from './options.js';
import { withCleanup } from '../processes/owned-process.js';
import { appendRecord, provenance, runsFile, type FlushCell, type FlushFigures } from '../report/record.js';
import { median } from '../report/statistics.js';
import { flushRows, plainTable, provenanceSentence, thousands } from '../report/table.js';

const usage = `npm run bench:flush -- [options]
Options:
  --turns N       turns of each way, default 5
  --seconds N     of statements a turn, default 1
  --sustained N   seconds of the long stretches, 0 for none; default 60
  --rows A,B      rows a statement, default 1000,10000,100000
  --writers A,B   connections at the same time, up to 9; default 1,2
  --out FILE      append the run's line to this file, default bench/results/runs.jsonl
`;

/** Existing rows for each writer. */
const EXISTING_ROWS = 200_000;
/** Rows that a shard flushes a second if every increment has a new key. */
const SUSTAINED_ROWS = 100_000;

interface Options {
  readonly turns: number;
  readonly seconds: number;
  readonly sustained: number;
  readonly rows: readonly number[];
  readonly writers: readonly number[];
}

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      turns: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '1' },
      sustained: { type: 'string', default: '60' },
      rows: { type: 'string', default: '1000,10000,100000' },
      writers: { type: 'string', default: '1,2' },
      out: { type: 'string', default: runsFile },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  const options = {
    turns: wholeNumber('turns', values.turns, 1),
    seconds: wholeNumber('seconds', values.seconds, 1),
    sustained: wholeNumber('sustained', values.sustained, 0),
    rows: values.rows.split(',').map((text) => wholeNumber('rows', text, 1)),
    writers: values.writers.split(',').map((text) => wholeNumber('writers', text, 1)),
  };
  const facts = provenance('no uWebSockets.js');
  const server = await startBenchPostgres();
  try {
    const cells = await measureCells(server, options);
    const sustained = options.sustained === 0 ? [] : await measureSustained(server, options.sustained);
    const record = {
      ...facts,
      ...({ kind: 'flush', postgres: server.version, secondsATurn: options.seconds, turns: options.turns } as const),
      ...{ cells, sustained },
    };
    appendRecord(values.out, record);
    console.log(`\n${plainTable(flushRows(cells))}`);
    if (sustained.length > 0) console.log(`\n${plainTable(flushRows(sustained))}`);
    console.log(`\n${provenanceSentence(record)}`);
  } finally {
    await server.stop();
  }
});

/** Measures the cells in turns: all cells once, then all cells again. */
async function measureCells(server: BenchPostgres, { turns, seconds, rows, writers }: Options): Promise<FlushCell[]> {
  const tables = await openTables(server, Math.max(...writers));
  const subjects: readonly FlushSubject[] = tables.flatMap(({ method, kind }) =>
    writers.flatMap((count) => rows.map((rowsAStatement) => ({ method, rows: kind, writers: count, rowsAStatement }))),
  );
  const figures = subjects.map((): FlushFigures[] => []);
  for (let turn = 1; turn <= turns; turn += 1) {
    for (const [index, subject] of subjects.entries()) {
      const table = tables.find(({ method, kind }) => method === subject.method && kind === subject.rows);
      if (table === undefined) continue;
      const measured = await table.table.run(subject.writers, subject.rowsAStatement, seconds);
      figures[index]?.push(measured);
      console.log(`turn ${turn}/${turns}  ${progressLine(subject, measured)}`);
    }
  }
  for (const { table } of tables) await table.close();
  return subjects.map((subject, index) => cell(subject, figures[index] ?? []));
}

interface NamedTable {
  readonly method: FlushMethod;
  readonly kind: FlushSubject['rows'];
  readonly table: FlushTable;
}

/** Makes a database for each method and kind of rows. */
async function openTables(server: BenchPostgres, writers: number): Promise<readonly NamedTable[]> {
  const tables: NamedTable[] = [];
  for (const [number, method] of flushMethods.entries()) {
    for (const kind of method.newRowsOnly ? (['new'] as const) : (['new', 'existing'] as const)) {
      const database = await server.database(`${kind}_rows_${number}`);
      const table = new FlushTable(database, method, server.pid, kind === 'new' ? undefined : EXISTING_ROWS);
      await table.open(writers);
      tables.push({ method, kind, table });
    }
  }
  return tables;
}

/** Writes new rows for a long time: with the flush of the product, then with the methods for new rows only. */
async function measureSustained(server: BenchPostgres, seconds: number): Promise<FlushCell[]> {
  const cells: FlushCell[] = [];
  for (const [number, method] of flushMethods.entries()) {
    if (!(number === 0 || method.newRowsOnly)) continue;
    const table = new FlushTable(await server.database(`sustained_${number}`), method, server.pid);
    await table.open(1);
    const measured = await table.run(1, SUSTAINED_ROWS, seconds, true);
    await table.close();
    const subject = { method, rows: 'new', writers: 1, rowsAStatement: SUSTAINED_ROWS } as const;
    console.log(`sustained  ${progressLine(subject, measured)}`);
    cells.push(cell(subject, [measured]));
  }
  return cells;
}

function cell({ method, rows, writers, rowsAStatement }: FlushSubject, turns: readonly FlushFigures[]): FlushCell {
  const of = (figure: (turn: FlushFigures) => number): number => median(turns.map(figure));
  return {
    ...{ method: method.name, rows, writers, rowsAStatement },
    median: {
      rows: of((turn) => turn.rows),
      seconds: of((turn) => turn.seconds),
      rowsPerSecond: of((turn) => turn.rowsPerSecond),
      databaseCpuUs: of((turn) => turn.databaseCpuUs),
      clientCpuUs: of((turn) => turn.clientCpuUs),
      walBytes: of((turn) => turn.walBytes),
    },
    turns,
  };
}

function progressLine({ method, rows, writers, rowsAStatement }: FlushSubject, figures: FlushFigures): string {
  return [
    `${method.name} (${rows})`.padEnd(40),
    `${writers} × ${thousands(rowsAStatement).padStart(7)} rows`,
    `${thousands(figures.rowsPerSecond).padStart(9)} rows/s`,
    `${figures.databaseCpuUs.toFixed(2)} µs database + ${figures.clientCpuUs.toFixed(2)} µs client`,
    `${figures.seconds.toFixed(1)} s`,
  ].join('  ');
}
