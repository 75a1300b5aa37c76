/**
 * The cost model as blocks of a document.
 */
import { balancedThreads, costInputs, keysPerNode, walls, type CostInputs, type Deployment } from './cost-model.js';
import type { RunRecord } from './record.js';
import { markdownTable, thousands } from './table.js';

const JOURNAL = 'file-always';
/** Rows that each node flushes a second in the examples. */
const KEYS_PER_SECOND = 1000;
const FLEET_NODES = 10;
/** Cores of a large machine for PostgreSQL, the kernel and the threads of V8. */
const reservedCores = (cores: number): number => Math.max(1, Math.floor(cores / 8));

/** The inputs of the model. */
export function inputsText(records: readonly RunRecord[]): string {
  const inputs = costInputs(records);
  if ('missing' in inputs) return notMeasured(inputs.missing);
  const us = (value: number): string => `${value.toFixed(2)} µs`;
  return markdownTable([
    ['what', 'figure', 'from'],
    ['HTTP thread, a request with one key', us(inputs.httpThreadUs), 'canonical, file-always'],
    ...Object.entries(inputs.shardUs).map(([journal, value]) => [
      ...[`shard, its journal and V8’s threads, an increment: ${journal}`, us(value), `canonical, ${journal}`],
    ]),
    ['server, a row of a flush', us(inputs.flushRowUs), 'flush'],
    ['PostgreSQL, a row of a flush: the counter exists', us(inputs.existingRowUs), 'flush'],
    ['PostgreSQL, a row of a flush: a new counter', us(inputs.newRowUs), 'flush'],
    ['rows a second over one connection', thousands(inputs.rowsPerSecondOfOne), 'flush'],
    ['rows a second at most', thousands(inputs.rowsPerSecondMax), 'flush'],
    ['rows of new counters a second at most', thousands(inputs.newRowsPerSecondMax), 'flush'],
    [
      'writes that the disk makes durable in a second, one after the other',
      thousands(inputs.syncsPerSecond),
      'journal',
    ],
  ]);
}

/** The results: machines and their first walls. */
export function deploymentsText(records: readonly RunRecord[]): string {
  const inputs = costInputs(records);
  if ('missing' in inputs) return notMeasured(inputs.missing);
  const rows = deployments(inputs).map(({ name, ...deployment }) => {
    const [first, second] = walls(inputs, deployment);
    return [
      ...[name, String(deployment.httpThreads), String(deployment.shards)],
      ...[thousands(first?.incrementsPerSecond ?? 0), first?.part ?? '', second?.part ?? ''],
      thousands(second?.incrementsPerSecond ?? 0),
    ];
  });
  return markdownTable([
    ['machine', '`HTTP_THREADS`', '`SHARDS`', 'increments/s at most', 'first wall', 'then', 'at'],
    ...rows,
  ]);
}

/** How many counters a second the nodes on one PostgreSQL can flush. */
export function rowsText(records: readonly RunRecord[]): string {
  const inputs = costInputs(records);
  if ('missing' in inputs) return notMeasured(inputs.missing);
  const counts = [1, FLEET_NODES].map((nodes) => {
    const { apart, shared, fresh } = keysPerNode(inputs, nodes);
    return [String(nodes), thousands(apart), thousands(shared), thousands(fresh)];
  });
  return markdownTable([
    ['nodes', 'a node, counters of its own', 'a node, counters that all nodes count', 'a node, new counters'],
    ...counts,
  ]);
}

interface NamedDeployment extends Deployment {
  readonly name: string;
}

function deployments(inputs: CostInputs): readonly NamedDeployment[] {
  const common = { journal: JOURNAL, keysPerSecond: KEYS_PER_SECOND };
  const tuned = (cores: number): { httpThreads: number; shards: number } =>
    balancedThreads(inputs, cores, JOURNAL, reservedCores(cores));
  return [
    { name: '2 cores, as it comes', nodes: 1, cores: 2, httpThreads: 1, shards: 1, ...common },
    { name: '16 cores, as it comes', nodes: 1, cores: 16, httpThreads: 1, shards: 4, ...common },
    { name: '16 cores, tuned', nodes: 1, cores: 16, ...tuned(16), ...common },
    { name: '64 cores, tuned', nodes: 1, cores: 64, ...tuned(64), ...common },
    { name: `${FLEET_NODES} nodes of 16 cores, tuned`, nodes: FLEET_NODES, cores: 16, ...tuned(16), ...common },
  ];
}

function notMeasured(command: string): string {
  return `Not measured yet: \`${command}\`.`;
}
