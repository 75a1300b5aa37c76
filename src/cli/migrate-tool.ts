/**
 * `npm run migrate`: only migrates the database of DATABASE_URL to the schema of this version, for deployments whose
 * server may not alter tables. Main thread of a process of its own.
 *
 * Exit codes: 0 success; 75 the database cannot be reached, or others have used its tables for ten minutes; 78 an
 * operator must change something.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { readConfig } from '../config/config.js';
import { discardUnreadOutput } from '../core/closed-output.js';
import { StartError } from '../core/errors.js';
import { describeTarget, parseDatabaseUrl } from '../db/connection.js';
import type { DatabaseLogger } from '../db/embedded/embedded-postgres.js';
import { openDatabase } from '../db/schema/open-database.js';
import { EXIT_TEMPORARY, exitCodeOf } from './command-exit.js';

/** How long the command waits for a table that others use before it gives up. */
const BUSY_TIMEOUT_MS = 600_000;
const BUSY_RETRY_MS = 2_000;

const logger: DatabaseLogger = {
  info: (_, message) => process.stdout.write(`${message}\n`),
  warn: (_, message) => process.stderr.write(`warning: ${message}\n`),
  error: (_, message) => process.stderr.write(`error: ${message}\n`),
};

async function run(): Promise<number> {
  const { databaseUrl } = readConfig(process.env);
  if (databaseUrl === undefined) {
    throw new StartError(['DATABASE_URL is not set. The server migrates the embedded PostgreSQL when it starts.']);
  }
  const target = parseDatabaseUrl(databaseUrl);
  const until = performance.now() + BUSY_TIMEOUT_MS;
  let opened = await openDatabase(target, logger);
  while (opened.kind === 'busy' && performance.now() < until) {
    logger.warn({}, opened.reason);
    await pause(BUSY_RETRY_MS);
    opened = await openDatabase(target, logger);
  }
  if (opened.kind !== 'open') {
    const what = opened.kind === 'unavailable' ? 'cannot be reached' : 'is in use';
    process.stderr.write(`The database ${describeTarget(target)} ${what}: ${opened.reason}.\n`);
    return EXIT_TEMPORARY;
  }
  process.stdout.write(`${describeTarget(target)} has the schema of this version; its id is ${opened.databaseId}.\n`);
  return 0;
}

discardUnreadOutput();
try {
  process.exitCode = await run();
} catch (error) {
  process.exitCode = exitCodeOf(error, 'summing-counters: ');
}
