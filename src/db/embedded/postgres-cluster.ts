/**
 * The data directory of the embedded PostgreSQL (a "cluster" in PostgreSQL's terms) and its password. Main thread.
 *
 * ```text
 * <dataDir>/postgres            the cluster: complete or missing, because it is created under another name and renamed
 * <dataDir>/postgres.new-*      a cluster in creation; the next start removes it after an interruption. Each has a new name,
 *                               because the initdb of a killed process may go on for a while, and then removes its own
 * <dataDir>/postgres-password   of the only role, mode 0600; written before the cluster that uses it
 * ```
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { childEnvironment } from '../../config/child-environment.js';
import { StartError, reasonOf } from '../../core/errors.js';
import { replaceFile, syncDirectory } from '../../core/replace-file.js';
import { errorCode } from '../database-errors.js';
import { giveTo, type PostgresAccount } from './postgres-account.js';
import type { PostgresBinaries } from './postgres-binaries.js';

const run = promisify(execFile);
/** The major version of the packages. PostgreSQL does not open data directories of other versions. */
const MAJOR_VERSION = '18';
const STAGING = 'postgres.new-';

/** A cluster that can be started. */
export interface PostgresCluster {
  readonly dir: string;
  readonly password: string;
}

/** Opens the cluster in `dataDir`, or creates it. Throws StartError where neither is possible. */
export async function openCluster(
  dataDir: string,
  binaries: PostgresBinaries,
  account: PostgresAccount,
): Promise<PostgresCluster> {
  const dir = path.join(dataDir, 'postgres');
  for (const entry of await readdir(dataDir)) {
    // Retried, because the initdb of a killed process may still write.
    if (entry.startsWith(STAGING))
      await rm(path.join(dataDir, entry), { recursive: true, force: true, maxRetries: 20 });
  }
  const version = await readIfThere(path.join(dir, 'PG_VERSION'));
  if (version === undefined) {
    const password = (await readPassword(dataDir)) ?? createPassword(dataDir);
    await initialize(dataDir, dir, password, binaries, account);
    return { dir, password };
  }
  if (version.trim() !== MAJOR_VERSION) {
    throw new StartError([
      `${dir} was made by PostgreSQL ${version.trim()} and the embedded one is ${MAJOR_VERSION}: ` +
        'upgrade it with pg_upgrade or pg_dump, or set DATABASE_URL.',
    ]);
  }
  const password = await readPassword(dataDir);
  if (password === undefined)
    throw new StartError([`${passwordFile(dataDir)} is missing: restore it, ${dir} cannot be opened without it.`]);
  await giveTo(account, dir);
  return { dir, password };
}

async function initialize(
  dataDir: string,
  dir: string,
  password: string,
  binaries: PostgresBinaries,
  account: PostgresAccount,
): Promise<void> {
  const staging = await mkdtemp(path.join(dataDir, STAGING));
  const passwordCopy = path.join(staging, 'password');
  await writeFile(passwordCopy, password, { mode: 0o600 });
  await giveTo(account, passwordCopy);
  await giveTo(account, staging);
  const command = [
    ...account.boundPrefix,
    binaries.initdb,
    '--pgdata',
    path.join(staging, 'cluster'),
    '--username=postgres',
    '--auth=scram-sha-256',
    `--pwfile=${passwordCopy}`,
    '--encoding=UTF8',
    // Independent of the locales of the machine, so that the directory can be moved to another one.
    '--locale=C',
    '--locale-provider=builtin',
    '--builtin-locale=C.UTF-8',
  ];
  const [program = binaries.initdb, ...args] = command;
  try {
    await run(program, args, {
      cwd: '/',
      env: { ...childEnvironment(process.env), ...binaries.environment, LC_ALL: 'C', TZ: 'UTC' },
      ...account.ids,
    });
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw new StartError([`The embedded PostgreSQL could not be set up in ${dir}: ${lastLine(error)}`], {
      cause: error,
    });
  }
  // initdb has synced its files.
  await rename(path.join(staging, 'cluster'), dir);
  syncDirectory(dataDir);
  await rm(staging, { recursive: true, force: true });
}

function passwordFile(dataDir: string): string {
  return path.join(dataDir, 'postgres-password');
}

async function readPassword(dataDir: string): Promise<string | undefined> {
  const text = (await readIfThere(passwordFile(dataDir)))?.trim();
  return text === '' ? undefined : text;
}

function createPassword(dataDir: string): string {
  const password = randomBytes(24).toString('hex');
  replaceFile(passwordFile(dataDir), `${password}\n`, 0o600);
  return password;
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw new StartError([`${file} cannot be read: ${reasonOf(error)}`], {
      cause: error,
    });
  }
}

function lastLine(error: unknown): string {
  const stderr = typeof error === 'object' && error !== null && 'stderr' in error ? String(error.stderr) : '';
  const lines = stderr
    .split('\n')
    .filter((line) => line.includes('error') || line.includes('FATAL') || line.includes('could not'));
  return lines.join(' ') || reasonOf(error);
}
