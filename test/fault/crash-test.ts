/**
 * The crash test as a command, for any duration:
 *
 *     npm run crash-test -- --minutes 10 --database given --seed 1
 *
 * Exit code 0: after all kills every acknowledged increment is counted once. 1: it is not, or the run failed.
 */
import { parseArgs } from 'node:util';
import { seededRandom } from '../support/random.js';
import { runCrashes } from './crash-run.js';

const usage =
  'crash-test [--minutes N] [--seed S] [--shards K] [--nodes N] [--fast-clock HOURS] [--database embedded|given]';

function numberOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!(value > 0)) throw new Error(usage);
  return value;
}

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string' },
    shards: { type: 'string' },
    nodes: { type: 'string' },
    'fast-clock': { type: 'string' },
    connections: { type: 'string' },
    database: { type: 'string', default: 'given' },
  },
});
if (values.database !== 'embedded' && values.database !== 'given') throw new Error(usage);
if (values.seed !== undefined) process.env['SEED'] = values.seed;
const shards = numberOf(values.shards);
const nodes = numberOf(values.nodes);
const connections = numberOf(values.connections);
const fastClockHours = numberOf(values['fast-clock']);
const random = seededRandom('crash test');
const result = await runCrashes({
  durationMs: (numberOf(values.minutes) ?? 1) * 60_000,
  random,
  database: values.database,
  ...(shards === undefined ? {} : { shards }),
  ...(nodes === undefined ? {} : { nodes }),
  ...(connections === undefined ? {} : { connections }),
  ...(fastClockHours === undefined ? {} : { fastClockHours }),
  onProgress: (line) => console.log(line),
});
for (const violation of result.violations) console.error(`VIOLATION: ${violation}`);
console.log(
  `crash test, ${values.database} PostgreSQL, seed ${random.seed}: ${Math.round(result.seconds)} s, kill -9 of the ` +
    `server ${result.serverKills} times, of PostgreSQL ${result.databaseKills} times; requests acknowledged ` +
    `${result.acknowledged} (${result.repeated} of them repeated with their idempotency key until acknowledged), unknown outcome ${result.unknown}, refused ${result.refused}; ${result.reads} reads ` +
    `compared; ${result.violations.length === 0 ? 'every acknowledged increment counted exactly once' : `${result.violations.length} VIOLATIONS`}`,
);
process.exit(result.violations.length === 0 ? 0 : 1);
