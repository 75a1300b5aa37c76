/**
 * `npm run bench:chart -- [FILE] [NAME]`: draws the newest run of that name (default canonical) in FILE (default the
 * baseline) as docs/benchmarks.svg: increments a second, and CPU an increment, one bar a server.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const WIDTH = 300;
const BAR = 26;

try {
  const [file = path('../results/baseline.jsonl'), name = 'canonical'] = process.argv.slice(2);
  const run = newestRun(file, name);
  const output = path('../../docs/benchmarks.svg');
  writeFileSync(output, `${await draw(run, await loadVega())}\n`);
  console.log(`${output}: ${name}, ${run.date}`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}

async function loadVega() {
  try {
    return await import('vega');
  } catch (error) {
    throw new Error('The chart needs its library: npm ci --prefix bench/chart.', { cause: error });
  }
}

function newestRun(file, name) {
  if (!existsSync(file)) throw new Error(`There is no ${file}: npm run bench -- --out ${file} makes one.`);
  const runs = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
  const kind = name === 'peers' ? 'peers' : 'turns';
  const scenario = name === 'peers' ? 'canonical' : name;
  const run = runs.findLast((candidate) => candidate.kind === kind && candidate.scenario === scenario);
  if (run === undefined) throw new Error(`${file} has no run of ${name}.`);
  return run;
}

function draw(run, vega) {
  const rows = run.contenders.map(({ name, median }) => ({
    name,
    speed: median.incrementsPerSecond,
    server: median.serverCpuUs,
    database: median.databaseCpuUs,
    cpu: median.serverCpuUs + median.databaseCpuUs,
  }));
  const spec = {
    $schema: 'https://vega.github.io/schema/vega/v6.json',
    background: 'white',
    padding: 12,
    height: rows.length * BAR,
    layout: { columns: 2, padding: 40, bounds: 'full', align: 'all' },
    title: { text: `${run.scenario}: ${run.machine.cpu}, ${run.machine.cores} cores, ${run.connections} connections` },
    data: [{ name: 'rows', values: rows }],
    scales: [
      { name: 'y', type: 'band', domain: { data: 'rows', field: 'name' }, range: [0, rows.length * BAR], padding: 0.2 },
    ],
    marks: [
      panel('increments a second, acknowledged', 'speed', ',.0f', [{ from: null, to: 'speed', color: '#2b6cb0' }]),
      panel('µs of CPU an increment: server and its database', 'cpu', '.2f', [
        { from: null, to: 'server', color: '#2b6cb0' },
        { from: 'server', to: 'cpu', color: '#a0aec0' },
      ]),
    ],
  };
  return new vega.View(vega.parse(spec), { renderer: 'none' }).toSVG();
}

/** A group of horizontal bars with their values behind them; `segments` are stacked. */
function panel(title, total, format, segments) {
  const band = { y: { scale: 'y', field: 'name' }, height: { scale: 'y', band: 1 } };
  return {
    type: 'group',
    title: { text: title, anchor: 'start', fontWeight: 'normal' },
    encode: { enter: { width: { value: WIDTH }, height: { signal: 'height' } } },
    scales: [
      { name: 'x', type: 'linear', domain: { data: 'rows', field: total }, range: [0, WIDTH], zero: true, nice: true },
    ],
    axes: [
      { orient: 'left', scale: 'y', ticks: false, domain: false, labelPadding: 6 },
      { orient: 'bottom', scale: 'x', tickCount: 4, grid: true },
    ],
    marks: [
      ...segments.map(({ from, to, color }) => ({
        type: 'rect',
        from: { data: 'rows' },
        encode: {
          enter: {
            ...band,
            x: from === null ? { scale: 'x', value: 0 } : { scale: 'x', field: from },
            x2: { scale: 'x', field: to },
            fill: { value: color },
          },
        },
      })),
      {
        type: 'text',
        from: { data: 'rows' },
        encode: {
          enter: {
            x: { scale: 'x', field: total, offset: 4 },
            y: { scale: 'y', field: 'name', band: 0.5 },
            baseline: { value: 'middle' },
            fontSize: { value: 10 },
            text: { signal: `format(datum.${total}, '${format}')` },
          },
        },
      },
    ],
  };
}
