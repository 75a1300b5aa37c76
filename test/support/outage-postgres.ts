/**
 * A PostgreSQL that a test can stop and start again on the same port, as a given database may. The embedded one
 * restarts by itself.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { choosePostgresAccount } from '#product/db/embedded/postgres-account.js';
import { embeddedPackageDir, prepareBinaries } from '#product/db/embedded/postgres-binaries.js';
import { openCluster } from '#product/db/embedded/postgres-cluster.js';
import { serverArguments } from '#product/db/embedded/postgres-process.js';
import { childrenOf } from './given-postgres.js';

const READY = 'database system is ready to accept connections';

/** A port on which nobody listens now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('a TCP server has a port');
  return address.port;
}

interface Launch {
  readonly program: string;
  readonly args: readonly string[];
  readonly options: { readonly env: NodeJS.ProcessEnv; readonly uid?: number; readonly gid?: number };
}

/** One data directory and one port. */
export class OutagePostgres {
  readonly url: string;
  readonly #dataDir: string;
  readonly #launch: Launch;
  #child: ChildProcess | undefined;
  #held: readonly number[] = [];

  private constructor(dataDir: string, url: string, launch: Launch) {
    this.#dataDir = dataDir;
    this.url = url;
    this.#launch = launch;
  }

  /** Makes the data directory; the server does not run yet. */
  static async prepare(): Promise<OutagePostgres> {
    const dataDir = await mkdtemp(join(tmpdir(), 'summing-counters-outage-'));
    const binaries = await prepareBinaries(embeddedPackageDir(), join(dataDir, 'lib'));
    const account = await choosePostgresAccount(binaries.postgres, dataDir);
    const { dir, password } = await openCluster(dataDir, binaries, account);
    const port = await freePort();
    const [program = binaries.postgres, ...args] = [
      ...account.boundPrefix,
      binaries.postgres,
      ...serverArguments({ dir, port, connectionsMax: 30 }),
    ];
    const env = { ...process.env, ...binaries.environment, LC_ALL: 'C' };
    const url = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
    return new OutagePostgres(dataDir, url, { program, args, options: { env, ...account.ids } });
  }

  /** Settles when it accepts connections. */
  async start(): Promise<void> {
    const { program, args, options } = this.#launch;
    const child = spawn(program, args, { ...options, cwd: '/', stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child = child;
    let said = '';
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', () => reject(new Error(`PostgreSQL did not start: ${said}`)));
      child.stderr.on('data', (chunk: Buffer) => {
        said = (said + chunk.toString()).slice(-10_000);
        if (said.includes(READY)) resolve();
      });
    });
  }

  /** `fast` ends every session and shuts down; `crash` stops at once and lets the next start recover. */
  async stop(how: 'fast' | 'crash'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined) return;
    const ended = once(child, 'exit');
    child.kill(how === 'fast' ? 'SIGINT' : 'SIGQUIT');
    await ended;
  }

  /** Suspends all its processes: nothing answers and nothing refuses, the worst kind of outage. */
  hold(): void {
    const pid = this.#child?.pid;
    if (pid === undefined) return;
    this.#held = [pid, ...childrenOf(pid)];
    for (const held of this.#held) process.kill(held, 'SIGSTOP');
  }

  /** Resumes all its processes. */
  release(): void {
    for (const held of this.#held) process.kill(held, 'SIGCONT');
    this.#held = [];
  }

  /** Stops it and deletes its data. */
  async dispose(): Promise<void> {
    this.release();
    await this.stop('crash');
    await rm(this.#dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}
