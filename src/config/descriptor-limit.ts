/**
 * The limit of descriptors (open files and sockets) of this process, and how many the server needs besides HTTP connections.
 * Any thread.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Descriptors that the default of MAX_CONNECTIONS leaves to everything else. */
export const DESCRIPTORS_RESERVED = 100;

/**
 * The limit of descriptors of this process. Node.js raises the soft limit to the hard one when it starts, so this is the hard
 * limit. Infinity if it is unlimited or unknown.
 */
export function descriptorLimit(): number {
  try {
    return process.platform === 'linux'
      ? limitIn(/^Max open files\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1])
      : limitIn(execFileSync('/bin/sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).trim());
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

function limitIn(text: string | undefined): number {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : Number.POSITIVE_INFINITY;
}

/** Main thread, log, lock, listening socket, embedded database, connections for reads and deletes. */
const PROCESS_DESCRIPTORS = 24;
/** Event loop and ports of the thread, three database connections, segments of its streams. */
const SHARD_DESCRIPTORS = 11;
/** Event loop and ports of the thread, listening socket. */
const HTTP_THREAD_DESCRIPTORS = 5;

/** About how many descriptors the server needs besides those of HTTP connections. */
export function ownDescriptors({
  shards,
  httpThreads,
}: {
  readonly shards: number;
  readonly httpThreads: number;
}): number {
  return PROCESS_DESCRIPTORS + SHARD_DESCRIPTORS * shards + HTTP_THREAD_DESCRIPTORS * httpThreads;
}
