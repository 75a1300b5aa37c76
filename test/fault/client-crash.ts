/**
 * The promise of the client from end to end: clients pass increments in while the server is killed and started again.
 * At the end the sums are exactly what was passed in. Nothing here knows which answers were lost.
 */
import assert from 'node:assert/strict';
import { CounterClient } from 'summing-counters/client';
import { connectTo, createTestDatabase } from '../support/database.js';
import { freePort } from '../support/free-port.js';
import { flushAll } from '../support/http.js';
import { Mulberry32 } from '../support/mulberry32.js';
import { seedOfRun } from '../support/random-runs.js';
import { startServer, temporaryDirectory, type TestServer } from '../support/server.js';

/** Size of the run. */
export interface ClientCrashOptions {
  /** Concurrent clients, each with one batch in flight. */
  readonly clients: number;
  /** Keys that all clients share. */
  readonly keys: number;
  /** How often the server is killed with SIGKILL. */
  readonly kills: number;
  /** Maximum number of requests between a start of the server and its end. */
  readonly requestsPerLifeMax: number;
  /** Added to the server's environment. `JOURNAL` must outlive the process. */
  readonly env?: Readonly<Record<string, string>>;
  /** By default the test run's own. */
  readonly seed?: number;
}

/** Counts requests as they are sent, and reports when there were enough. */
class RequestCounter {
  #sent = 0;
  #due: { readonly at: number; readonly resolve: () => void } | undefined;

  readonly fetch: typeof globalThis.fetch = (input, init) => {
    const answer = globalThis.fetch(input, init);
    this.#sent += 1;
    if (this.#due !== undefined && this.#sent >= this.#due.at) this.#due.resolve();
    return answer;
  };

  /** Resolves in the turn that sends the `count`th request from now, before its answer. */
  after(count: number): Promise<void> {
    return new Promise((resolve) => {
      this.#due = { at: this.#sent + count, resolve };
    });
  }
}

/** One client and the increments passed to it. */
class Load {
  readonly client: CounterClient;
  readonly passedIn = new Map<string, bigint>();
  #isOver = false;
  readonly done: Promise<void>;

  constructor(url: string, fetch: typeof globalThis.fetch, random: Mulberry32, keys: number) {
    this.client = new CounterClient({
      url,
      fetch,
      intervalMs: 1,
      batchKeysMax: 1 + random.below(50),
      requestTimeoutMs: 2_000,
      retryBaseMs: 10,
      retryDelayMsMax: 500,
      retryForMsMax: 5 * 60_000,
    });
    this.done = this.#run(random, keys);
  }

  /** Ends the increments; resolves when all are acknowledged. */
  async end(): Promise<void> {
    this.#isOver = true;
    await this.done;
    await this.client.close({ signal: AbortSignal.timeout(120_000) });
  }

  async #run(random: Mulberry32, keys: number): Promise<void> {
    while (!this.#isOver) {
      const increments = Array.from({ length: 1 + random.below(30) }, () => {
        const isLarge = random.below(2000) === 0;
        const amount = isLarge ? Number.MAX_SAFE_INTEGER - random.below(1000) : random.below(2000) - 500;
        return [`key ${random.below(keys)}`, amount] as const;
      });
      this.client.incrementMany(increments);
      for (const [key, amount] of increments) this.passedIn.set(key, (this.passedIn.get(key) ?? 0n) + BigInt(amount));
      // Explicit flushes must end by themselves across restarts; all others start by interval and size.
      if (random.below(3) === 0) await this.client.flush();
      else await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

/** Runs it against a PostgreSQL database of its own. Rejects if a sum is not exact. */
export async function clientCrashTest(options: ClientCrashOptions): Promise<void> {
  const seed = options.seed ?? seedOfRun();
  console.log(`# client crash: SEED=${seed}`);
  const random = new Mulberry32(seed);
  const database = await createTestDatabase();
  const dataDir = await temporaryDirectory();
  const env = { DATABASE_URL: database.url, JOURNAL: 'file', PORT: String(await freePort()), ...options.env };
  let server: TestServer | undefined = await startServer({ dataDir, env });
  const { url } = server;
  const counter = new RequestCounter();
  const loads = Array.from(
    { length: options.clients },
    () => new Load(url, counter.fetch, new Mulberry32(random.next()), options.keys),
  );
  try {
    for (let kill = 0; kill < options.kills; kill += 1) {
      await Promise.race([
        counter.after(1 + random.below(options.requestsPerLifeMax)),
        ...loads.map(({ done }) => done), // A load only ends early by failing; then there is nothing to wait for.
      ]);
      server.kill('SIGKILL');
      await server.ended;
      server = await startServer({ dataDir, env });
    }
    await Promise.all(loads.map((load) => load.end()));
    await assertExact(url, database.url, loads);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  } finally {
    await Promise.allSettled(loads.map(({ client }) => client.close({ signal: AbortSignal.abort() })));
    await server?.dispose();
    await database.drop();
  }
}

/**
 * The sums in the table and in reads. Flushes first: until the flush, a read may count a retry as pending although its
 * original was committed before a kill.
 */
async function assertExact(url: string, databaseUrl: string, loads: readonly Load[]): Promise<void> {
  const expected = new Map<string, bigint>();
  for (const { passedIn } of loads) {
    for (const [key, amount] of passedIn) expected.set(key, (expected.get(key) ?? 0n) + amount);
  }
  assert.ok(expected.size > 0);
  await flushAll(url);
  const connection = await connectTo(databaseUrl);
  const rows = await connection.query<{ key: string; sum: string }>({ text: 'select key, sum::text from counters' });
  await connection.close();
  assert.deepEqual(new Map(rows.map(({ key, sum }) => [key, BigInt(sum)])), expected);
  const reader = new CounterClient({ url });
  for (const [key, sum] of expected) assert.equal(await reader.get(key), sum, `${key} as the server reads it`);
}
