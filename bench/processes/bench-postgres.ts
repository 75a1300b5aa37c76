/**
 * An embedded PostgreSQL for the benchmark alone, with the settings of the product, and databases in it with the schema
 * of the product: one for each thing to compare.
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
/** No statement of the benchmark takes longer. */
const QUERY_TIMEOUT_MS = 120_000;

/** A running PostgreSQL. */
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

  /** Its version, "18.4". */
  get version(): string {
    return this.#postgres.version;
  }

  /** Creates a database with the schema of the product. `name` is a plain identifier. */
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

/** A database and a connection to inspect it. */
export interface BenchDatabase {
  readonly target: DatabaseTarget;
  readonly connection: DatabaseConnection;
}

/** Starts a PostgreSQL in a directory of its own. */
export async function startBenchPostgres(): Promise<BenchPostgres> {
  const directory = await ownedDirectory();
  const options = { dataDir: directory, logger: silent, maxConnections: CONNECTIONS };
  return new BenchPostgres(await startEmbeddedPostgres(options), directory);
}

/** A connection with the session settings of the product. */
export function open(target: DatabaseTarget): Promise<DatabaseConnection> {
  return connect(target, { applicationName: 'benchmark', queryTimeoutMs: QUERY_TIMEOUT_MS });
}
