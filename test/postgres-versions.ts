/**
 * Runs the integration tests on other major versions of PostgreSQL, one after the other, each made in a temporary
 * directory from a package of `.ci/postgres` and stopped at the end:
 *
 *     npm run test:postgres                              every version
 *     npm run test:postgres -- 13 15                     these
 *     npm run test:postgres -- 13 15 integration/db      of the tests, those whose path contains that
 *
 * Tests of the embedded server itself keep the version that ships.
 */
import { execFile, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { choosePostgresAccount, giveTo } from '#product/db/embedded/postgres-account.js';
import { prepareBinaries } from '#product/db/embedded/postgres-binaries.js';
import { endProcess, freePort } from '#product/db/embedded/postgres-process.js';
import { silentLogger } from './support/database-connection.js';

const START_MS_MAX = 30_000;
const CONNECTIONS_MAX = 100;
/** Of a server that nobody else reaches and that ends with the run; tests look for it in the output. */
const PASSWORD = 'of-the-tests-alone';

const root = path.join(import.meta.dirname, '..', '..');
const packages = path.join(root, '.ci', 'postgres', 'node_modules');
const run = promisify(execFile);

const PACKAGE = /^postgres-(\d+)$/;

function installedVersions(): readonly string[] {
  if (!existsSync(packages)) return [];
  return readdirSync(packages).flatMap((name) => PACKAGE.exec(name)?.[1] ?? []);
}

interface Server {
  readonly url: string;
  readonly child: ChildProcess;
}

/** Makes a cluster of that version in `dir` and starts it. */
async function start(version: string, dir: string): Promise<Server> {
  const binaries = await prepareBinaries(path.join(packages, `postgres-${version}`), path.join(dir, 'lib'));
  const account = await choosePostgresAccount(binaries.postgres, dir);
  await giveTo(account, dir);
  const port = await freePort();
  const cluster = path.join(dir, 'cluster');
  const options = {
    cwd: '/',
    env: { ...process.env, ...binaries.environment, LC_ALL: 'C', TZ: 'UTC' },
    ...account.ids,
  };
  const command = (program: string, args: readonly string[]): [string, string[]] => {
    const [first = program, ...rest] = [...account.boundPrefix, program, ...args];
    return [first, rest];
  };
  const passwordFile = path.join(dir, 'password');
  await writeFile(passwordFile, PASSWORD);
  await giveTo(account, passwordFile);
  const initArgs = ['-D', cluster, '-U', 'postgres', '-A', 'scram-sha-256', `--pwfile=${passwordFile}`, '-E', 'UTF8'];
  await run(...command(binaries.initdb, initArgs), options);
  const settings = [
    'listen_addresses=127.0.0.1',
    `port=${port}`,
    'unix_socket_directories=',
    `max_connections=${CONNECTIONS_MAX}`,
    // Before 14 it is md5 by default, whatever the file of accesses says.
    'password_encryption=scram-sha-256',
  ];
  const args = ['-D', cluster, ...settings.flatMap((setting) => ['-c', setting])];
  const child = spawn(...command(binaries.postgres, args), { ...options, stdio: ['ignore', 'ignore', 'ignore'] });
  return { url: `postgresql://postgres:${PASSWORD}@127.0.0.1:${port}/postgres`, child };
}

/** The version that the server says it is, once it answers. */
async function answeredVersion({ url, child }: Server): Promise<string> {
  const deadline = performance.now() + START_MS_MAX;
  for (;;) {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => undefined);
    try {
      await client.connect();
      const { rows } = await client.query<{ server_version: string }>('show server_version');
      return rows[0]?.server_version ?? '';
    } catch (error) {
      if (child.exitCode !== null || performance.now() > deadline) throw error;
      await delay(100);
    } finally {
      await client.end().catch(() => undefined);
    }
  }
}

async function test(version: string, filters: readonly string[]): Promise<boolean> {
  const dir = await mkdtemp(path.join(os.tmpdir(), `summing-counters-postgres-${version}-`));
  await chmod(dir, 0o755);
  const server = await start(version, dir);
  try {
    console.log(`test:postgres: ${await answeredVersion(server)}`);
    const args = [path.join(root, 'dist-test', 'test', 'run.js'), 'integration', ...filters];
    const { status } = spawnSync(process.execPath, args, {
      cwd: root,
      stdio: 'inherit',
      env: { ...process.env, TEST_DATABASE_URL: server.url },
    });
    return status === 0;
  } finally {
    await endProcess(server.child, silentLogger);
    await rm(dir, { recursive: true, force: true });
  }
}

const installed = installedVersions();
const given = process.argv.slice(2);
const filters = given.filter((argument) => !/^\d+$/.test(argument));
const versions = given.filter((argument) => !filters.includes(argument));
const asked = versions.length > 0 ? versions : installed;
const missing = asked.filter((version) => !installed.includes(version));
if (asked.length === 0 || missing.length > 0) {
  console.error(
    `test:postgres: not installed: ${missing.join(', ') || 'any'}; there ${installed.length === 1 ? 'is' : 'are'} ${installed.join(', ') || 'none'}`,
  );
  process.exitCode = 1;
} else {
  for (const version of asked) {
    const passed = await test(version, filters);
    console.log(`test:postgres: ${version} ${passed ? 'passed' : 'FAILED'}`);
    if (!passed) process.exitCode = 1;
  }
}
