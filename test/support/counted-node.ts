/**
 * A node that a test starts, breaks and starts again on one data directory, port and database. At the end the test
 * decides whether its counts and reads explain what its load was told.
 */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { readCountedSums } from './counted-sums.js';
import { freePort } from './free-port.js';
import { send, type Answer } from './http.js';
import { checkHistory } from './history/check-history.js';
import { History } from './history/history.js';
import { Load, sendTracked } from './load.js';
import { seededRandom, type Random } from './random.js';
import { spawnServer, temporaryDirectory, type TestServer } from './server.js';

const FLUSH_TIMEOUT_MS = 120_000;
const STARTS_MAX = 5;

/** Options of a node. */
export interface CountedNodeOptions {
  /** The database in which the counts are read. */
  readonly databaseUrl: string;
  /** The server's address of the same database; default: the same. */
  readonly serverDatabaseUrl?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly dataDir?: string;
  readonly random?: Random;
  readonly history?: History;
  /** The server's program; default: the built product. */
  readonly main?: string;
}

/** See the file's head. */
export class CountedNode {
  readonly url: string;
  readonly dataDir: string;
  readonly history: History;
  readonly random: Random;
  readonly #options: CountedNodeOptions;
  readonly #port: number;
  readonly #servers: TestServer[] = [];
  readonly #loads: Load[] = [];

  private constructor(options: CountedNodeOptions, label: string, port: number, dataDir: string) {
    this.#options = options;
    this.#port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.dataDir = dataDir;
    this.random = options.random ?? seededRandom(label);
    this.history = options.history ?? new History(this.random);
  }

  /** Starts nothing yet; `label` is printed with the seed. */
  static async make(label: string, options: CountedNodeOptions): Promise<CountedNode> {
    return new CountedNode(options, label, await freePort(), options.dataDir ?? (await temporaryDirectory()));
  }

  /** The database in which the counts are read. */
  get databaseUrl(): string {
    return this.#options.databaseUrl;
  }

  /** Starts the server and does not wait. */
  async spawn(env: Readonly<Record<string, string>> = {}): Promise<TestServer> {
    const { databaseUrl, serverDatabaseUrl = databaseUrl, main } = this.#options;
    const server = await spawnServer({
      dataDir: this.dataDir,
      ...(main === undefined ? {} : { main }),
      env: { PORT: String(this.#port), SHARDS: '2', DATABASE_URL: serverDatabaseUrl, ...this.#options.env, ...env },
    });
    this.#servers.push(server);
    return server;
  }

  /** Starts the server and waits until it accepts increments. */
  async start(env: Readonly<Record<string, string>> = {}): Promise<TestServer> {
    const server = await this.spawn(env);
    await server.waitFor('"msg":"Ready"', 60_000);
    return server;
  }

  /**
   * Starts the server, which must refuse to start before somebody changes something, and asserts exit code 78. On a busy machine the
   * database may not answer in time: such a start goes on without it and decides nothing, so it is repeated a few times.
   */
  async refusedStart(env: Readonly<Record<string, string>> = {}): Promise<TestServer> {
    for (let attempt = 1; ; attempt += 1) {
      const server = await this.spawn(env);
      const isRefused = await server.waitFor('"msg":"Ready"', 120_000).then(
        () => false,
        () => true,
      );
      if (isRefused || attempt === STARTS_MAX) {
        if (!isRefused) server.kill('SIGKILL');
        assert.deepEqual(await server.ended, { code: 78, signal: null }, server.output);
        return server;
      }
      // The database may answer meanwhile, and then the server ends by itself.
      const answer = await send(this.url, '/readyz').catch(() => undefined);
      server.kill('SIGKILL');
      await server.ended;
      if (answer !== undefined) assert.match(answer.body, /"degraded"/, server.output);
    }
  }

  /**
   * Starts a load, which continues over restarts. Each load of a test needs a name of its own. One request in
   * `readEvery` is a read.
   */
  load(connections = 16, name = `w${this.#loads.length}-`, readEvery = 40): Load {
    const load = new Load({ urls: [this.url], connections, history: this.history, readEvery, name });
    this.#loads.push(load);
    return load;
  }

  /** Sends an increment that changes no sum. Undefined: no answer came. */
  addZero(key = 'mixed/0'): Promise<Answer | undefined> {
    return sendTracked(this.url, this.history.request([[key, 0]]));
  }

  /** Settles when everything acknowledged is committed. */
  async flush(): Promise<void> {
    const timeout = AbortSignal.timeout(FLUSH_TIMEOUT_MS);
    for (;;) {
      const answer = await send(this.url, '/flush', { method: 'POST' });
      if (answer.status === 200) return;
      assert.ok(!timeout.aborted, `no flush within ${FLUSH_TIMEOUT_MS} ms: ${answer.body}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /**
   * Fails unless the contract explains the history and the committed sums, and PostgreSQL refused nothing. With
   * `mayPutAside`, idempotent requests may be in `rejected_increments` instead, each once.
   */
  async compare({ mayPutAside = false } = {}): Promise<void> {
    const { sums, putAside, rejected, deadlocks } = await readCountedSums(this.#options.databaseUrl);
    const isShared = /^(?:postgres|nats|sqs)/.test(this.#options.env?.['JOURNAL'] ?? '');
    const counted = new Map(sums);
    for (const [key, sum] of putAside) counted.set(key, (counted.get(key) ?? 0n) + sum);
    assert.deepEqual(checkHistory(this.history.operations, counted, { isShared }), []);
    if (!mayPutAside) assert.deepEqual([...putAside], []);
    assert.deepEqual({ rejected, deadlocks }, { rejected: 0, deadlocks: 0 });
  }

  /** Flushes, stops the server in order and compares: the end of a test with a running server. */
  async finish(server: TestServer, { mayPutAside = false } = {}): Promise<void> {
    for (const load of this.#loads) await load.stop();
    await this.flush();
    const { code } = await server.stop();
    assert.ok(code === 0 || (mayPutAside && code === 1), server.output);
    const how = code === 0 ? /Everything that was acknowledged is committed/ : /are kept in rejected_increments/;
    assert.match(server.output, how);
    await this.compare({ mayPutAside });
  }

  /** Ends everything in any state, and deletes the data directory. */
  async dispose(): Promise<void> {
    const stopped = this.#loads.map((load) => load.stop());
    for (const server of this.#servers) {
      if (server.isRunning) server.kill('SIGKILL');
      await server.ended;
    }
    await Promise.all(stopped);
    await rm(this.dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}
