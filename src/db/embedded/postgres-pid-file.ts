/**
 * `postmaster.pid`: the PostgreSQL process on a data directory. Main thread.
 *
 * - A start stops a server that outlived the process that started it: after kill -9 where the kernel does not signal the server.
 * - PostgreSQL replaces a file whose process is dead. But it refuses to start where the number now belongs to another process or
 *   to a zombie. A start then changes the file to name an impossible process. It does not remove the file, which also names the
 *   shared memory that children of the dead server may still write to.
 */
import { execFile } from 'node:child_process';
import { readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { pause } from '../../core/clock.js';
import { StartError } from '../../core/errors.js';
import { errorCode } from '../database-errors.js';

const run = promisify(execFile);
const POLL_MS = 50;
const FAST_SHUTDOWN_MS = 20_000;
const IMMEDIATE_SHUTDOWN_MS = 10_000;
/** Larger than any process number (2^22 on Linux). */
const IMPOSSIBLE_PID = 2147483646;

/**
 * Stops a server that still runs on `dataDir`, and makes a stale pid file harmless. Returns the number of the stopped process.
 * Throws StartError where it cannot be stopped.
 */
export async function stopOrphan(dataDir: string): Promise<number | undefined> {
  const file = path.join(dataDir, 'postmaster.pid');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  const pid = Number.parseInt(text, 10);
  if (!Number.isSafeInteger(pid) || pid <= 1 || pid === IMPOSSIBLE_PID) return undefined;
  if (!(await isPostgresOn(pid, dataDir))) {
    const rest = text.indexOf('\n');
    await writeFile(file, `${IMPOSSIBLE_PID}${rest < 0 ? '\n' : text.slice(rest)}`);
    return undefined;
  }
  for (const [signal, timeoutMs] of [
    ['SIGINT', FAST_SHUTDOWN_MS],
    ['SIGQUIT', IMMEDIATE_SHUTDOWN_MS],
  ] as const) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (errorCode(error) === 'ESRCH') return pid;
      throw new StartError([`A PostgreSQL of another user (process ${pid}) already runs on ${dataDir}: stop it.`], {
        cause: error,
      });
    }
    const deadline = performance.now() + timeoutMs;
    while (performance.now() < deadline) {
      if (!(await isPostgresOn(pid, dataDir))) return pid;
      await pause(POLL_MS);
    }
  }
  throw new StartError([`A PostgreSQL (process ${pid}) already runs on ${dataDir} and does not stop: end it.`]);
}

/** Whether process `pid` is alive, not a zombie, and a PostgreSQL server on `dataDir`. */
async function isPostgresOn(pid: number, dataDir: string): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (errorCode(error) === 'ESRCH') return false;
  }
  return process.platform === 'linux' ? isPostgresOnLinux(pid, dataDir) : isPostgresByPs(pid, dataDir);
}

async function isPostgresOnLinux(pid: number, dataDir: string): Promise<boolean> {
  try {
    const status = await readFile(`/proc/${pid}/stat`, 'utf8');
    // "pid (name) state ...": the name may contain parentheses.
    const state = status.slice(status.lastIndexOf(')') + 2, status.lastIndexOf(')') + 3);
    if (state === 'Z' || state === 'X') return false;
    const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
    if (path.basename(command[0] ?? '') !== 'postgres') return false;
    if (command.includes(dataDir)) return true;
    // The working directory of the server is its data directory, whatever the path of the mount.
    const [its, ours] = await Promise.all([stat(`/proc/${pid}/cwd`), stat(dataDir)]);
    return its.dev === ours.dev && its.ino === ours.ino;
  } catch (error) {
    // It has ended meanwhile, or belongs to another user, so this server did not start it.
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return false;
    throw error;
  }
}

async function isPostgresByPs(pid: number, dataDir: string): Promise<boolean> {
  try {
    const { stdout } = await run('ps', ['-o', 'stat=,command=', '-p', String(pid)]);
    return !stdout.startsWith('Z') && stdout.includes('postgres') && stdout.includes(dataDir);
  } catch {
    return false;
  }
}
