/**
 * The crash test as a command, for any duration:
 *
 *     npm run crash-test -- --minutes 10 --database given --seed 1
 *     npm run crash-test -- --minutes 10 --journal postgres --roles
 *     npm run crash-test -- --minutes 10 --journal nats-cluster --roles
 *     npm run crash-test -- --minutes 10 --journal sqs --roles
 *
 * With `--journal postgres`, `nats`, `nats-cluster` or `sqs` several servers share a journal: `--nodes` that serve, or with `--roles`
 * two that only journal, two that only flush and one that serves. With sqs nobody serves. `--database-away SECONDS` suspends
 * PostgreSQL once for so long; `--logs DIR` keeps what they logged.
 *
 * Exit code 0: after all kills every acknowledged increment is counted once. 1: it is not, or the run failed.
 */
import { parseArgs } from 'node:util';
import { seededRandom } from '../support/random.js';
import { faultsInWords, runFleet, type FleetJournal, type Role } from './crash-fleet.js';
import { runCrashes } from './crash-run.js';

const usage =
  'crash-test [--minutes N] [--seed S] [--shards K] [--nodes N] [--fast-clock HOURS] [--database embedded|given]\n' +
  'crash-test --journal postgres|nats|nats-cluster|sqs [--roles | --nodes N] [--minutes N] [--seed S] [--shards K] [--connections N] ' +
  '[--database-away SECONDS] [--logs DIR]';

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
    'database-away': { type: 'string' },
    database: { type: 'string', default: 'given' },
    journal: { type: 'string', default: 'file' },
    roles: { type: 'boolean', default: false },
    logs: { type: 'string' },
  },
});
const shared = (['postgres', 'nats', 'nats-cluster', 'sqs'] as const).find((journal) => journal === values.journal);
if (values.journal !== 'file' && shared === undefined) throw new Error(usage);
if (values.journal === 'sqs' && !values.roles) throw new Error(usage);
if (values.journal === 'file' && (values.roles || values.logs !== undefined)) throw new Error(usage);
if (values.database !== 'embedded' && values.database !== 'given') throw new Error(usage);
if (values.seed !== undefined) process.env['SEED'] = values.seed;
const shards = numberOf(values.shards);
const nodes = numberOf(values.nodes);
const connections = numberOf(values.connections);
const databaseAwaySeconds = numberOf(values['database-away']);
const fastClockHours = numberOf(values['fast-clock']);
const random = seededRandom('crash test');
const durationMs = (numberOf(values.minutes) ?? 1) * 60_000;
process.exit(shared === undefined ? await crashNodes(values.database) : await crashFleet(shared));

/** With a journal in the data directory of each server. */
async function crashNodes(database: 'embedded' | 'given'): Promise<number> {
  const result = await runCrashes({
    durationMs,
    random,
    database,
    ...(shards === undefined ? {} : { shards }),
    ...(nodes === undefined ? {} : { nodes }),
    ...(connections === undefined ? {} : { connections }),
    ...(fastClockHours === undefined ? {} : { fastClockHours }),
    onProgress: (line) => console.log(line),
  });
  for (const violation of result.violations) console.error(`VIOLATION: ${violation}`);
  console.log(
    `crash test, ${database} PostgreSQL, seed ${random.seed}: ${Math.round(result.seconds)} s, kill -9 of the ` +
      `server ${result.serverKills} times, of PostgreSQL ${result.databaseKills} times; requests acknowledged ` +
      `${result.acknowledged} (${result.repeated} of them repeated with their idempotency key until acknowledged), unknown outcome ${result.unknown}, refused ${result.refused}; ${result.reads} reads ` +
      `compared; ${result.violations.length === 0 ? 'every acknowledged increment counted exactly once' : `${result.violations.length} VIOLATIONS`}`,
  );
  return result.violations.length === 0 ? 0 : 1;
}

/** With a journal that all servers share. */
async function crashFleet(journal: FleetJournal): Promise<number> {
  const roles: readonly Role[] = values.roles
    ? ['ingest', 'ingest', 'roll-up', 'roll-up', ...(journal === 'sqs' ? [] : (['serve'] as const))]
    : Array.from({ length: nodes ?? 2 }, () => 'serve');
  const result = await runFleet({
    durationMs,
    random,
    roles,
    journal,
    ...(shards === undefined ? {} : { shards }),
    ...(connections === undefined ? {} : { connections }),
    ...(databaseAwaySeconds === undefined ? {} : { databaseAwayMs: databaseAwaySeconds * 1000 }),
    ...(values.logs === undefined ? {} : { logDir: values.logs }),
    onProgress: (line) => console.log(line),
  });
  const { violations, takeovers, acknowledged, repeated, replayed, unknown, refused } = result;
  const undisturbed = takeovers.filter(({ silentMs, possibleMs }) => possibleMs === silentMs);
  const disturbed = takeovers.filter(({ silentMs, possibleMs }) => possibleMs < silentMs);
  for (const violation of violations) console.error(`VIOLATION: ${violation}`);
  console.log(
    `crash test, journal in ${journal}, ${roles.join(', ')}, seed ${random.seed}: ${Math.round(result.seconds)} s, ` +
      `${faultsInWords(result.faults)}; requests acknowledged ${acknowledged} (${repeated} of them repeated with their ` +
      `idempotency key until acknowledged, ${replayed} acknowledged twice), unknown outcome ${unknown}, refused ${refused}; ` +
      `${takeovers.length} takeovers, after the last sign of life ${inWords(undisturbed.map(({ silentMs }) => silentMs))}, after ` +
      `outages ${inWords(disturbed.map(({ possibleMs }) => possibleMs))}; ` +
      (result.isAudited ? 'sums recomputed from the log; ' : '') +
      (violations.length === 0
        ? 'every acknowledged increment counted exactly once'
        : `${violations.length} VIOLATIONS`),
  );
  return violations.length === 0 ? 0 : 1;
}

function inWords(takeoversMs: readonly number[]): string {
  if (takeoversMs.length === 0) return 'none';
  const sorted = takeoversMs.toSorted((a, b) => a - b);
  const seconds = (index: number): string => ((sorted[index] ?? 0) / 1000).toFixed(1);
  return `median ${seconds(Math.floor(sorted.length / 2))} s, worst ${seconds(sorted.length - 1)} s (${sorted.length})`;
}
