/**
 * Runs the parts of the test suite in order, says how long each took, and stops at the first that fails.
 *
 *     node dist-test/test/run.js               the quick tier: what `npm test` runs
 *     node dist-test/test/run.js rest          what the quick tier leaves out
 *     node dist-test/test/run.js all           both
 *     node dist-test/test/run.js unit config   of one part, the files of both tiers whose path holds "config"
 *
 * The test files of a part are found in the sources, not among the built files, where those of deleted sources stay; and
 * they are named to Node one by one, because of a folder it would run every file, those that only support tests included.
 *
 * The files of a part that asks for one share a PostgreSQL, in which each test makes its own database: a start takes 1.5 s of
 * CPU. TEST_DATABASE_URL names another server instead.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { startEmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { silentLogger } from './support/database-connection.js';

const root = join(import.meta.dirname, '..', '..');

interface Folder {
  readonly name: string;
  readonly fileSecondsMax: number;
  /** The beginnings of the paths of the files that the quick tier runs; '' is every file. */
  readonly quick: readonly string[];
  /** Files of the quick tier of which the rest runs more: they ask `tier.ts`. */
  readonly both?: readonly string[];
  readonly concurrency: number;
  /** Its files may share a PostgreSQL. */
  readonly usesDatabase?: true;
  /** The longest files, which run one after the other beside the rest: one that begins last would run alone. */
  readonly apart?: readonly string[];
  /** Run only where it is named: it needs what `npm ci` does not install, see package.json. */
  readonly isOptional?: true;
}

/** Folders of tests in the order they run, with the most seconds that one file of them may take. */
const folders: readonly Folder[] = [
  { name: 'unit', fileSecondsMax: 120, concurrency: 2, quick: [''] },
  {
    name: 'integration',
    // Many tests of these wait for a limit of time, or for a takeover.
    fileSecondsMax: 300,
    concurrency: 4,
    usesDatabase: true,
    // The contract over HTTP.
    quick: ['client/', 'http/', 'server/deletes', 'server/reads'],
    apart: ['database-at-start', 'nats-lost-records', 'shared-journals', 'sqs-lost-records'],
  },
  { name: 'e2e', fileSecondsMax: 300, concurrency: 2, usesDatabase: true, quick: ['dashboard.'] },
  {
    name: 'fault',
    fileSecondsMax: 600,
    concurrency: 4,
    usesDatabase: true,
    quick: ['crash-run.'],
    both: ['crash-run.'],
    apart: ['crash-fleet', 'kill-between-steps', 'metrics-balance', 'sqs-journal', 'streams'],
  },
  {
    name: 'simulation',
    fileSecondsMax: 600,
    concurrency: 2,
    quick: ['shared-simulation.', 'simulation.'],
    both: ['shared-simulation.', 'simulation.'],
  },
  { name: 'packages', fileSecondsMax: 600, concurrency: 1, quick: [], isOptional: true },
];

type Tier = 'quick' | 'rest';

interface Part {
  readonly name: string;
  readonly tier?: Tier | undefined;
  /** Arguments of Node; each command must end with exit code 0. They run beside each other. */
  readonly commands: readonly (readonly string[])[];
  readonly usesDatabase?: true | undefined;
}

/** Connections of four test files at once, each with several servers. */
const CONNECTIONS_MAX = 300;

