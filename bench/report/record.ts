/**
 * The record of a run, one JSON line in a file of results; and how the lines are written and read.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import os from 'node:os';
import { dirname, join } from 'node:path';
import typia from 'typia';
import type { Latency } from '../load/load-generator.js';
import { projectRoot } from '../processes/project-paths.js';

/** Commit, time, machine and versions of a run. */
export interface Provenance {
  readonly commit: string;
  /** Whether the working tree differed from the commit. */
  readonly modified: boolean;
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly machine: Machine;
  readonly node: string;
  /** Version of uWebSockets.js. */
  readonly uws: string;
}

/** The machine of a run. */
interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  readonly kernel: string;
  /** Load average of one minute at the start of the run. Much above 0, other processes disturbed the run. */
  readonly loadBefore: number;
}

/** A contender's figures in one turn. */
export interface TurnFigures {
  /** Requests answered 202, and their increments. */
  readonly requests: number;
  readonly increments: number;
  readonly refused: number;
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly incrementsPerSecond: number;
  /** CPU time an increment, of the server process and of its database. */
  readonly serverCpuUs: number;
  readonly databaseCpuUs: number;
  /** CPU time an increment of the main thread, which runs the first HTTP server. Older records lack it. */
  readonly mainThreadCpuUs?: number;
  /** CPU time an increment as a multiple of the first contender's in the same turn: server alone, and with database. */
  readonly cpuRatio: number;
  readonly cpuRatioWithDatabase: number;
  /** The same as a multiple of the counterpart that the record names. */
  readonly cpuRatioToCounterpart?: number;
  /** From the start of the load until all increments are committed; null if the contender keeps nothing. */
  readonly committedPerSecond: number | null;
  readonly latency: Latency;
  /** Set for a load at a fixed rate: see LoadFigures. */
  readonly generatorBusy: number | null;
  readonly residentMib: number;
}

/** The figures of a contender in a run. */
export interface ContenderFigures {
  readonly name: string;
  readonly note?: string;
  readonly counterpart?: string;
  /** The median of each figure by itself. */
  readonly median: TurnFigures;
  readonly turns: readonly TurnFigures[];
}

/** A run of a scenario in turns. */
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

/** A soak run. */
interface SoakRecord extends Provenance {
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
interface MemoryRecord extends Provenance {
  readonly kind: 'memory';
  readonly journal: string;
  readonly shards: number;
  readonly keys: number;
  readonly keyBytes: number;
  readonly bytesPerPendingKey: number;
}

/** A server at one of its limits while the database was held. */
export interface BoundFigures {
  readonly journal: string;
  /** The setting whose default was reached. */
  readonly bound: 'MAX_PENDING_KEYS' | 'MAX_PENDING_BYTES';
  readonly keyBytes: number;
  /** Distinct pending keys when the first key was refused. */
  readonly keys: number;
  /**
   * Resident memory of the server after its warm-up, at the limit after refusals, and at most until all was committed.
   */
  readonly residentMibBefore: number;
  readonly residentMibAtBound: number;
  readonly residentMibMax: number;
  /** Time since the database continued. */
  readonly secondsToCommit: number;
}

/** A run about memory at the limits. */
interface BoundsRecord extends Provenance {
  readonly kind: 'bounds';
  readonly shards: number;
  readonly runs: readonly BoundFigures[];
}

/** A run that writes rows into PostgreSQL without a server. */
interface FlushRecord extends Provenance {
  readonly kind: 'flush';
  /** Version of PostgreSQL. */
  readonly postgres: string;
  readonly secondsATurn: number;
  readonly turns: number;
  readonly cells: readonly FlushCell[];
  /** A long stretch of new rows for each method. */
  readonly sustained: readonly FlushCell[];
}

/** A method of writing rows. */
export interface FlushCell {
  readonly method: string;
  /** Whether the keys of the rows are new or exist. */
  readonly rows: 'new' | 'existing';
  readonly writers: number;
  readonly rowsAStatement: number;
  readonly median: FlushFigures;
  readonly turns: readonly FlushFigures[];
}

/** The figures of a method. */
export interface FlushFigures {
  readonly rows: number;
  readonly seconds: number;
  readonly rowsPerSecond: number;
  /** CPU time a row: of all processes of PostgreSQL, and of the client, which a server would also spend. */
  readonly databaseCpuUs: number;
  readonly clientCpuUs: number;
  /** Bytes of write-ahead log of PostgreSQL a row. */
  readonly walBytes: number;
}

/** A run about the table under an hour of flushes. */
interface UpkeepRecord extends Provenance {
  readonly kind: 'upkeep';
  readonly postgres: string;
  readonly cases: readonly UpkeepCase[];
}

/** One table under one kind of load. */
export interface UpkeepCase {
  /** Settings of the table: `default` is PostgreSQL's own, `migration` that of the product. */
  readonly settings: string;
  /** The storage parameters as PostgreSQL shows them; empty if there are none. */
  readonly storage: string;
  readonly tableRows: number;
  readonly rowsAFlush: number;
  readonly flushes: number;
  /** How often a flush was due; and how often PostgreSQL checks whether a table needs vacuum, in seconds. */
  readonly flushesPerSecond: number;
  readonly autovacuumNaptimeSeconds: number;
  readonly seconds: number;
  /** Share of updates that wrote no index, 0 to 1, in the first and in the second half. */
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

/** A run about the file journal and its disk. */
interface JournalRecord extends Provenance {
  readonly kind: 'journal';
  readonly secondsAScenario: number;
  readonly scenarios: readonly JournalScenario[];
}

/** The scenario that measures how many writes a second the disk itself makes durable. */
export const SYNCS_SCENARIO = 'bare file, over zeros';

/** A scenario of such a run. The names of its figures contain their units. */
export interface JournalScenario {
  readonly name: string;
  readonly figures: Readonly<Record<string, number>>;
}

/** A line of a file of results. */
export type RunRecord =
  TurnsRecord | GridRecord | SoakRecord | MemoryRecord | BoundsRecord | FlushRecord | UpkeepRecord | JournalRecord;

/** The records to compare with, which are part of the project. */
export const baselineFile = join(projectRoot, 'bench', 'results', 'baseline.jsonl');
/** The default file for records. */
export const runsFile = join(projectRoot, 'bench', 'results', 'runs.jsonl');

/** Appends a record. */
export function appendRecord(file: string, record: RunRecord): void {
  mkdirSync(dirname(file), { recursive: true });
  appendFileSync(file, `${typia.json.assertStringify<RunRecord>(record)}\n`);
}

/** The records in a file, oldest first; none if there is no file. Throws if a line is not a record. */
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

/** The name of a run in turns in tables and documents: `canonical`, `peers`, `peers-hot-key`. */
function turnsName({ kind, scenario }: Pick<TurnsRecord, 'kind' | 'scenario'>): string {
  if (kind === 'turns') return scenario;
  return scenario === 'canonical' ? 'peers' : `peers-${scenario}`;
}

/** The provenance of this run. To be called before any load. */
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
