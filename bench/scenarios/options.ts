/**
 * The options of the benchmark commands.
 */
import { parseArgs } from 'node:util';
import { autocannonGenerator } from '../load/autocannon-load.js';
import type { LoadGenerator } from '../load/load-generator.js';
import { journalNames, singleServerJournals, type JournalName } from '../contenders/our-server.js';
import { runsFile } from '../report/record.js';
import { scenarioNamed, scenarios, type Scenario } from './scenario.js';
import { hasNatsServer } from '../processes/bench-nats.js';
import { hasWrk, wrkGenerator } from '../load/wrk.js';

/** The options of a run in turns. */
export interface RunOptions {
  readonly scenarios: readonly Scenario[];
  readonly turns: number;
  readonly seconds: number;
  readonly warmUpSeconds: number;
  readonly connections: number | undefined;
  readonly journals: readonly JournalName[];
  readonly generator: LoadGenerator;
  readonly smoke: boolean;
  /** Each server also with two open dashboards and a scrape each second. */
  readonly watched: boolean;
  readonly markdown: boolean;
  readonly out: string;
}

/** The text of `--help`. */
export const usage = `Options:
  --scenario NAME     ${scenarios.map(({ name }) => name).join(', ')}; or all; default canonical
  --turns N           turns of each server, default 5
  --seconds N         of load a turn, default 10
  --warm-up N         seconds of load before the first turn, default 5
  --connections N     instead of the scenario's own
  --journals A,B      ${journalNames.join(', ')}; default ${singleServerJournals.join(', ')}
  --generator NAME    wrk or autocannon; default wrk if it is installed
  --watched           each server also with two open dashboards and a scrape a second
  --smoke             a few seconds in all, exact sums, no figures kept
  --markdown          print the tables for a document
  --out FILE          append the run's line to this file, default bench/results/runs.jsonl
`;

/** Reads the command line. Throws an error with a sentence if an option or value is wrong. */
export function readOptions(args: readonly string[]): RunOptions | 'help' {
  const { values } = parseArgs({
    args: [...args],
    options: {
      scenario: { type: 'string', default: 'canonical' },
      turns: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '10' },
      'warm-up': { type: 'string', default: '5' },
      connections: { type: 'string' },
      journals: { type: 'string', default: singleServerJournals.join(',') },
      generator: { type: 'string', default: hasWrk() ? 'wrk' : 'autocannon' },
      smoke: { type: 'boolean', default: false },
      watched: { type: 'boolean', default: false },
      markdown: { type: 'boolean', default: false },
      out: { type: 'string', default: runsFile },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  return {
    scenarios: values.scenario === 'all' ? scenarios : values.scenario.split(',').map(scenarioNamed),
    turns: wholeNumber('turns', values.turns, 1),
    seconds: wholeNumber('seconds', values.seconds, 1),
    warmUpSeconds: wholeNumber('warm-up', values['warm-up'], 0),
    connections: values.connections === undefined ? undefined : wholeNumber('connections', values.connections, 1),
    journals: values.journals.split(',').map(runnable),
    generator: generatorNamed(values.generator),
    smoke: values.smoke,
    watched: values.watched,
    markdown: values.markdown,
    out: values.out,
  };
}

/** The whole number of an option. Throws an error with a sentence if it is not one or less than `min`. */
export function wholeNumber(option: string, text: string, min: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < min) throw new Error(`--${option} must be a whole number from ${min}.`);
  return value;
}

/** The journal with that name, if this machine has what it needs. Throws an error with a sentence otherwise. */
function runnable(name: string): JournalName {
  const journal = journalNamed(name);
  if (journal.startsWith('nats') && !hasNatsServer())
    throw new Error(`nats-server is not installed: apt-get install nats-server, or leave ${name} out of --journals.`);
  return journal;
}

/** The journal with that name. Throws if there is none. */
export function journalNamed(name: string): JournalName {
  const found = journalNames.find((journal) => journal === name);
  if (found === undefined) throw new Error(`There is no journal ${name}: ${journalNames.join(', ')}.`);
  return found;
}

/** The generator with that name; default: wrk if it is installed, else autocannon. */
export function defaultGenerator(): LoadGenerator {
  return hasWrk() ? wrkGenerator : autocannonGenerator;
}

function generatorNamed(name: string): LoadGenerator {
  if (name === 'autocannon') return autocannonGenerator;
  if (name !== 'wrk') throw new Error('--generator must be wrk or autocannon.');
  if (!hasWrk()) throw new Error('wrk is not installed: apt-get install wrk, or use --generator autocannon.');
  return wrkGenerator;
}
