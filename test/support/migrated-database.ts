/** Databases with the current schema, for tests of what uses it. */
import { after, before, type TestContext } from 'node:test';
import type { DatabaseConnection } from '#product/db/connection.js';
import { migrate } from '#product/db/schema/migrate.js';
import { connectTo, createTestDatabase, type TestDatabase } from './database.js';
import { eventually } from './eventually.js';

/** A fresh database with the current schema. */
export async function createMigratedDatabase(): Promise<TestDatabase> {
  const database = await createTestDatabase();
  const connection = await connectTo(database.url, 'test-migrate');
  try {
    await migrate(connection);
  } finally {
    await connection.close();
  }
  return database;
}

/** A database with the current schema that the tests of one `describe` share. */
export class SuiteDatabase {
  #opened: { readonly database: TestDatabase; readonly observer: DatabaseConnection } | undefined;
  readonly #resources: { close(): Promise<void> }[] = [];

  /** To be called within a `describe`: it is made before the first of its tests, and dropped after the last. */
  constructor() {
    before(async () => {
      const database = await createMigratedDatabase();
      this.#opened = { database, observer: await connectTo(database.url, 'observer') };
    });
    after(async () => {
      for (const resource of this.#resources.reverse()) await resource.close();
      await this.#opened?.observer.close();
      await this.#opened?.database.drop();
    });
  }

  get url(): string {
    return this.#made.database.url;
  }

  get #made(): { readonly database: TestDatabase; readonly observer: DatabaseConnection } {
    if (this.#opened === undefined) throw new Error('the database is made before the first test');
    return this.#opened;
  }

  /** Runs one statement in a session that stays open. */
  query<Row extends Record<string, unknown>>(text: string, ...values: readonly unknown[]): Promise<readonly Row[]> {
    return this.#made.observer.query<Row>(values.length === 0 ? { text } : { text, values });
  }

  /** Has `resource` closed before the database is dropped. */
  closing<Resource extends { close(): Promise<void> }>(resource: Resource): Resource {
    this.#resources.push(resource);
    return resource;
  }

  /** A session of its own, which is closed after the test of `context`. */
  async connect(context: TestContext, applicationName: string): Promise<DatabaseConnection> {
    const connection = await connectTo(this.url, applicationName);
    context.after(() => connection.close());
    return connection;
  }

  /** Waits until a session of this name waits for a lock. Returns its process id. */
  waitsForLock(applicationName: string): Promise<number> {
    return eventually(`${applicationName} waits for a lock`, async () => {
      const [row] = await this.query<{ pid: number }>(
        `select pid from pg_stat_activity
         where application_name = $1 and wait_event_type = 'Lock' and datname = current_database()`,
        applicationName,
      );
      return row?.pid;
    });
  }
}
