/**
 * `npm run bench:soak -- --minutes 10`: full load for long. Resident memory is sampled every five seconds; what counts is
 * its growth after the first minute. Sums must be exact at the end.
 */
import { parseArgs } from 'node:util';
import { defaultGenerator, journalNamed, wholeNumber } from './options.js';
import { ourServer } from './our-server.js';
import { withCleanup } from './owned-process.js';
import { residentBytes } from './process-cost.js';
import { appendRecord, provenance, runsFile } from './record.js';
import { scenarioNamed } from './scenario.js';
import { MeasuredContender } from './stretch.js';
import { thousands } from './table.js';

const SAMPLE_MS = 5_000;
const SETTLED_AFTER_MS = 60_000;

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
    },
  });
  const minutes = wholeNumber('minutes', values.minutes, 2);
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
    const load = { workload: scenario.workload('soak'), connections, refusalsAllowed, seconds: minutes * 60 };
    // The sum is checked at its end.
    const figures = await new MeasuredContender(running, defaultGenerator()).run(load);
    const first = samples.find(({ atMs }) => atMs >= SETTLED_AFTER_MS);
    const last = samples.at(-1);
    if (first === undefined || last === undefined) throw new Error('The run was too short for a sample.');
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
    console.log(
      `${thousands(figures.increments)} increments at ${thousands(figures.incrementsPerSecond)}/s, every sum exact; ` +
        `resident memory grew by ${thousands(last.mib - first.mib)} MiB after the first minute.`,
    );
  } finally {
    clearInterval(sampler);
    await running.stop();
  }
});
