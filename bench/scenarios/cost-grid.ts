/**
 * `npm run bench:grid`: the cost of an increment over connections, keys, keys a body and shards. Each axis is measured
 * by itself from one middle point, in short stretches; a server is started for each number of shards. About five
 * minutes.
 */
import { parseArgs } from 'node:util';
import { defaultGenerator, journalNamed, wholeNumber } from './options.js';
import { journalNames, ourServer } from '../contenders/our-server.js';
import { withCleanup } from '../processes/owned-process.js';
import { appendRecord, provenance, runsFile } from '../report/record.js';
import { MeasuredContender } from './stretch.js';
import { plainTable, thousands } from '../report/table.js';
import { batchWorkload } from '../load/workload.js';

interface Point {
  readonly connections: number;
  readonly keys: number;
  readonly incrementsPerBody: number;
  readonly shards: number;
}

const middle: Point = { connections: 128, keys: 1000, incrementsPerBody: 1, shards: 1 };
const connectionsAxis = [1, 4, 16, 64, 256, 1024];
const keysAxis = [1, 100, 10_000, 100_000, 1_000_000];
const incrementsAxis = [10, 100, 1000];
const shardsAxis = [1, 2, 3, 4];

const points: readonly Point[] = [
  middle,
  ...connectionsAxis.map((connections) => ({ ...middle, connections })),
  ...keysAxis.map((keys) => ({ ...middle, keys })),
  ...incrementsAxis.map((incrementsPerBody) => ({ ...middle, incrementsPerBody, keys: 10_000 })),
  ...shardsAxis.slice(1).map((shards) => ({ ...middle, shards })),
  ...shardsAxis.slice(1).map((shards) => ({ ...middle, shards, incrementsPerBody: 100, keys: 10_000 })),
];

const usage = `npm run bench:grid -- [options]
Options:
  --seconds N      of load a point, default 8
  --journal NAME   ${journalNames.join(', ')}; default file-always
  --out FILE       append a line a point to this file, default bench/results/runs.jsonl
`;

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '8' },
      journal: { type: 'string', default: 'file-always' },
      out: { type: 'string', default: runsFile },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  const seconds = wholeNumber('seconds', values.seconds, 1);
  const journal = journalNamed(values.journal);
  const facts = provenance('');
  const rows: string[][] = [['connections', 'keys', 'keys a body', 'shards', 'increments/s', 'CPU µs', 'p99 ms']];
  for (const shards of shardsAxis) {
    const running = await ourServer(journal, { SHARDS: String(shards) }).start();
    const measured = new MeasuredContender(running, defaultGenerator());
    const run = (
      { connections, keys, incrementsPerBody }: Point,
      runSeconds: number,
    ): ReturnType<typeof measured.run> =>
      measured.run({
        workload: batchWorkload(incrementsPerBody, keys),
        connections,
        seconds: runSeconds,
        // A million keys may reach a limit. Refused increments are not counted.
        refusalsAllowed: true,
      });
    await run(middle, 3);
    for (const point of points.filter((candidate) => candidate.shards === shards)) {
      const figures = { ...(await run(point, seconds)), cpuRatio: 1, cpuRatioWithDatabase: 1 };
      appendRecord(values.out, { ...facts, uws: running.build ?? 'none', kind: 'grid', journal, ...point, figures });
      const row = [point.connections, point.keys, point.incrementsPerBody, shards, figures.incrementsPerSecond].map(
        thousands,
      );
      rows.push([...row, figures.serverCpuUs.toFixed(2), figures.latency.p99Ms.toFixed(2)]);
      console.log(
        `${row[0]} connections  ${row[1]} keys  ${row[2]} a body  ${row[3]} shards`.padEnd(60) +
          `${row[4]?.padStart(9)} increments/s  ${figures.serverCpuUs.toFixed(2)} µs  ` +
          `p99 ${figures.latency.p99Ms.toFixed(2)} ms`,
      );
    }
    await running.stop();
  }
  console.log(`\n${plainTable(rows)}`);
});
