/**
 * Connections to PostgreSQL for tests, also outside the test runner.
 */
import { randomBytes } from 'node:crypto';
import { connect, parseDatabaseUrl, type DatabaseConnection } from '#product/db/connection.js';
import { errorCode } from '#product/db/database-errors.js';
import type { DatabaseLogger } from '#product/db/embedded/embedded-postgres.js';
import { eventually } from './eventually.js';

/** A silent logger, for tests of anything but the log. */
export const silentLogger: DatabaseLogger = { info: () => undefined, warn: () => undefined, error: () => undefined };

/** Makes an empty database; returns its URL. `options` is appended to CREATE DATABASE. */
export async function createDatabaseOn(serverUrl: string, options = ''): Promise<string> {
  const name = `test_${randomBytes(8).toString('hex')}`;
  await runStatements(serverUrl, `create database ${name} ${options}`);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return url.href;
}

const CANNOT_CONNECT_NOW = '57P03';

/** A connection as the product makes it. Waits for a PostgreSQL that starts, or that recovers from a crash. */
export function connectTo(url: string, applicationName = 'test'): Promise<DatabaseConnection> {
  return eventually('PostgreSQL takes connections', async () => {
    try {
      return await connect(parseDatabaseUrl(url), { applicationName });
    } catch (error) {
      if (errorCode(error) !== CANNOT_CONNECT_NOW) throw error;
      return undefined;
    }
  });
}

/** Runs statements, separated by semicolons, over a connection of their own. */
export async function runStatements(url: string, text: string): Promise<void> {
  const connection = await connectTo(url, 'test-administrator');
  try {
    await connection.query({ text });
  } finally {
    await connection.close();
  }
}
