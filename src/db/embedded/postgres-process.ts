/**
 * The pieces of running one PostgreSQL process: where it listens, how it ends, what it says when it does not start. Main
 * thread.
 */
import type { ChildProcess } from 'node:child_process';
import { createServer } from 'node:net';
import { reasonOf } from '../../core/errors.js';

/** What a fast shutdown may take: it writes a checkpoint. */
const FAST_SHUTDOWN_MS = 20_000;
const IMMEDIATE_SHUTDOWN_MS = 10_000;

/** Fast shutdown, then immediate, then the kernel's. */
export async function endProcess(
  child: ChildProcess,
  logger: { warn(fields: object, message: string): void },
): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const immediate = setTimeout(() => {
    logger.warn({ pid: child.pid }, 'embedded PostgreSQL does not stop; asking for an immediate shutdown');
    child.kill('SIGQUIT');
  }, FAST_SHUTDOWN_MS);
  const kill = setTimeout(() => child.kill('SIGKILL'), FAST_SHUTDOWN_MS + IMMEDIATE_SHUTDOWN_MS);
  child.kill('SIGINT');
  await exited;
  clearTimeout(immediate);
  clearTimeout(kill);
}

/** What passes by itself: a predecessor that has not quite ended; somebody, or the system for want of memory, killed it. */
export function isPassing(error: unknown, said: string): boolean {
  const killed = error instanceof Error && error.message === 'it ended with SIGKILL';
  return killed || said.includes('lock file "postmaster.pid" already exists') || said.includes('is still in use');
}

/** What ended, and what it said about why, in one line. */
export function describeFailure(error: unknown, said: string): string {
  const lines = said.split('\n').filter((line) => /FATAL|PANIC|ERROR|could not|error while loading/.test(line));
  const how = reasonOf(error);
  return lines.length === 0 ? `${how}.` : `${how}. It said: ${lines.slice(-3).join(' ')}`;
}

/** A port nobody listens on at this moment; somebody may at the next. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => {
        if (address === null || typeof address === 'string') reject(new Error('a TCP server has a port'));
        else resolve(address.port);
      });
    });
  });
}
