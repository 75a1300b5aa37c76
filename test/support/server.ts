/**
 * The real server: a process of its own with a data directory of its own, reached over a socket.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PATIENCE_MS } from './eventually.js';

const MAIN = fileURLToPath(new URL('../../../dist/main.js', import.meta.url));

/** How to start a server; its environment is that of the test process plus `env`. */
export interface ServerOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Reused by the next start; the test deletes it. Default: a temporary one that `dispose` deletes. */
  readonly dataDir?: string;
  /** Settles at this log message instead of "Ready". */
  readonly until?: string;
  /** Timeout until then, in ms. */
  readonly startMs?: number;
  /** Limit of open files of the process; default: that of the test process. */
  readonly openFilesMax?: number;
  /** The program; default: the built product. */
  readonly main?: string;
}

/** How a process ended. */
export interface ProcessEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A server process. */
export class TestServer {
  readonly child: ChildProcess;
  readonly dataDir: string;
  readonly ended: Promise<ProcessEnd>;
  /** All output so far. */
  output = '';
  #listeners: (() => void)[] = [];

  constructor(child: ChildProcess, dataDir: string) {
    this.child = child;
    this.dataDir = dataDir;
    const collect = (chunk: Buffer): void => {
      this.output += chunk.toString();
      this.#notify();
    };
    child.stdout?.on('data', collect);
    child.stderr?.on('data', collect);
    this.ended = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        resolve({ code, signal });
        this.#notify();
      });
    });
  }

  /** The parsed lines of the log. */
  get log(): readonly Record<string, unknown>[] {
    return this.output.split('\n').flatMap((line) => {
      try {
        return [JSON.parse(line) as Record<string, unknown>];
      } catch {
        return [];
      }
    });
  }

  /** `http://127.0.0.1:PORT`; the server must listen already. */
  get url(): string {
    const line = this.log.find(({ msg }) => String(msg).startsWith('Listening on '));
    if (line === undefined) throw new Error(`the server does not listen:\n${this.output}`);
    return String(line['msg']).slice('Listening on '.length);
  }

  /** Waits until a line of the output holds `text`. */
  async waitFor(text: string, ms = PATIENCE_MS): Promise<void> {
    const timeout = AbortSignal.timeout(ms);
    while (!this.output.includes(text)) {
      if (timeout.aborted) throw new Error(`no "${text}" within ${ms} ms:\n${this.output}`);
      if (!this.isRunning) {
        throw new Error(`the server ended before "${text}":\n${this.output}`);
      }
      await new Promise<void>((resolve) => {
        const onAbort = (): void => resolve();
        timeout.addEventListener('abort', onAbort, { once: true });
        this.#listeners.push(() => {
          timeout.removeEventListener('abort', onAbort);
          resolve();
        });
      });
    }
  }

  get isRunning(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Sends a signal to the server itself. */
  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** SIGTERM, and how it ended. */
  async stop(): Promise<ProcessEnd> {
    this.kill('SIGTERM');
    return this.ended;
  }

  /** Ends the process in any state, and deletes its data directory. */
  async dispose(): Promise<void> {
    if (this.isRunning) this.kill('SIGKILL');
    await this.ended;
    await rm(this.dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }

  #notify(): void {
    const listeners = this.#listeners;
    this.#listeners = [];
    for (const listener of listeners) listener();
  }
}

/** A new directory below the system's directory for temporary files. */
export function temporaryDirectory(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'summing-counters-'));
}

/** Starts a server on a free port; settles when it is ready. */
export async function startServer(options: ServerOptions = {}): Promise<TestServer> {
  const server = await spawnServer(options);
  try {
    await server.waitFor(options.until ?? '"msg":"Ready"', options.startMs ?? 60_000);
  } catch (error) {
    await server.dispose();
    throw error;
  }
  return server;
}

/** Starts a server and does not wait. */
export async function spawnServer(options: ServerOptions = {}): Promise<TestServer> {
  const dataDir = options.dataDir ?? (await temporaryDirectory());
  const env = { ...process.env, PORT: '0', DATA_DIR: dataDir, ...options.env };
  const { openFilesMax } = options;
  const program = [process.execPath, options.main ?? MAIN];
  // The shell becomes the server, so that signals and the process id are the server's.
  const [file = '', ...args] =
    openFilesMax === undefined ? program : ['/bin/sh', '-c', `ulimit -n ${openFilesMax}; exec "$0" "$1"`, ...program];
  const child = spawn(file, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  return new TestServer(child, dataDir);
}
