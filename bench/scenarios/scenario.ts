/**
 * The scenarios: workload, number of connections and main figure of each. `canonical` is the reference.
 */
import type { JournalName } from '../contenders/our-server.js';
import {
  batchWorkload,
  distinctWorkload,
  ndjsonWorkload,
  singleKeyWorkload,
  zipfWorkload,
  type Workload,
} from '../load/workload.js';

/** A scenario. */
export interface Scenario {
  readonly name: string;
  readonly meaning: string;
  readonly connections: number;
  /** `closed`: a connection sends again when it has an answer. `open`: requests are sent at a fixed rate. */
  readonly loop: 'closed' | 'open';
  /** Whether backpressure (503) is part of the measurement. Otherwise one refusal fails the run. */
  readonly refusalsAllowed: boolean;
  /** The journals of the scenario; undefined for all journals. */
  readonly journals?: readonly JournalName[];
  /** Whether each journal is measured twice: without idempotency keys, and with a new one on every request. */
  readonly idempotent?: true;
  /** Makes the workload of a stretch. `label` is new each time. */
  workload(label: string): Workload;
}

const CONNECTIONS = 128;
const canonicalWorkload = singleKeyWorkload(1000);

function closed(
  name: string,
  meaning: string,
  workload: (label: string) => Workload,
  connections = CONNECTIONS,
): Scenario {
  return { name, meaning, connections, loop: 'closed', refusalsAllowed: false, workload };
}

function once(make: () => Workload): () => Workload {
  let made: Workload | undefined;
  return () => (made ??= make());
}

/** All scenarios. The first is the default. */
export const scenarios: readonly Scenario[] = [
  closed('canonical', 'one key a body, 1,000 keys in turn', () => canonicalWorkload),
  closed('hot-key', 'one key, always the same', () => singleKeyWorkload(1)),
  closed(
    'zipf',
    'one key a body, drawn from 1,000,000 keys by Zipf’s law with s = 1.1',
    once(() => zipfWorkload(1_000_000, 1.1, 200_000)),
  ),
  {
    ...closed('distinct', 'every increment a new key; refusals are backpressure', distinctWorkload),
    refusalsAllowed: true,
  },
  closed(
    'batch-100',
    '100 keys a body, 10,000 keys in turn',
    once(() => batchWorkload(100, 10_000)),
  ),
  closed(
    'ndjson',
    '100 lines of one key a body, 10,000 keys in turn',
    once(() => ndjsonWorkload(100, 10_000)),
  ),
  {
    ...closed(
      'open-loop',
      'canonical at half of each server’s measured capacity; latency counts from the scheduled time',
      () => canonicalWorkload,
    ),
    loop: 'open',
  },
  {
    ...closed(
      'idempotent',
      'canonical with and without a fresh Idempotency-Key on every request; refusals are backpressure',
      () => canonicalWorkload,
    ),
    refusalsAllowed: true,
    journals: ['memory', 'file-always'],
    idempotent: true,
  },
  closed('connections-512', 'canonical over 512 connections', () => canonicalWorkload, 512),
];

/** The scenario with that name. Throws if there is none. */
export function scenarioNamed(name: string): Scenario {
  const found = scenarios.find((scenario) => scenario.name === name);
  if (found === undefined) throw new Error(`There is no scenario ${name}: ${scenarios.map((s) => s.name).join(', ')}.`);
  return found;
}
