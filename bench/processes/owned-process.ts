/**
 * Processes and directories that the benchmark makes, and their end: each process is stopped by its own id and each
 * directory removed, after success, failure and Ctrl-C alike.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** How to start a process and how to know that it is ready. */
export interface ProcessRequest {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** A line of its standard output that says that it can be used. */
  readonly ready: RegExp;
  /** Most ms until then. */
  readonly readyMsMax?: number;
}

const READY_MS_MAX = 60_000;
/** After SIGTERM; a server drains within it. */
const STOP_MS_MAX = 40_000;
/** What is kept of a process's output, in characters. */
const OUTPUT_MAX = 1_000_000;

const owned = new Set<OwnedProcess>();
const directories = new Set<string>();

/** A process that this one started. */
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

  /** What it printed, the latest million characters. */
  get output(): string {
    return this.#output;
  }

  /** Whether it runs. */
  get isAlive(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Waits until its output matches. Rejects where it ends before, or after `msMax`. */
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

  /** SIGTERM, and SIGKILL where that does not end it. */
  async stop(): Promise<void> {
    if (this.isAlive) this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS_MAX);
    await this.#ended;
    clearTimeout(timer);
  }

  /** At once; for the end of this process. */
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

/** A new directory under the system's for temporary files; removed at the end at the latest. */
export async function ownedDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'summing-counters-bench-'));
  directories.add(directory);
  return directory;
}

/** Removes such a directory; a database that is ending may still be writing into it. */
export async function removeOwned(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  directories.delete(directory);
}

/**
 * Runs a command's work, prints its failure as one sentence, and leaves nothing behind. Sets the exit code: 1 after a
 * failure, 130 after Ctrl-C.
 */
export async function withCleanup(work: () => Promise<void>): Promise<void> {
  let interrupted = false;
  const interrupt = (): void => {
    if (interrupted) return;
    interrupted = true;
    process.exitCode = 130;
    console.error('Interrupted: stopping what was started.');
    // Whoever waits for one of them fails now, and the work with it.
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
