/**
 * A PostgreSQL for the tests of one process, and a fresh database in it for each test.
 *
 * TEST_DATABASE_URL names its server: `test/run.ts` starts one for all files of a part, an operator may give another, to run
 * the same tests on another version; the role must be allowed to create databases. Without it, an embedded PostgreSQL in a
 * temporary directory is started at the first call and stopped after the last test; if the process is killed, the kernel
 * stops it.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after } from 'node:test';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#product/db/embedded/embedded-postgres.js';
import { runStatements, createDatabaseOn, silentLogger } from './database-connection.js';

export { connectTo, silentLogger } from './database-connection.js';

/** A database that one test owns. */
export interface TestDatabase {
  readonly url: string;
  drop(): Promise<void>;
}

interface Server {
  readonly url: string;
  readonly embedded?: { readonly postgres: EmbeddedPostgres; readonly dataDir: string };
}

let server: Promise<Server> | undefined;

let stopped = false;

// Registered while the module is loaded: within a test it would run at that test's end. Hooks run in the order of their
// registration, so this one runs before a test file's own, except for those inside a `describe`.
after(async () => {
  const embedded = (await server)?.embedded;
  if (embedded === undefined) return;
  stopped = true;
  await embedded.postgres.stop();
  await rm(embedded.dataDir, { recursive: true, force: true });
});

async function startServer(): Promise<Server> {
  const given = process.env['TEST_DATABASE_URL'];
  if (given !== undefined && given !== '') return { url: given };
  const dataDir = await mkdtemp(path.join(os.tmpdir(), 'summing-counters-test-'));
  const postgres = await startEmbeddedPostgres({ dataDir, logger: silentLogger, maxConnections: 50 });
  return { url: postgres.url, embedded: { postgres, dataDir } };
}

/** The server's own database, for tests that look at the server as a whole. */
export async function testServerUrl(): Promise<string> {
  server ??= startServer();
  return (await server).url;
}

/** Makes an empty database. `options` is appended to CREATE DATABASE. */
export async function createTestDatabase(options = ''): Promise<TestDatabase> {
  const serverUrl = await testServerUrl();
  const url = await createDatabaseOn(serverUrl, options);
  const name = new URL(url).pathname.slice(1);
  return {
    url,
    async drop() {
      // It ended with its server.
      if (!stopped) await runStatements(serverUrl, `drop database if exists ${name} with (force)`);
    },
  };
}
