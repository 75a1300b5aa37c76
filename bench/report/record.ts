/**
 * What a run leaves behind: one JSON line in a file of results, and how such lines are read.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import os from 'node:os';
import { dirname, join } from 'node:path';
import typia from 'typia';
import type { Latency } from '../load/load-generator.js';
import { projectRoot } from '../processes/project-paths.js';

/** Where, when and of what a run was. */
export interface Provenance {
  readonly commit: string;
  /** The working tree differed from the commit. */
  readonly modified: boolean;
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly machine: Machine;
  readonly node: string;
  /** Of uWebSockets.js. */
  readonly uws: string;
}

/** The machine of a run. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  readonly kernel: string;
  /** Processes that wanted a core, a minute's average, when the run began: much above 0 means a disturbed run. */
  readonly loadBefore: number;
}

/** A contender's figures in one turn. */
export interface TurnFigures {
  /** Answered 202, and the increments in them. */
  readonly requests: number;
  readonly increments: number;
  readonly refused: number;
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly incrementsPerSecond: number;
  /** CPU time an increment: of the server process, and of its database beside it. */
  readonly serverCpuUs: number;
  readonly databaseCpuUs: number;
  /** Of the server's, the part of its main thread, which is its first front end. Runs of before it was measured lack it. */
  readonly mainThreadCpuUs?: number;
  /** CPU time of an increment as a multiple of the first contender's in the same turn: server alone, and with database. */
  readonly cpuRatio: number;
  readonly cpuRatioWithDatabase: number;
  /** The same as a multiple of the contender that the record names as this one's counterpart. */
  readonly cpuRatioToCounterpart?: number;
  /** From the start of the load until everything is committed; null where nothing is kept. */
  readonly committedPerSecond: number | null;
  readonly latency: Latency;
  /** Of a load at a fixed rate: see LoadFigures. */
  readonly generatorBusy: number | null;
  readonly residentMib: number;
}

/** A contender's run. */
export interface ContenderFigures {
  readonly name: string;
  readonly note?: string;
  readonly counterpart?: string;
  /** Of every figure for itself. */
  readonly median: TurnFigures;
  readonly turns: readonly TurnFigures[];
}

/** A scenario, measured in turns. */
export interface TurnsRecord extends Provenance {
  readonly kind: 'turns' | 'peers';
  readonly scenario: string;
  readonly generator: string;
  readonly connections: number;
  readonly secondsATurn: number;
  readonly turns: number;
  readonly contenders: readonly ContenderFigures[];
}

/** One cell of the cost grid. */
export interface GridRecord extends Provenance {
  readonly kind: 'grid';
  readonly journal: string;
  readonly connections: number;
  readonly keys: number;
  readonly incrementsPerBody: number;
  readonly shards: number;
  readonly figures: TurnFigures;
}

/** A long run. */
export interface SoakRecord extends Provenance {
  readonly kind: 'soak';
  readonly scenario: string;
  readonly journal: string;
  readonly minutes: number;
  readonly increments: number;
  readonly incrementsPerSecond: number;
  readonly residentMibAfterFirstMinute: number;
  readonly residentMibAtEnd: number;
  readonly residentMibMax: number;
}

/** Memory of pending keys. */
export interface MemoryRecord extends Provenance {
  readonly kind: 'memory';
  readonly journal: string;
  readonly shards: number;
  readonly keys: number;
  readonly keyBytes: number;
  readonly bytesPerPendingKey: number;
}

/** A node at one of its bounds while the database was held. */
export interface BoundFigures {
  readonly journal: string;
  /** The setting that is its default and was reached. */
  readonly bound: 'MAX_PENDING_KEYS' | 'MAX_PENDING_BYTES';
  readonly keyBytes: number;
  /** Distinct keys that were pending when the first was refused. */
  readonly keys: number;
  /** Resident memory of the server after its warm-up, at the bound after refusals, and at most until all was committed. */
  readonly residentMibBefore: number;
  readonly residentMibAtBound: number;
  readonly residentMibMax: number;
  /** From the return of the database. */
  readonly secondsToCommit: number;
}

/** Memory of a node at its bounds. */
export interface BoundsRecord extends Provenance {
  readonly kind: 'bounds';
  readonly shards: number;
  readonly runs: readonly BoundFigures[];
}

/** Rows into PostgreSQL without a server around it. */
export interface FlushRecord extends Provenance {
  readonly kind: 'flush';
  /** PostgreSQL's. */
  readonly postgres: string;
  readonly secondsATurn: number;
  readonly turns: number;
  readonly cells: readonly FlushCell[];
  /** One long stretch each of new rows. */
  readonly sustained: readonly FlushCell[];
}

/** One way of writing rows. */
export interface FlushCell {
  readonly method: string;
  /** What the rows meet: keys that are not there, or that are. */
  readonly rows: 'new' | 'existing';
  readonly writers: number;
  readonly rowsAStatement: number;
  readonly median: FlushFigures;
  readonly turns: readonly FlushFigures[];
}

