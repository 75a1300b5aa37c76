/**
 * One PostgreSQL process: its settings, its port, its end, and the reasons of a failed start. Main thread.
 *
 * The settings are on the command line, so that a new release can change them on an old data directory. Those of durability are
 * PostgreSQL's defaults. They are written out because `postgresql.auto.conf` must not change them: a commit is on disk before it
 * is answered.
 */
import type { ChildProcess } from 'node:child_process';
import { createServer } from 'node:net';
import { reasonOf } from '../../core/errors.js';

/** Additional connections: for an operator's psql, and for lost connections that the server still counts. */
const CONNECTIONS_SPARE = 10;
/** Time for a fast shutdown, which writes a checkpoint. */
const FAST_SHUTDOWN_MS = 20_000;
const IMMEDIATE_SHUTDOWN_MS = 10_000;

/** Arguments of the `postgres` program. */
export function serverArguments(options: {
  readonly dir: string;
  readonly port: number;
  readonly connectionsMax: number;
}): string[] {
  const settings: Readonly<Record<string, string | number>> = {
    listen_addresses: '127.0.0.1',
    port: options.port,
    unix_socket_directories: '',
    max_connections: options.connectionsMax + CONNECTIONS_SPARE,
    password_encryption: 'scram-sha-256',

    fsync: 'on',
    synchronous_commit: 'on',
    full_page_writes: 'on',

    shared_buffers: '128MB',
    // A checkpoint begins at about half of it, and then logs each page's first change as a whole page. Measured with 200,000
    // counters: 1 GB and 256 MB write the same 59 to 60 bytes an increment.
    max_wal_size: '256MB',
    checkpoint_timeout: '15min',
    wal_compression: 'on',
    wal_recycle: 'on',
    max_wal_senders: 0,
    work_mem: '16MB',
    // Neither helps the statements, and parallel workers need /dev/shm, which is small in containers.
    jit: 'off',
    max_parallel_workers_per_gather: 0,

    // Standard error is a pipe to this process; see postgres-log.ts.
    logging_collector: 'off',
    log_destination: 'stderr',
    log_line_prefix: '%m [%p] ',
    log_checkpoints: 'off',
    log_timezone: 'UTC',
    lc_messages: 'C',
  };
  const args = ['-D', options.dir];
  for (const [name, value] of Object.entries(settings)) args.push('-c', `${name}=${value}`);
  return args;
}

/** Asks for a fast shutdown, then for an immediate one, then kills the process. */
export async function endProcess(
  child: ChildProcess,
  logger: { warn(fields: object, message: string): void },
): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const immediate = setTimeout(() => {
    logger.warn({ pid: child.pid }, 'Embedded PostgreSQL does not stop; asking for an immediate shutdown');
    child.kill('SIGQUIT');
  }, FAST_SHUTDOWN_MS);
  const kill = setTimeout(() => child.kill('SIGKILL'), FAST_SHUTDOWN_MS + IMMEDIATE_SHUTDOWN_MS);
  child.kill('SIGINT');
  await exited;
  clearTimeout(immediate);
  clearTimeout(kill);
}

/**
 * True for failures that a retry cures: the earlier process has not ended yet, or the new one was killed. If only its recovery child
 * was killed, it ends with code 1 and without an error in its output.
 */
export function isPassing(error: unknown, output: string): boolean {
  const killed =
    (error instanceof Error && error.message === 'it ended with SIGKILL') ||
    output.includes('was terminated by signal 9');
  return killed || output.includes('lock file "postmaster.pid" already exists') || output.includes('is still in use');
}

/** The exit of the process and the last errors of its output, in one line. */
export function describeFailure(error: unknown, output: string): string {
  const lines = output
    .split('\n')
    .filter((line) => /FATAL|PANIC|ERROR|could not|error while loading|was terminated by/.test(line));
  const how = reasonOf(error);
  return lines.length === 0 ? `${how}.` : `${how}. Its output: ${lines.slice(-3).join(' ')}`;
}

/** A port that is free now. Another process may take it at any time. */
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
