/**
 * `npm run bench:compare -- [FILE] [BASELINE]`: ratios of the newest run of each scenario in FILE to the newest in
 * BASELINE. Figures are compared as multiples of the first contender of their own run, because those multiples hold on
 * other machines and at other times.
 */
import { existsSync } from 'node:fs';
import { withCleanup } from '../processes/owned-process.js';
import { baselineFile, newestTurns, readRecords, runsFile, type ContenderFigures, type TurnsRecord } from './record.js';
import { plainTable, provenanceSentence } from './table.js';

/** Figures of a contender as multiples of the first one of its run. */
interface Relative {
  readonly cpu: number;
  readonly speed: number;
  readonly p99: number;
}

await withCleanup(() => {
  const [file = runsFile, baseline = baselineFile] = process.argv.slice(2);
  for (const needed of [file, baseline]) {
    if (!existsSync(needed)) throw new Error(`There is no ${needed}: npm run bench -- --out ${needed} makes one.`);
  }
  const before = newestTurns(readRecords(baseline));
  let compared = 0;
  for (const [name, record] of newestTurns(readRecords(file))) {
    const base = before.get(name);
    if (base === undefined) continue;
    compared += 1;
    console.log(`\n${name}: run / baseline; below 1 means less CPU, less speed, less latency\n`);
    console.log(plainTable([['server', 'CPU', 'increments/s', 'p99'], ...comparison(record, base)]));
    console.log(`\nrun:      ${provenanceSentence(record)}\nbaseline: ${provenanceSentence(base)}`);
  }
  if (compared === 0) throw new Error('The two files have no scenario in common.');
});

function comparison(record: TurnsRecord, base: TurnsRecord): string[][] {
  return record.contenders.slice(1).flatMap((contender) => {
    const counterpart = base.contenders.find(({ name }) => name === contender.name);
    if (counterpart === undefined) return [];
    const now = relative(contender, record);
    const then = relative(counterpart, base);
    const ratio = (figure: (of: Relative) => number): string => (figure(now) / figure(then)).toFixed(2);
    return [[contender.name, ratio(({ cpu }) => cpu), ratio(({ speed }) => speed), ratio(({ p99 }) => p99)]];
  });
}

function relative({ median }: ContenderFigures, { contenders }: TurnsRecord): Relative {
  const first = contenders[0]?.median ?? median;
  return {
    cpu: median.cpuRatio,
    speed: median.incrementsPerSecond / first.incrementsPerSecond,
    p99: median.latency.p99Ms / first.latency.p99Ms,
  };
}