function lint(): Part {
  const bin = join(root, 'node_modules');
  return {
    name: 'lint',
    commands: [
      [join(bin, 'oxlint', 'bin', 'oxlint'), '.'],
      // The dashboard's JavaScript, whose types stand in its comments.
      [join(bin, 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.dashboard.json'],
      [join(bin, 'knip', 'bin', 'knip.js')],
      [join(bin, 'prettier', 'bin', 'prettier.cjs'), '--check', '--log-level', 'warn', '.'],
    ],
  };
}

function tests(folder: Folder, tier: Tier | undefined, filters: readonly string[] = []): Part {
  const sources = join(root, 'test', folder.name);
  const begins = (file: string, paths: readonly string[]): boolean => paths.some((path) => file.startsWith(path));
  const belongs = (file: string): boolean => {
    if (tier === undefined) return true;
    const isQuick = begins(file, folder.quick);
    return tier === 'quick' ? isQuick : !isQuick || begins(file, folder.both ?? []);
  };
  const files = readdirSync(sources, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts') && belongs(file))
    .map((file) => relative(root, join(root, 'dist-test', 'test', folder.name, file.replace(/\.ts$/, '.js'))))
    .filter((file) => filters.every((filter) => file.includes(filter)))
    .sort();
  const { apart = [], concurrency } = folder;
  const isApart = (file: string): boolean => apart.some((name) => file.endsWith(`/${name}.test.js`));
  const long = files.filter(isApart);
  const rest = files.filter((file) => !isApart(file));
  const command = (of: readonly string[], filesAtOnce: number): readonly string[] => [
    '--test',
    '--test-reporter=spec',
    `--test-concurrency=${filesAtOnce}`,
    `--test-timeout=${folder.fileSecondsMax * 1000}`,
    // Where all tests of a file have passed, Node 20 sometimes never returns from closing the handles of the process.
    '--test-force-exit',
    ...of,
  ];
  const both = long.length > 0 && rest.length > 0;
  const commands = both
    ? [command(long, 1), command(rest, concurrency - 1)]
    : files.length > 0
      ? [command(files, concurrency)]
      : [];
  return { name: folder.name, commands, usesDatabase: folder.usesDatabase, tier };
}

/** Runs `task` with a PostgreSQL that ends with it, also if this process is killed. */
async function withPostgres<Result>(task: (url: string) => Promise<Result>): Promise<Result> {
  const dataDir = await mkdtemp(join(tmpdir(), 'summing-counters-test-'));
  try {
    const postgres = await startEmbeddedPostgres({ dataDir, logger: silentLogger, maxConnections: CONNECTIONS_MAX });
    try {
      return await task(postgres.url);
    } finally {
      await postgres.stop();
    }
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
}

/** Whether the process ended with exit code 0. */
async function succeeds(command: readonly string[], env: NodeJS.ProcessEnv): Promise<boolean> {
  const [code] = (await once(spawn(process.execPath, command, { cwd: root, stdio: 'inherit', env }), 'exit')) as [
    unknown,
  ];
  return code === 0;
}

async function run(part: Part): Promise<boolean> {
  if (part.commands.length === 0) {
    console.error(`test: ${part.name} has no such test file`);
    return false;
  }
  const start = performance.now();
  const runCommands = async (env: NodeJS.ProcessEnv): Promise<boolean> =>
    (await Promise.all(part.commands.map((command) => succeeds(command, env)))).every((succeeded) => succeeded);
  const env = part.tier === undefined ? process.env : { ...process.env, TEST_TIER: part.tier };
  const passed =
    part.usesDatabase && (env['TEST_DATABASE_URL'] ?? '') === ''
      ? await withPostgres((url) => runCommands({ ...env, TEST_DATABASE_URL: url }))
      : await runCommands(env);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const name = part.tier === 'rest' ? `the rest of ${part.name}` : part.name;
  console.log(`test: ${name} ${passed ? 'passed' : 'FAILED'} in ${seconds} s`);
  return passed;
}

/** Stops at the first that fails. */
async function runInOrder(parts: readonly Part[]): Promise<boolean> {
  for (const part of parts) if (!(await run(part))) return false;
  return true;
}

/**
 * The benchmark runs, and every increment that it sends is counted exactly; how fast is not a test's business. It reads
 * CPU time from /proc, which only Linux has.
 */
const benchmark: Part = {
  name: 'bench',
  commands:
    process.platform === 'linux' ? [[join(root, 'dist-test', 'bench', 'scenarios', 'bench.js'), '--smoke']] : [],
};

/** The parts of a tier that have tests. */
function partsOf(tier: Tier): readonly Part[] {
  const all = [
    ...(tier === 'quick' ? [lint()] : []),
    ...folders.filter(({ isOptional }) => isOptional !== true).map((folder) => tests(folder, tier)),
    ...(tier === 'rest' ? [benchmark] : []),
  ];
  return all.filter(({ commands }) => commands.length > 0);
}

/** What the arguments name; empty if there is no such part. */
function chosenParts(chosen: string, filters: readonly string[]): readonly Part[] {
  if (chosen === 'quick' || chosen === 'rest') return partsOf(chosen);
  if (chosen === 'all') return [...partsOf('quick'), ...partsOf('rest')];
  const parts = [lint(), ...folders.map((folder) => tests(folder, undefined, filters)), benchmark];
  return parts.filter(({ name }) => name === chosen);
}

const [chosen = 'quick', ...filters] = process.argv.slice(2);
const parts = chosenParts(chosen, filters);
const names = ['quick', 'rest', 'all', 'lint', ...folders.map(({ name }) => name), 'bench'];
if (parts.length === 0) console.error(`test: there is no part ${chosen}; ${names.join(', ')}`);
process.exitCode = parts.length > 0 && (await runInOrder(parts)) ? 0 : 1;
