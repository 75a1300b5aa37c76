/**
 * `npm run migrate`: only migrates the database of DATABASE_URL to the schema of this version, for deployments whose
 * server may not alter tables. Main thread of a process of its own.
 *
 * Exit codes: see {@link help}.
 */
import { readConfig } from '../config/read-config.js';
import { pause } from '../core/clock.js';
import { discardUnreadOutput } from '../core/closed-output.js';
import { StartError } from '../core/errors.js';
import { describeTarget, parseDatabaseUrl } from '../db/connection.js';
import type { DatabaseLogger } from '../db/embedded/embedded-postgres.js';
import { openDatabase } from '../db/schema/open-database.js';
import { EXIT_TEMPORARY, EXIT_USAGE, exitCodeOf, warnOfMisspelledSettings } from './command-exit.js';

/** How long the command waits for a table in use. */
const BUSY_TIMEOUT_MS = 600_000;
const BUSY_RETRY_MS = 2_000;

const help = `npm run migrate [-- --help]

Brings the database of DATABASE_URL (or DATABASE_URL_FILE) to the schema of this
version, and adopts a table \`counters\` of the original application. The server
does the same at its start; this command is for a role that may create and alter
tables, where the server's role may not. It waits up to ten minutes for a table
that others use.

Exit codes: 0 success; 64 wrong command line; 75 the database cannot be reached,
or others have used its tables for ten minutes; 78 an operator must change
something first
`;

const logger: DatabaseLogger = {
  info: (_, message) => process.stdout.write(`${message}\n`),
  warn: (_, message) => process.stderr.write(`warning: ${message}\n`),
  error: (_, message) => process.stderr.write(`error: ${message}\n`),
};

async function run(argv: readonly string[]): Promise<number> {
  const [argument, extra] = argv;
  if ((argument === '--help' || argument === '-h') && extra === undefined) {
    process.stdout.write(help);
    return 0;
  }
  if (argument !== undefined) {
    const problem = `migrate takes no arguments but --help, not "${extra ?? argument}". Nothing was changed.`;
    throw new StartError([problem], { exitCode: EXIT_USAGE });
  }
  warnOfMisspelledSettings(process.env);
  const config = readConfig(process.env);
  const { databaseUrl } = config;
  if (databaseUrl === undefined) {
    throw new StartError([
      'Neither DATABASE_URL nor DATABASE_URL_FILE is set. The server migrates the embedded PostgreSQL when it starts.',
    ]);
  }
  const target = parseDatabaseUrl(databaseUrl);
  const until = performance.now() + BUSY_TIMEOUT_MS;
  let opened = await openDatabase(target, logger, config);
  while (opened.kind === 'busy' && performance.now() < until) {
    logger.warn({}, opened.reason);
    await pause(BUSY_RETRY_MS);
    opened = await openDatabase(target, logger, config);
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
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  process.exitCode = exitCodeOf(error, 'summing-counters: ');
}
