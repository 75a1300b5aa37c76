/**
 * A PostgreSQL beside the server under test, like one of an operator, that a test may kill. It starts again on the same
 * port and data, and recovers from its own log.
 */
import { readFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { silentLogger } from './database-connection.js';
import type { Random } from './random.js';
import { temporaryDirectory } from './server.js';

/** See the file's head. */
export class GivenPostgres {
  readonly #dataDir: string;
  readonly #postgres: EmbeddedPostgres;

  private constructor(dataDir: string, postgres: EmbeddedPostgres) {
    this.#dataDir = dataDir;
    this.#postgres = postgres;
  }

  static async start(maxConnections = 80): Promise<GivenPostgres> {
    const dataDir = await temporaryDirectory();
    return new GivenPostgres(dataDir, await startEmbeddedPostgres({ dataDir, logger: silentLogger, maxConnections }));
  }

  get url(): string {
    return this.#postgres.url;
  }

  /** The current first process of PostgreSQL. */
  get pid(): number {
    return this.#postgres.pid;
  }

  /** The part of PostgreSQL's log that is kept. */
  log(): Promise<string> {
    return readFile(path.join(this.#dataDir, 'postgres.log'), 'utf8');
  }

  async stop(): Promise<void> {
    await this.#postgres.stop();
    await rm(this.#dataDir, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}

/** Kills all processes of PostgreSQL with SIGKILL. False if it is not running. */
export function killPostgres(postmaster: number): boolean {
  const children = childrenOf(postmaster);
  if (!kill(postmaster)) return false;
  for (const child of children) kill(child);
  return true;
}

/** Kills one process of PostgreSQL; the others then end their sessions and recover. False if there is none. */
export function killOneProcess(postmaster: number, random: Random): boolean {
  const children = childrenOf(postmaster);
  const child = children[random.integer(children.length)];
  return child !== undefined && kill(child);
}

/**
 * Suspends all processes of PostgreSQL, so that nothing answers and nothing refuses. Returns a function that resumes them;
 * undefined if PostgreSQL is not running.
 */
export function freezePostgres(postmaster: number): (() => void) | undefined {
  // The first process starts no others from here on.
  if (!signal(postmaster, 'SIGSTOP')) return undefined;
  const children = childrenOf(postmaster).filter((child) => signal(child, 'SIGSTOP'));
  return () => {
    for (const held of [postmaster, ...children]) signal(held, 'SIGCONT');
  };
}

/** The first process of the PostgreSQL embedded under `dataDir`, or undefined if none has been started. */
export function embeddedPostmaster(dataDir: string): number | undefined {
  try {
    const [line = ''] = readFileSync(path.join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').split('\n');
    const pid = Number(line);
    return Number.isSafeInteger(pid) && pid > 1 && isPostgres(pid) ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** A pid file outlives its process, and the number may belong to another process by now. */
function isPostgres(pid: number): boolean {
  return readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('postgres');
}

/** The children of a process, by their ids. */
export function childrenOf(pid: number): readonly number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    return text === '' ? [] : text.split(' ').map(Number);
  } catch {
    return [];
  }
}

function kill(pid: number): boolean {
  return signal(pid, 'SIGKILL');
}

function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    process.kill(pid, name);
    return true;
  } catch {
    return false;
  }
}
