/**
 * One server for all tests of a `describe`, with a database of its own. The stop at the end asserts that everything
 * acknowledged was committed and that the increments add up.
 */
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { connectTo, createTestDatabase, type TestDatabase } from './database.js';
import { eventually } from './eventually.js';
import { send } from './http.js';
import { startServer, type TestServer } from './server.js';

/** The server of a suite; its members are available within tests. */
export class SuiteServer {
  #server: TestServer | undefined;
  #database: TestDatabase | undefined;

  /** Call within `describe`: starts the server before its tests and stops it after them. */
  constructor(env: Readonly<Record<string, string>> = {}) {
    before(async () => {
      this.#database = await createTestDatabase();
      this.#server = await startServer({ env: { DATABASE_URL: this.#database.url, SHARDS: '2', ...env } });
      await serves(this.#server);
    });
    after(async () => {
      try {
        if (this.#server !== undefined) await assertCleanStop(this.#server);
      } finally {
        await this.#server?.dispose();
        await this.#database?.drop();
      }
    });
  }

  /** `http://127.0.0.1:PORT`. */
  get url(): string {
    return this.server.url;
  }

  get server(): TestServer {
    if (this.#server === undefined) throw new Error('the server has not been started');
    return this.#server;
  }

  /** The database's URL, for another server or a connection. */
  get databaseUrl(): string {
    if (this.#database === undefined) throw new Error('the database has not been made');
    return this.#database.url;
  }

  /** Runs one statement on the database. */
  async execute(text: string): Promise<void> {
    const connection = await connectTo(this.databaseUrl);
    try {
      await connection.query({ text });
    } finally {
      await connection.close();
    }
  }

  /** The committed table. */
  table(): Promise<ReadonlyMap<string, bigint>> {
    return committedSums(this.databaseUrl);
  }
}

/** The committed sums by key. */
export async function committedSums(databaseUrl: string): Promise<ReadonlyMap<string, bigint>> {
  const connection = await connectTo(databaseUrl);
  try {
    const rows = await connection.query<{ key: string; sum: string }>({ text: 'select key, sum::text from counters' });
    return new Map(rows.map(({ key, sum }) => [key, BigInt(sum)]));
  } finally {
    await connection.close();
  }
}

/** Stops with SIGTERM and asserts exit code 0, nothing pending or in flight, and no bug in the log. */
export async function assertCleanStop(server: TestServer): Promise<void> {
  const end = await server.stop();
  assert.deepEqual(end, { code: 0, signal: null }, server.output);
  assert.match(server.output, /Everything that was acknowledged is committed/);
  assert.doesNotMatch(server.output, /Not waiting for/);
  const errors = server.log.filter(({ level }) => level === 'error' || level === 'fatal');
  assert.deepEqual(errors, []);
}

/** Waits until `server` answers reads: one that is ready may still recover the journals of earlier runs. */
export async function serves(server: TestServer): Promise<void> {
  await eventually('the server serves', async () => (await send(server.url, '/readyz')).body === '{"status":"ok"}');
}
