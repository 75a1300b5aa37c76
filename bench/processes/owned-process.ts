/**
 * Processes and directories of the benchmark, and their end. After success, failure and Ctrl-C alike, each process is
 * stopped by its own id and each directory is removed.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** How to start a process and how to see that it is ready. */
export interface ProcessRequest {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Matches its output when it is ready. */
  readonly ready: RegExp;
  /** Most ms until it is ready. */
  readonly readyMsMax?: number;
}

const READY_MS_MAX = 60_000;
/** Most ms after SIGTERM. A server drains in less. */
const STOP_MS_MAX = 40_000;
/** Characters of output that are kept for each process. */
const OUTPUT_MAX = 1_000_000;

const owned = new Set<OwnedProcess>();
const directories = new Set<string>();

/** A process that the benchmark started. */
export class OwnedProcess {
  readonly name: string;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  #output = '';
  #onOutput: () => void = () => undefined;

  constructor(name: string, child: ChildProcess, pid: number) {
    this.name = name;
    this.pid = pid;
    this.#child = child;
    const collect = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-OUTPUT_MAX);
      this.#onOutput();
    };
    child.stdout?.on('data', collect);
    child.stderr?.on('data', collect);
    this.#ended = new Promise((resolve) => {
      child.once('close', () => {
        owned.delete(this);
        this.#onOutput();
        resolve();
      });
    });
    owned.add(this);
  }

  /** The last million characters of its output. */
  get output(): string {
    return this.#output;
  }

  /** Whether it runs. */
  get isAlive(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Waits until its output matches. Rejects if it ends before, and after `msMax`. */
  async until(pattern: RegExp, msMax: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve, reject) => {
      const fail = (what: string): void => reject(new Error(`${this.name} ${what}. It printed:\n${this.#output}`));
      timer = setTimeout(() => fail(`was not ready within ${msMax} ms`), msMax);
      this.#onOutput = () => {
        if (pattern.test(this.#output)) resolve();
        else if (!this.isAlive) fail('ended before it was ready');
      };
      this.#onOutput();
    }).finally(() => {
      clearTimeout(timer);
      this.#onOutput = () => undefined;
    });
  }

  /** Sends SIGTERM, then SIGKILL if it does not end. */
  async stop(): Promise<void> {
    if (this.isAlive) this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS_MAX);
    await this.#ended;
    clearTimeout(timer);
  }

  /** Sends SIGKILL at once, for the end of this process. */
  kill(): void {
    if (this.isAlive) this.#child.kill('SIGKILL');
  }
}

/** Starts a process and waits until it is ready. */
export async function startOwned(request: ProcessRequest): Promise<OwnedProcess> {
  const { name, command, args } = request;
  const child = spawn(command, args, { env: { ...process.env, ...request.env }, stdio: ['ignore', 'pipe', 'pipe'] });
  const failed = new Promise<never>((_, reject) => {
    child.once('error', (error) => reject(new Error(`${name} cannot be started: ${error.message}`, { cause: error })));
  });
  failed.catch(() => undefined);
  if (child.pid === undefined) return failed;
  const started = new OwnedProcess(name, child, child.pid);
  try {
    await started.until(request.ready, request.readyMsMax ?? READY_MS_MAX);
    return started;
  } catch (error) {
    started.kill();
    throw error;
  }
}

/** Creates a directory for temporary files, which is removed at the end at the latest. */
export async function ownedDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'summing-counters-bench-'));
  directories.add(directory);
  return directory;
}

/** Removes such a directory. Tries again, because a database that ends may still write into it. */
export async function removeOwned(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  directories.delete(directory);
}

/**
 * Runs the work of a command, prints a failure as one sentence, and stops and removes everything that is owned. Sets
 * the exit code: 1 after a failure, 130 after Ctrl-C.
 */
export async function withCleanup(work: () => void | Promise<void>): Promise<void> {
  let interrupted = false;
  const interrupt = (): void => {
    if (interrupted) return;
    interrupted = true;
    process.exitCode = 130;
    console.error('Interrupted; stopping all processes of the benchmark');
    // Work that waits for one of the processes fails now.
    void endAll();
  };
  process.on('SIGINT', interrupt);
  process.on('SIGTERM', interrupt);
  process.on('exit', () => {
    for (const left of owned) left.kill();
    for (const directory of directories) rmSync(directory, { recursive: true, force: true });
  });
  try {
    await work();
  } catch (error) {
    if (!interrupted) {
      process.exitCode = 1;
      console.error(error instanceof Error ? error.message : String(error));
      if (error instanceof Error && process.env['DEBUG'] !== undefined) console.error(error.stack);
    }
  } finally {
    await endAll();
    process.off('SIGINT', interrupt);
    process.off('SIGTERM', interrupt);
  }
}

async function endAll(): Promise<void> {
  await Promise.all(Array.from(owned, (left) => left.stop()));
  for (const directory of directories) await removeOwned(directory);
}
