/**
 * Databases of the benchmark's own: one embedded PostgreSQL, the one that the product starts, with its settings, and as
 * many databases in it, with the product's schema, as there are things to compare.
 */
import { connect, parseDatabaseUrl, type DatabaseConnection, type DatabaseTarget } from '#product/db/connection.js';
import {
  startEmbeddedPostgres,
  type DatabaseLogger,
  type EmbeddedPostgres,
} from '#product/db/embedded/embedded-postgres.js';
import { migrate } from '#product/db/schema/migrate.js';
import { ownedDirectory, removeOwned } from './owned-process.js';

const silent: DatabaseLogger = { info: () => undefined, warn: () => undefined, error: () => undefined };
const CONNECTIONS = 40;
/** Ours for a statement; nothing here takes longer. */
const QUERY_TIMEOUT_MS = 120_000;

/** A running server. */
export class BenchPostgres {
  readonly #postgres: EmbeddedPostgres;
  readonly #directory: string;

  constructor(postgres: EmbeddedPostgres, directory: string) {
    this.#postgres = postgres;
    this.#directory = directory;
  }

  get pid(): number {
    return this.#postgres.pid;
  }

  /** The server's version, "18.4". */
  get version(): string {
    return this.#postgres.version;
  }

  /** Makes a database with the product's schema. `name` is a plain identifier. */
  async database(name: string): Promise<BenchDatabase> {
    const url = new URL(this.#postgres.url);
    const server = await open(parseDatabaseUrl(url.href));
    await server.query({ text: `create database ${name} encoding 'UTF8' template template0` });
    await server.close();
    url.pathname = `/${name}`;
    const target = parseDatabaseUrl(url.href);
    const connection = await open(target);
    await migrate(connection);
    return { target, connection };
  }

  async stop(): Promise<void> {
    await this.#postgres.stop();
    await removeOwned(this.#directory);
  }
}

/** A database and a connection to look at it with. */
export interface BenchDatabase {
  readonly target: DatabaseTarget;
  readonly connection: DatabaseConnection;
}

/** Starts a server in a directory of its own. */
export async function startBenchPostgres(): Promise<BenchPostgres> {
  const directory = await ownedDirectory();
  const options = { dataDir: directory, logger: silent, maxConnections: CONNECTIONS };
  return new BenchPostgres(await startEmbeddedPostgres(options), directory);
}

/** A connection with the product's session settings. */
export function open(target: DatabaseTarget): Promise<DatabaseConnection> {
  return connect(target, { applicationName: 'benchmark', queryTimeoutMs: QUERY_TIMEOUT_MS });
}
