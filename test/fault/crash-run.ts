/**
 * A run of the real server under load. It and its PostgreSQL are killed at random instants. Afterwards every acknowledged
 * increment must be counted once, every refused one never, every other at most once, and every read between must be explained.
 *
 * ```text
 * load, reads ───────────────────────────────────────► stop ─► flush ─► SIGTERM ─► check history
 * server:   start ─ kill -9 ─ start ─ kill -9 ─ start ─────────────────────┘
 * database:       kill -9 ─ (starts again) ─ kill -9 ──────┘
 * ```
 */
import { rm } from 'node:fs/promises';
import { startEmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { freePort } from '../support/free-port.js';
import { fastClockEnvironment } from '../support/fast-clock.js';
import { readCountedSums, type CountedSums } from '../support/counted-sums.js';
import { createDatabaseOn, silentLogger } from '../support/database-connection.js';
import { embeddedPostmaster, GivenPostgres, killOneProcess, killPostgres } from '../support/given-postgres.js';
import { checkHistory } from '../support/history/check-history.js';
import { History } from '../support/history/history.js';
import { readWhile } from '../support/history/reader.js';
import { send } from '../support/http.js';
import { Load } from '../support/load.js';
import type { Random } from '../support/random.js';
import { spawnServer, temporaryDirectory, type TestServer } from '../support/server.js';

/** What to run. */
export interface CrashRunOptions {
  readonly durationMs: number;
  /** The run lasts longer if a slow machine had fewer kills than this; default 0. */
  readonly serverKillsLeast?: number;
  readonly databaseKillsLeast?: number;
  readonly random: Random;
  /** Shards of every process; by default random from 1 to 4. */
  readonly shards?: number;
  readonly database: 'embedded' | 'given';
  /** Server processes on one database; more than one only with a given database. */
  readonly nodes?: number;
  readonly connections?: number;
  /** Pause of each connection after a request; default 0: as many requests as the machine can do. */
  readonly restMs?: number;
  readonly killServers?: boolean;
  readonly killDatabase?: boolean;
  /** The server's program; default: the built product. */
  readonly main?: string;
  /** Added to the environment of every process. */
  readonly env?: Readonly<Record<string, string>>;
  /** By how much the clock of the first node is ahead; default 0. */
  readonly fastClockHours?: number;
  readonly onProgress?: (line: string) => void;
}

/** The result of a run. */
export interface CrashRunResult {
  readonly seconds: number;
  readonly serverKills: number;
  readonly databaseKills: number;
  readonly lives: number;
  readonly acknowledged: number;
  readonly unknown: number;
  readonly refused: number;
  readonly reads: number;
  /** Requests with unknown outcome that were repeated with their idempotency key until they were acknowledged. */
  readonly repeated: number;
  /** One sentence for each violation. */
  readonly violations: readonly string[];
}

const PROGRESS_MS = 5_000;
const LAST_START_MS = 60_000;
const SETTLE_MS = 60_000;
/** One read in so many requests of a connection. */
const READ_EVERY = 100;
/** The part of a server's output that shows why it ended. */
const OUTPUT_SHOWN = 4_000;

/** Runs to the end. Rejects only if the run itself fails. */
export async function runCrashes(options: CrashRunOptions): Promise<CrashRunResult> {
  const run = new CrashRun(options);
  try {
    return await run.run();
  } finally {
    await run.dispose();
  }
}

interface Node {
  readonly port: number;
  readonly url: string;
  readonly dataDir: string;
  server: TestServer | undefined;
}

class CrashRun {
  readonly #options: CrashRunOptions;
  readonly #random: Random;
  readonly #history: History;
  readonly #violations: string[] = [];
  #postgres: GivenPostgres | undefined;
  #databaseUrl: string | undefined;
  #nodes: readonly Node[] = [];
  readonly #end = new AbortController();
  #timeIsUp = false;
  #serverKills = 0;
  #databaseKills = 0;
  #lives = 0;
  readonly #startedAt = performance.now();

  constructor(options: CrashRunOptions) {
    this.#options = options;
    this.#random = options.random;
    this.#history = new History(options.random);
  }

  async run(): Promise<CrashRunResult> {
    const { durationMs, nodes = 1, connections = 64, restMs = 0, database, killDatabase = true } = this.#options;
    if (database === 'given') {
      this.#postgres = await GivenPostgres.start();
      this.#databaseUrl = await createDatabaseOn(this.#postgres.url);
    }
    this.#nodes = await Promise.all(Array.from({ length: nodes }, makeNode));
    const load = new Load({
      urls: this.#nodes.map(({ url }) => url),
      connections,
      restMs,
      history: this.#history,
      readEvery: READ_EVERY,
    });
    // Time starts when everything works for the first time, however slow the machine is.
    for (const node of this.#nodes) await this.#readyOrBroken(await this.#spawn(node));
    await load.acknowledgements(1, LAST_START_MS);
    const progress = setInterval(() => this.#tellProgress(), PROGRESS_MS);
    const timer = setTimeout(() => {
      this.#timeIsUp = true;
      this.#endWhenEnough();
    }, durationMs);
    try {
      await Promise.all([
        ...this.#nodes.map((node) => this.#live(node, this.#end.signal)),
        ...this.#nodes.map(({ url }) =>
          readWhile({ history: this.#history, url, random: this.#random }, this.#end.signal),
        ),
        ...(killDatabase ? [this.#killDatabases(this.#end.signal)] : []),
      ]);
    } finally {
      clearTimeout(timer);
      clearInterval(progress);
    }
    await load.stop();
    for (const { url } of this.#nodes) {
      const failure = await flushFailure(url);
      if (failure !== undefined) this.#violations.push(`what was acknowledged ${failure}`);
    }
    for (const node of this.#nodes) await this.#stop(node);
    await this.#compare();
    return this.#result(load);
  }

  async dispose(): Promise<void> {
    this.#end.abort();
    for (const node of this.#nodes) {
      await node.server?.dispose();
      await rm(node.dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    }
    await this.#postgres?.stop();
  }

  #endWhenEnough(): void {
    const { serverKillsLeast = 0, databaseKillsLeast = 0 } = this.#options;
    const isEnough = this.#serverKills >= serverKillsLeast && this.#databaseKills >= databaseKillsLeast;
    if (this.#timeIsUp && isEnough) this.#end.abort();
  }

  /** One node's processes until the run is over; the last one keeps running. */
  async #live(node: Node, end: AbortSignal): Promise<void> {
    const { killServers = true } = this.#options;
    for (;;) {
      const server = await this.#spawn(node);
      if (!killServers || end.aborted) {
        await this.#readyOrBroken(server);
        if (!killServers) await pause(Number.POSITIVE_INFINITY, end);
        return;
      }
      // Some processes end while they start or recover, most under load; a process's time starts when it serves.
      if (this.#random.integer(4) > 0) await this.#readyOrBroken(server);
      await pause(50 + this.#random.integer(2_200), end);
      if (end.aborted) continue;
      if (!server.isRunning) {
        this.#violations.push(`a server ended by itself:\n${tail(server.output)}`);
      } else if (this.#random.integer(12) === 0) {
        server.kill('SIGTERM');
        await pause(this.#random.integer(300), end);
        server.kill('SIGKILL');
      } else {
        server.kill('SIGKILL');
      }
      this.#serverKills += 1;
      await server.ended;
      this.#inspect(server.output);
      this.#endWhenEnough();
    }
  }

  async #spawn(node: Node): Promise<TestServer> {
    // The last process of the loop above still runs when the run is over.
    if (node.server?.isRunning === true) return node.server;
    const { shards = 1 + this.#random.integer(4), main, env, fastClockHours = 0 } = this.#options;
    const isFast = fastClockHours > 0 && node === this.#nodes[0];
    this.#lives += 1;
    node.server = await spawnServer({
      dataDir: node.dataDir,
      ...(main === undefined ? {} : { main }),
      env: {
        PORT: String(node.port),
        SHARDS: String(shards),
        FLUSH_INTERVAL_MS: String(20 + this.#random.integer(400)),
        JOURNAL_KEEP_SECONDS: String(this.#random.integer(3)),
        LOG_LEVEL: 'info',
        ...(this.#databaseUrl === undefined ? {} : { DATABASE_URL: this.#databaseUrl }),
        ...env,
        ...(isFast ? fastClockEnvironment(fastClockHours) : {}),
      },
    });
    return node.server;
  }

  async #readyOrBroken(server: TestServer): Promise<void> {
    try {
      await server.waitFor('"msg":"Ready"', LAST_START_MS);
    } catch (error) {
      this.#violations.push(`a start failed: ${tail(error instanceof Error ? error.message : String(error))}`);
    }
  }

  async #killDatabases(end: AbortSignal): Promise<void> {
    while (!end.aborted) {
      await pause(1_500 + this.#random.integer(4_000), end);
      if (end.aborted) return;
      let postmaster = this.#postmaster();
      while (postmaster === undefined && !end.aborted) {
        await pause(50, end);
        postmaster = this.#postmaster();
      }
      if (postmaster === undefined) return;
      const killed = this.#random.integer(3) > 0 ? killPostgres(postmaster) : killOneProcess(postmaster, this.#random);
      if (killed) this.#databaseKills += 1;
      this.#endWhenEnough();
    }
  }

  #postmaster(): number | undefined {
    if (this.#postgres !== undefined) return this.#postgres.pid;
    const [node] = this.#nodes;
    return node === undefined ? undefined : embeddedPostmaster(node.dataDir);
  }

  async #stop(node: Node): Promise<void> {
    const { server } = node;
    if (server === undefined) return;
    const { code, signal } = await server.stop();
    if (code !== 0) this.#violations.push(`the last stop ended with ${signal ?? code}:\n${tail(server.output)}`);
    this.#inspect(server.output);
    if (!server.output.includes('Everything that was acknowledged is committed')) {
      this.#violations.push(`the last stop left something pending:\n${tail(server.output)}`);
    }
  }

  async #compare(): Promise<void> {
    const found = await this.#countedSums();
    this.#violations.push(
      ...checkHistory(this.#history.operations, found.sums),
      ...(await refusals(found, this.#postgres)),
    );
  }

  async #countedSums(): Promise<CountedSums> {
    if (this.#databaseUrl !== undefined) return readCountedSums(this.#databaseUrl);
    const [node] = this.#nodes;
    if (node === undefined) throw new Error('a run has a node');
    const postgres = await startEmbeddedPostgres({ dataDir: node.dataDir, logger: silentLogger, maxConnections: 5 });
    try {
      return await readCountedSums(postgres.url);
    } finally {
      await postgres.stop();
    }
  }

  /** A bug that a server logs is a violation, whatever the sums are. */
  #inspect(output: string): void {
    for (const line of output.split('\n')) {
      if (/"msg":"A bug|journal-corrupt|journal-gap|journal-fenced/.test(line)) this.#violations.push(tail(line));
    }
  }

  #tellProgress(): void {
    const { acknowledged, unknown, refused } = this.#history;
    const seconds = Math.round((performance.now() - this.#startedAt) / 1000);
    this.#options.onProgress?.(
      `${seconds} s: killed server ${this.#serverKills}, PostgreSQL ${this.#databaseKills}; requests acknowledged ` +
        `${acknowledged}, unknown ${unknown}, refused ${refused}${this.#violations.length > 0 ? '; VIOLATED' : ''}`,
    );
  }

  #result({ repeated }: Load): CrashRunResult {
    const { acknowledged, unknown, refused } = this.#history;
    return {
      seconds: (performance.now() - this.#startedAt) / 1000,
      serverKills: this.#serverKills,
      databaseKills: this.#databaseKills,
      lives: this.#lives,
      acknowledged,
      unknown,
      refused,
      reads: this.#history.operations.filter(({ kind }) => kind === 'read').length,
      repeated,
      violations: this.#violations,
    };
  }
}

async function makeNode(): Promise<Node> {
  const port = await freePort();
  return { port, url: `http://127.0.0.1:${port}`, dataDir: await temporaryDirectory(), server: undefined };
}

/** Repeats a flush until it commits everything that was acknowledged; otherwise says why none did. */
export async function flushFailure(url: string): Promise<string | undefined> {
  const timeout = AbortSignal.timeout(SETTLE_MS);
  let last = '';
  while (!timeout.aborted) {
    try {
      const answer = await send(url, '/flush', { method: 'POST' });
      if (answer.status === 200) return undefined;
      last = answer.body;
    } catch (error) {
      last = String(error);
    }
    await pause(100, timeout);
  }
  return `could not be flushed within ${SETTLE_MS} ms: ${last}`;
}

/** One sentence for each kind of row or statement that PostgreSQL has refused. */
export async function refusals(found: CountedSums, postgres: GivenPostgres | undefined): Promise<readonly string[]> {
  // The statistics start again when PostgreSQL recovers; its log does not.
  const logged = ((await postgres?.log())?.split('deadlock detected').length ?? 1) - 1;
  return [
    ...(found.rejected > 0 ? [`${found.rejected} rows are in rejected_increments`] : []),
    ...(found.deadlocks > 0 ? [`pg_stat_database counts ${found.deadlocks} deadlocks`] : []),
    ...(logged > 0 ? [`PostgreSQL has logged ${logged} deadlocks`] : []),
  ];
}

/** The end of a text, for a message. */
export function tail(text: string): string {
  return text.slice(-OUTPUT_SHOWN);
}

/** Settles after `ms`, or when `end` aborts. */
export function pause(ms: number, end: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (end.aborted) {
      resolve();
      return;
    }
    const timer = Number.isFinite(ms) ? setTimeout(finish, ms) : undefined;
    end.addEventListener('abort', finish, { once: true });
    function finish(): void {
      clearTimeout(timer);
      end.removeEventListener('abort', finish);
      resolve();
    }
  });
}
