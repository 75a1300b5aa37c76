/**
 * `npm run bench:chart -- [FILE]`: draws docs/benchmarks.svg from FILE (default: the baseline). The chart shows
 * increments a second and CPU time an increment, one bar a server, of the newest canonical run and of the peers in
 * their newest run.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const WIDTH = 300;
const BAR = 28;
const LABEL_ROOM = 56;
const OURS = /^(memory|file-)/;
const COLORS = { floor: '#6b7280', ours: '#1d4ed8', peers: '#b45309', database: '#cbd5e1' };
/** Dark on white always, because an image does not know the theme of its page. */
const INK = '#111827';

try {
  const [file = path('../../results/baseline.jsonl')] = process.argv.slice(2);
  const runs = readRuns(file);
  const canonical = newest(runs, 'turns');
  if (canonical === undefined)
    throw new Error(`${file} has no canonical run: npm run bench -- --out ${file} makes one.`);
  const peers = newest(runs, 'peers');
  const output = path('../../../docs/benchmarks.svg');
  writeFileSync(output, `${await draw(canonical, peers, await loadVega())}\n`);
  console.log(`${output}: ${canonical.date}, peers ${peers?.date ?? 'not measured'}`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}

async function loadVega() {
  try {
    return await import('vega');
  } catch (error) {
    throw new Error('The chart needs its library: npm ci --prefix bench/report/chart.', { cause: error });
  }
}

function readRuns(file) {
  if (!existsSync(file)) throw new Error(`There is no ${file}: npm run bench -- --out ${file} makes one.`);
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

function newest(runs, kind) {
  return runs.findLast((run) => run.kind === kind && run.scenario === 'canonical');
}

/** One row a server. A server of ours that is in both runs is drawn from the canonical one. */
function rowsOf(canonical, peers) {
  const others = (peers?.contenders ?? []).filter(({ name }) => !OURS.test(name));
  return [...canonical.contenders, ...others].map(({ name, median }) => ({
    name: OURS.test(name) ? `ours, ${name}` : name,
    color: name === 'floor' ? COLORS.floor : OURS.test(name) ? COLORS.ours : COLORS.peers,
    speed: median.incrementsPerSecond,
    server: median.serverCpuUs,
    cpu: median.serverCpuUs + median.databaseCpuUs,
  }));
}

function draw(canonical, peers, vega) {
  const rows = rowsOf(canonical, peers);
  const { machine, connections, date, commit } = canonical;
  const where = `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGib} GiB`;
  const spec = {
    $schema: 'https://vega.github.io/schema/vega/v6.json',
    background: 'white',
    padding: 16,
    height: rows.length * BAR,
    config: {
      text: { fill: INK, fontSize: 12 },
      axis: {
        labelColor: INK,
        titleColor: INK,
        labelFontSize: 12,
        labelLimit: 0,
        titleFontSize: 12,
        titleFontWeight: 'normal',
      },
      title: { color: INK, subtitleColor: INK },
    },
    layout: { columns: 2, padding: { column: 8 }, bounds: 'full', align: 'none' },
    title: {
      text: 'One key a body, 1,000 counters',
      subtitle: `${where}; ${connections} connections; ${date.slice(0, 10)}, commit ${commit}`,
      anchor: 'start',
      fontSize: 15,
      subtitleFontSize: 12,
      offset: 14,
    },
    data: [{ name: 'rows', values: rows }],
    scales: [
      {
        name: 'y',
        type: 'band',
        domain: { data: 'rows', field: 'name' },
        range: [0, rows.length * BAR],
        padding: 0.25,
      },
    ],
    marks: [
      panel({
        title: 'increments a second, acknowledged',
        total: 'speed',
        format: ',.0f',
        names: true,
        segments: [{ from: null, to: 'speed' }],
      }),
      panel({
        title: 'µs of CPU an increment; grey: its database',
        total: 'cpu',
        format: '.3~r',
        names: false,
        segments: [
          { from: null, to: 'server' },
          { from: 'server', to: 'cpu', color: COLORS.database },
        ],
      }),
    ],
  };
  return new vega.View(vega.parse(spec), { renderer: 'none' }).toSVG();
}

/** A group of horizontal bars, each followed by its value. `segments` are stacked. */
function panel({ title, total, format, names, segments }) {
  const band = { y: { scale: 'y', field: 'name' }, height: { scale: 'y', band: 1 } };
  return {
    type: 'group',
    encode: { enter: { width: { value: WIDTH + LABEL_ROOM }, height: { signal: 'height' } } },
    scales: [
      { name: 'x', type: 'linear', domain: { data: 'rows', field: total }, range: [0, WIDTH], zero: true, nice: true },
    ],
    axes: [
      { orient: 'bottom', scale: 'x', tickCount: 4, grid: true, title, titlePadding: 8, titleAnchor: 'start' },
      ...(names ? [{ orient: 'left', scale: 'y', ticks: false, domain: false, labelPadding: 8 }] : []),
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
            fill: color === undefined ? { field: 'color' } : { value: color },
          },
        },
      })),
      {
        type: 'text',
        from: { data: 'rows' },
        encode: {
          enter: {
            x: { scale: 'x', field: total, offset: 5 },
            y: { scale: 'y', field: 'name', band: 0.5 },
            baseline: { value: 'middle' },
            text: { signal: `format(datum.${total}, '${format}')` },
          },
        },
      },
    ],
  };
}
