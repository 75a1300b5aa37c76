/**
 * A model of machines that were not measured: how many increments a second each part of a node could carry, and which
 * part is the first to be full. It only calculates with measured costs.
 *
 * The model assumes that every part scales with its threads. That is an upper bound: it ignores memory bandwidth, the
 * network stack of the kernel, and clock speeds under load.
 */
import { SYNCS_SCENARIO, type RunRecord, type TurnFigures } from './record.js';

/** The inputs, from the newest records. CPU times in µs. */
export interface CostInputs {
  /** CPU time of an HTTP thread for a request with one key. */
  readonly httpThreadUs: number;
  /** CPU time of the rest of the server process for an increment: shard, journal, threads of V8. By journal. */
  readonly shardUs: Readonly<Record<string, number>>;
  /** CPU time of PostgreSQL for a flushed row of an existing counter, and of a new one. */
  readonly existingRowUs: number;
  readonly newRowUs: number;
  /** CPU time of the server for a flushed row. */
  readonly flushRowUs: number;
  /**
   * Rows a second into PostgreSQL: of existing counters over one connection and at most, and of new counters at most.
   */
  readonly rowsPerSecondOfOne: number;
  readonly rowsPerSecondMax: number;
  readonly newRowsPerSecondMax: number;
  /** Writes that the disk made durable in a second. */
  readonly syncsPerSecond: number;
}

/** Machines for which the model calculates. */
export interface Deployment {
  readonly nodes: number;
  /** Cores of each node. With several nodes, PostgreSQL has a machine of that size for itself. */
  readonly cores: number;
  readonly httpThreads: number;
  readonly shards: number;
  readonly journal: string;
  /** Distinct counters that a node flushes each second. */
  readonly keysPerSecond: number;
}

/** A part, and the increments a second that it could carry, for all nodes together. */
export interface Wall {
  readonly part: 'HTTP threads' | 'shard threads' | 'cores';
  readonly incrementsPerSecond: number;
}

/** The walls, the lowest first. The wall of PostgreSQL is about rows: see {@link keysPerNode}. */
export function walls(inputs: CostInputs, deployment: Deployment): readonly Wall[] {
  const { nodes, cores, httpThreads, shards, journal, keysPerSecond } = deployment;
  const shardUs = inputs.shardUs[journal];
  if (shardUs === undefined) throw new Error(`the journal ${journal} was not measured`);
  // The cost of a flush does not depend on the number of its increments.
  const flushUsPerSecond = keysPerSecond * (inputs.flushRowUs + (nodes === 1 ? inputs.existingRowUs : 0));
  const spareUsPerSecond = Math.max(0, cores * 1e6 - flushUsPerSecond);
  const found: Wall[] = [
    { part: 'HTTP threads', incrementsPerSecond: (nodes * httpThreads * 1e6) / inputs.httpThreadUs },
    { part: 'shard threads', incrementsPerSecond: (nodes * shards * 1e6) / shardUs },
    { part: 'cores', incrementsPerSecond: (nodes * spareUsPerSecond) / (inputs.httpThreadUs + shardUs) },
  ];
  return found.toSorted((a, b) => a.incrementsPerSecond - b.incrementsPerSecond);
}

/** The numbers of HTTP threads and shards that use `cores` best, with `reserved` cores for PostgreSQL and the rest. */
export function balancedThreads(
  inputs: CostInputs,
  cores: number,
  journal: string,
  reserved: number,
): { readonly httpThreads: number; readonly shards: number } {
  let best = { httpThreads: 1, shards: 1 };
  let bestRate = 0;
  for (let shards = 1; shards < cores - reserved; shards += 1) {
    const httpThreads = cores - reserved - shards;
    const rate = Math.min(httpThreads / inputs.httpThreadUs, shards / (inputs.shardUs[journal] ?? Infinity));
    if (rate <= bestRate) continue;
    bestRate = rate;
    best = { httpThreads, shards };
  }
  return best;
}

/** Distinct counters that a node can flush a second before PostgreSQL is full. */
export interface KeysPerNode {
  /** Counters that only this node counts. */
  readonly apart: number;
  /** Counters that all nodes count. */
  readonly shared: number;
  /** Counters that were never counted before. */
  readonly fresh: number;
}

/** The figures for each of `nodes` nodes on one database. */
export function keysPerNode(inputs: CostInputs, nodes: number): KeysPerNode {
  return {
    fresh: inputs.newRowsPerSecondMax / nodes,
    apart: inputs.rowsPerSecondMax / nodes,
    // Statements on the same rows wait for each other, so together they are as fast as one connection.
    shared: inputs.rowsPerSecondOfOne / nodes,
  };
}

/** The inputs from the newest record of each kind; or, if one is missing, the command that makes it. */
export function costInputs(records: readonly RunRecord[]): CostInputs | { readonly missing: string } {
  const canonical = records.findLast((record) => record.kind === 'turns' && record.scenario === 'canonical');
  const flush = records.findLast((record) => record.kind === 'flush');
  const journal = records.findLast((record) => record.kind === 'journal');
  if (canonical?.kind !== 'turns') return { missing: 'npm run bench' };
  if (flush?.kind !== 'flush') return { missing: 'npm run bench:flush' };
  if (journal?.kind !== 'journal') return { missing: 'npm run bench:journal' };
  const ours = canonical.contenders.filter(({ name }) => name !== 'floor');
  const fileAlways = ours.find(({ name }) => name === 'file-always')?.median;
  const syncsPerSecond = journal.scenarios.find(({ name }) => name === SYNCS_SCENARIO)?.figures['perSecond'];
  const product = flush.cells.filter(({ method, rowsAStatement }) => method === 'unnest' && rowsAStatement >= 10_000);
  const of = (rows: string): typeof product => product.filter((cell) => cell.rows === rows);
  const single = of('existing').find(({ writers }) => writers === 1)?.median;
  const fresh = of('new').find(({ writers }) => writers === 1)?.median;
  if (fileAlways?.mainThreadCpuUs === undefined) return { missing: 'npm run bench, with the journal file-always' };
  if (syncsPerSecond === undefined) return { missing: 'npm run bench:journal' };
  if (single === undefined || fresh === undefined)
    return { missing: 'npm run bench:flush, with 10,000 rows a statement' };
  return {
    httpThreadUs: fileAlways.mainThreadCpuUs,
    shardUs: Object.fromEntries(ours.map(({ name, median }) => [name, besidesMainThread(median)])),
    existingRowUs: single.databaseCpuUs,
    newRowUs: fresh.databaseCpuUs,
    flushRowUs: single.clientCpuUs,
    rowsPerSecondOfOne: single.rowsPerSecond,
    rowsPerSecondMax: Math.max(...of('existing').map(({ median }) => median.rowsPerSecond)),
    newRowsPerSecondMax: Math.max(...of('new').map(({ median }) => median.rowsPerSecond)),
    syncsPerSecond,
  };
}

function besidesMainThread({ serverCpuUs, mainThreadCpuUs = 0 }: TurnFigures): number {
  return serverCpuUs - mainThreadCpuUs;
}
