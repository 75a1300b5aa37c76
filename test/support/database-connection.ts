/**
 * Connections to PostgreSQL for tests, also outside the test runner.
 */
import { randomBytes } from 'node:crypto';
import { connect, parseDatabaseUrl, type DatabaseConnection } from '#product/db/connection.js';
import type { DatabaseLogger } from '#product/db/embedded/embedded-postgres.js';

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

/** A connection as the product makes it. */
export function connectTo(url: string, applicationName = 'test'): Promise<DatabaseConnection> {
  return connect(parseDatabaseUrl(url), { applicationName });
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
