/**
 * `npm run bench:soak -- --minutes 10`: full load for a long time. Resident memory is sampled every five seconds. The
 * main figure is its growth after the first minute. Sums must be exact at the end. A run of less than two minutes is a
 * trial: its growth counts after a third of its time, and it appends no record.
 */
import { parseArgs } from 'node:util';
import { defaultGenerator, journalNamed } from './options.js';
import { journalNames, ourServer } from '../contenders/our-server.js';
import { withCleanup } from '../processes/owned-process.js';
import { residentBytes } from '../processes/process-cost.js';
import { appendRecord, provenance, runsFile } from '../report/record.js';
import { scenarioNamed } from './scenario.js';
import { MeasuredContender } from './stretch.js';
import { thousands } from '../report/table.js';

const SAMPLE_MS = 5_000;
const SETTLED_AFTER_MS = 60_000;
const MINUTES_OF_A_RECORD = 2;

const usage = `npm run bench:soak -- [options]
Options:
  --minutes N       of load, default 10; below 2 nothing is kept
  --journal NAME    ${journalNames.join(', ')}; default file-always
  --scenario NAME   default canonical
  --out FILE        append the run's line to this file, default bench/results/runs.jsonl
`;

interface Sample {
  readonly atMs: number;
  readonly mib: number;
}

await withCleanup(async () => {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '10' },
      journal: { type: 'string', default: 'file-always' },
      scenario: { type: 'string', default: 'canonical' },
      out: { type: 'string', default: runsFile },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  const minutes = Number(values.minutes);
  if (!(minutes > 0)) throw new Error('--minutes must be a number above 0.');
  const settledAfterMs = Math.min(SETTLED_AFTER_MS, (minutes * 60_000) / 3);
  const journal = journalNamed(values.journal);
  const scenario = scenarioNamed(values.scenario);
  const facts = provenance('');
  const running = await ourServer(journal).start();
  const startMs = performance.now();
  const samples: Sample[] = [];
  const sampler = setInterval(() => {
    const sample = { atMs: performance.now() - startMs, mib: residentBytes(running.pid) / 2 ** 20 };
    samples.push(sample);
    console.log(
      `${Math.round(sample.atMs / 1000)
        .toString()
        .padStart(5)} s  ${thousands(sample.mib)} MiB`,
    );
  }, SAMPLE_MS);
  try {
    const { connections, refusalsAllowed } = scenario;
    const load = {
      workload: scenario.workload('soak'),
      connections,
      refusalsAllowed,
      seconds: Math.ceil(minutes * 60),
    };
    // The stretch checks the sum at its end.
    const figures = await new MeasuredContender(running, defaultGenerator()).run(load);
    const first = samples.find(({ atMs }) => atMs >= settledAfterMs);
    const last = samples.at(-1);
    if (first === undefined || last === undefined) throw new Error('The run was too short for a sample.');
    if (minutes >= MINUTES_OF_A_RECORD) {
      appendRecord(values.out, {
        ...facts,
        uws: running.build ?? 'none',
        kind: 'soak',
        scenario: scenario.name,
        journal,
        minutes,
        increments: figures.increments,
        incrementsPerSecond: figures.incrementsPerSecond,
        residentMibAfterFirstMinute: first.mib,
        residentMibAtEnd: last.mib,
        residentMibMax: Math.max(...samples.map(({ mib }) => mib)),
      });
    }
    console.log(
      `${thousands(figures.increments)} increments at ${thousands(figures.incrementsPerSecond)}/s, every sum exact; ` +
        `resident memory grew by ${thousands(last.mib - first.mib)} MiB after ${Math.round(first.atMs / 1000)} s.`,
    );
  } finally {
    clearInterval(sampler);
    await running.stop();
  }
});
