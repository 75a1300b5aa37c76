/**
 * Figures as tables for terminals and Markdown.
 */
import type { FlushCell, Provenance, TableSize, TurnFigures, TurnsRecord, UpkeepCase } from './record.js';

/** A column: its head and its cells. */
interface Column {
  readonly head: string;
  cell(name: string, figures: TurnFigures): string;
}

const common: readonly Column[] = [
  { head: 'server', cell: (name) => name },
  { head: 'increments/s', cell: (_, { incrementsPerSecond }) => thousands(incrementsPerSecond) },
  { head: 'p50 ms', cell: (_, { latency }) => latency.p50Ms.toFixed(2) },
  { head: 'p99 ms', cell: (_, { latency }) => latency.p99Ms.toFixed(2) },
];

/** Columns that only some runs have. They are shown if a contender has them. */
const optional: readonly Column[] = [
  {
    head: '× plain',
    cell: (_, { cpuRatioToCounterpart: ratio }) => (ratio === undefined ? '' : ratio.toFixed(2)),
  },
  {
    head: 'generator busy',
    cell: (_, { generatorBusy }) => (generatorBusy === null ? '' : `${Math.round(generatorBusy * 100)} %`),
  },
];

const server: Column = { head: 'server CPU µs', cell: (_, { serverCpuUs }) => serverCpuUs.toFixed(2) };
const database: Column = { head: 'database CPU µs', cell: (_, { databaseCpuUs }) => databaseCpuUs.toFixed(2) };

/** The columns of each kind of run, after the common columns. */
const columns: Readonly<Record<TurnsRecord['kind'], readonly Column[]>> = {
  turns: [
    ...common,
    server,
    { head: '× floor', cell: (_, { cpuRatio }) => cpuRatio.toFixed(2) },
    database,
    {
      head: 'committed/s',
      cell: (_, { committedPerSecond }) => (committedPerSecond === null ? '–' : thousands(committedPerSecond)),
    },
    { head: 'refused', cell: (_, { refused }) => thousands(refused) },
  ],
  peers: [
    ...common,
    {
      head: 'all CPU µs',
      cell: (_, { serverCpuUs, databaseCpuUs }) => (serverCpuUs + databaseCpuUs).toFixed(2),
    },
    { head: '× ours', cell: (_, { cpuRatioWithDatabase }) => cpuRatioWithDatabase.toFixed(2) },
    server,
    { head: '× ours', cell: (_, { cpuRatio }) => cpuRatio.toFixed(2) },
    database,
  ],
};

/** Rows of cells; the first row holds the heads. */
export function turnsRows(record: TurnsRecord): string[][] {
  const inUse = optional.filter((column) =>
    record.contenders.some(({ name, median }) => column.cell(name, median) !== ''),
  );
  const shown = [...columns[record.kind], ...inUse];
  return [
    shown.map(({ head }) => head),
    ...record.contenders.map((contender) => shown.map((column) => column.cell(contender.name, contender.median))),
  ];
}

/** A table for a terminal: the first column is aligned left, the others right. */
export function plainTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const align = (cell: string, column: number): string =>
    column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0);
  return rows.map((row) => row.map(align).join('  ').trimEnd()).join('\n');
}

/** A table for a document. */
export function markdownTable(rows: readonly (readonly string[])[]): string {
  const [heads = [], ...rest] = rows;
  const rule = heads.map((_, column) => (column === 0 ? '---' : '---:'));
  return [heads, rule, ...rest].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

/** The provenance of the figures of a table, in one or two sentences. */
export function origin(record: TurnsRecord): string {
  const { generator, connections, turns, secondsATurn } = record;
  return (
    `Medians of ${turns} turns of ${secondsATurn} s, ${connections} connections, ${generator}. ` +
    provenanceSentence(record)
  );
}

/** Date, commit, machine and versions. */
export function provenanceSentence({ machine, node, uws, commit, modified, date }: Provenance): string {
  return (
    `${date.slice(0, 10)}, commit ${commit}${modified ? ' with changes' : ''}; ${machine.cpu}, ${machine.cores} cores, ` +
    `${machine.memoryGib} GiB, ${machine.kernel}; Node ${node}, ${uws}.`
  );
}

/** A whole number with commas. */
export function thousands(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** Rows of cells; the first row holds the heads. */
export function flushRows(cells: readonly FlushCell[]): string[][] {
  return [
    ['way', 'rows', 'writers', 'rows a statement', 'rows/s', 'database CPU µs', 'client CPU µs', 'WAL bytes a row'],
    ...cells.map(({ method, rows, writers, rowsAStatement, median }) => [
      ...[method, rows, String(writers), thousands(rowsAStatement), thousands(median.rowsPerSecond)],
      ...[median.databaseCpuUs.toFixed(2), median.clientCpuUs.toFixed(2), thousands(median.walBytes)],
    ]),
  ];
}

/** Rows of cases; the first row holds the heads. */
export function upkeepRows(cases: readonly UpkeepCase[]): string[][] {
  const size = ({ tableBytes, indexBytes }: TableSize): string =>
    `${thousands(tableBytes / 1024)} + ${thousands(indexBytes / 1024)}`;
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  return [
    [
      ...['settings', 'rows a flush', 'of rows', 'flushes', 'HOT, first half', 'second half', 'autovacuums'],
      ...['KiB table + index at start', 'in the middle', 'at the end'],
    ],
    ...cases.map(({ settings, rowsAFlush, tableRows, flushes, hotShare, autovacuums, atStart, atMiddle, atEnd }) => [
      ...[settings, thousands(rowsAFlush), thousands(tableRows), thousands(flushes)],
      ...[percent(hotShare[0]), percent(hotShare[1]), thousands(autovacuums)],
      ...[size(atStart), size(atMiddle), size(atEnd)],
    ]),
  ];
}
