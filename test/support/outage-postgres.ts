/**
 * A PostgreSQL that a test can stop and start again on the same port, as a given database may. The embedded one
 * restarts by itself.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { choosePostgresAccount, giveTo, type PostgresAccount } from '#product/db/embedded/postgres-account.js';
import { embeddedPackageDir, prepareBinaries } from '#product/db/embedded/postgres-binaries.js';
import { openCluster } from '#product/db/embedded/postgres-cluster.js';
import { serverArguments } from '#product/db/embedded/postgres-process.js';
import { freePort } from './free-port.js';
import { childrenOf, killPostgres } from './given-postgres.js';

const READY = /database system is ready to accept (read-only )?connections/;

/** Settings of PostgreSQL by their names. */
export type PostgresSettings = Readonly<Record<string, string>>;

interface Cluster {
  readonly dir: string;
  readonly password: string;
  readonly account: PostgresAccount;
  readonly program: string;
  readonly env: NodeJS.ProcessEnv;
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
  readonly #cluster: Cluster;
  readonly #launch: Launch;
  #child: ChildProcess | undefined;
  #held: readonly number[] = [];

  private constructor(dataDir: string, cluster: Cluster, port: number, settings: PostgresSettings) {
    const { dir, password, account } = cluster;
    const [program = cluster.program, ...args] = [
      ...account.boundPrefix,
      cluster.program,
      ...serverArguments({ dir, port, connectionsMax: 30 }),
      ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ];
    this.#dataDir = dataDir;
    this.#cluster = cluster;
    this.url = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
    this.#launch = { program, args, options: { env: cluster.env, ...account.ids } };
  }

  /** Makes the data directory; the server does not run yet. `settings` come after those of the embedded PostgreSQL. */
  static async prepare(settings: PostgresSettings = {}): Promise<OutagePostgres> {
    const dataDir = await mkdtemp(join(tmpdir(), 'summing-counters-outage-'));
    const binaries = await prepareBinaries(embeddedPackageDir(), join(dataDir, 'lib'));
    const account = await choosePostgresAccount(binaries.postgres, dataDir);
    const { dir, password } = await openCluster(dataDir, binaries, account);
    const env = { ...process.env, ...binaries.environment, LC_ALL: 'C' };
    const cluster = { dir, password, account, program: binaries.postgres, env };
    return new OutagePostgres(dataDir, cluster, await freePort(), settings);
  }

  /**
   * Copies this one, which has never run, as a standby that streams from `primary`. The embedded package has no
   * pg_basebackup; a cluster that was stopped, or never started, needs none.
   */
  async prepareStandby(primary: OutagePostgres, settings: PostgresSettings = {}): Promise<OutagePostgres> {
    const { hostname, port, username, password } = new URL(primary.url);
    const standby = await this.copy(settings);
    const { dir } = standby.#cluster;
    const address = `host=${hostname} port=${port} user=${username} password=${password} application_name=standby`;
    // Not as an argument: a test cuts the standby off with ALTER SYSTEM.
    await appendFile(join(dir, 'postgresql.auto.conf'), `primary_conninfo = '${address}'\n`);
    await writeFile(join(dir, 'standby.signal'), '');
    return standby;
  }

  /** Copies the data directory, which no server may use, for a server on a port of its own. */
  async copy(settings: PostgresSettings = {}): Promise<OutagePostgres> {
    const dataDir = await mkdtemp(join(tmpdir(), 'summing-counters-outage-'));
    const dir = join(dataDir, 'postgres');
    await cp(this.#cluster.dir, dir, { recursive: true });
    await giveTo(this.#cluster.account, dir);
    return new OutagePostgres(dataDir, { ...this.#cluster, dir }, await freePort(), settings);
  }

  /** Settles when it accepts connections. */
  async start(): Promise<void> {
    const { program, args, options } = this.#launch;
    const child = spawn(program, args, { ...options, cwd: '/', stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child = child;
    let said = '';
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', () => {
        this.#child = undefined;
        reject(new Error(`PostgreSQL did not start: ${said}`));
      });
      child.stderr.on('data', (chunk: Buffer) => {
        said = (said + chunk.toString()).slice(-10_000);
        if (READY.test(said)) resolve();
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

  /** Kills all its processes with SIGKILL, as the end of its machine would. */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child?.pid === undefined) return;
    const ended = once(child, 'exit');
    killPostgres(child.pid);
    this.#held = [];
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