/** What came of it. */
export interface FlushFigures {
  readonly rows: number;
  readonly seconds: number;
  readonly rowsPerSecond: number;
  /** CPU time a row: of all PostgreSQL's processes, and of the client, whose share of a server's it is. */
  readonly databaseCpuUs: number;
  readonly clientCpuUs: number;
  /** Write-ahead log of PostgreSQL a row. */
  readonly walBytes: number;
}

/** What an hour of flushes does to the table. */
export interface UpkeepRecord extends Provenance {
  readonly kind: 'upkeep';
  readonly postgres: string;
  readonly cases: readonly UpkeepCase[];
}

/** One table under one kind of load. */
export interface UpkeepCase {
  /** How the table is set up: `default` is PostgreSQL's own, `migration` what the product makes. */
  readonly settings: string;
  /** In PostgreSQL's words; empty where there are none. */
  readonly storage: string;
  readonly tableRows: number;
  readonly rowsAFlush: number;
  readonly flushes: number;
  /** How often a flush was due, and how often PostgreSQL looks whether a table needs vacuum, in seconds. */
  readonly flushesPerSecond: number;
  readonly autovacuumNaptimeSeconds: number;
  readonly seconds: number;
  /** Of all updates, 0 to 1: those that wrote no index. In the first half and in the second. */
  readonly hotShare: readonly [number, number];
  readonly autovacuums: number;
  readonly atStart: TableSize;
  readonly atMiddle: TableSize;
  readonly atEnd: TableSize;
}

/** Bytes on disk. */
export interface TableSize {
  readonly tableBytes: number;
  readonly indexBytes: number;
}

/** The file journal and its disk. */
export interface JournalRecord extends Provenance {
  readonly kind: 'journal';
  readonly secondsAScenario: number;
  readonly scenarios: readonly JournalScenario[];
}

/** The scenario that says how many writes the disk itself makes durable in a second. */
export const SYNCS_SCENARIO = 'bare file, over zeros';

/** One of its scenarios, with figures that have their unit in their name. */
export interface JournalScenario {
  readonly name: string;
  readonly figures: Readonly<Record<string, number>>;
}

/** Any line of a file of results. */
export type RunRecord =
  TurnsRecord | GridRecord | SoakRecord | MemoryRecord | BoundsRecord | FlushRecord | UpkeepRecord | JournalRecord;

/** Figures to compare with, kept with the project. */
export const baselineFile = join(projectRoot, 'bench', 'results', 'baseline.jsonl');
/** Where a run's line goes unless it is told otherwise. */
export const runsFile = join(projectRoot, 'bench', 'results', 'runs.jsonl');

/** Appends a run. */
export function appendRecord(file: string, record: RunRecord): void {
  mkdirSync(dirname(file), { recursive: true });
  appendFileSync(file, `${typia.json.assertStringify<RunRecord>(record)}\n`);
}

/** The runs in a file, oldest first; none where there is no file. Throws where a line is no run. */
export function readRecords(file: string): readonly RunRecord[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
  return lines.map((line, index) => {
    try {
      return typia.json.assertParse<RunRecord>(line);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new Error(`Line ${index + 1} of ${file} is not a run: ${reason}`, { cause: error });
    }
  });
}

/** The newest run in turns of each scenario, by kind and scenario. */
export function newestTurns(records: readonly RunRecord[]): ReadonlyMap<string, TurnsRecord> {
  const newest = new Map<string, TurnsRecord>();
  for (const record of records) {
    if (record.kind === 'turns' || record.kind === 'peers') newest.set(turnsName(record), record);
  }
  return newest;
}

/** How a run in turns is called in tables and documents: `canonical`, `peers`, `peers-hot-key`. */
export function turnsName({ kind, scenario }: Pick<TurnsRecord, 'kind' | 'scenario'>): string {
  if (kind === 'turns') return scenario;
  return scenario === 'canonical' ? 'peers' : `peers-${scenario}`;
}

/** The facts of this run; to be asked before any load. */
export function provenance(uws: string): Provenance {
  return {
    commit: git('rev-parse', '--short=12', 'HEAD') ?? 'unknown',
    modified: git('status', '--porcelain', '--untracked-files=no') !== '',
    date: new Date().toISOString(),
    machine: {
      cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
      cores: os.availableParallelism(),
      memoryGib: Math.round((os.totalmem() / 2 ** 30) * 10) / 10,
      kernel: `${os.type()} ${os.release()}`,
      loadBefore: os.loadavg()[0] ?? 0,
    },
    node: process.versions.node,
    uws,
  };
}

function git(...args: readonly string[]): string | undefined {
  try {
    return execFileSync('git', args, {
      cwd: projectRoot,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return undefined;
  }
}
