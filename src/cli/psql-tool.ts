/**
 * `npm run psql`: opens the database of the server in psql. Main thread of a process of its own.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { childEnvironment } from '../config/child-environment.js';
import { readConfig } from '../config/read-config.js';
import { psqlAddress } from '../config/database-url.js';
import { discardUnreadOutput } from '../core/closed-output.js';
import { StartError, systemErrorCode } from '../core/errors.js';
import { runningEmbeddedUrl } from '../db/embedded/running-embedded.js';
import { quoted } from '../shard-worker/journal/journal-command.js';
import {
  EXIT_MISSING_PROGRAM,
  EXIT_TEMPORARY,
  EXIT_USAGE,
  exitCodeOf,
  warnOfMisspelledSettings,
} from './command-exit.js';

const help = `npm run psql [-- OPTIONS OF PSQL]

Opens the database of the server in psql: that of DATABASE_URL (or
DATABASE_URL_FILE) or, without that, the embedded one of a server that runs with
this DATA_DIR. Options are handed on to psql:

  npm run psql -- -c 'select key, sum from counters order by sum desc limit 10'

Where psql is not installed, the command prints how to connect from elsewhere.
The sums of counters are for reading. What you write there is yours to answer
for; the server adds to it.

Exit codes: that of psql (0 success, 1 and 3 errors, 2 no connection); 64 wrong
command line; 69 psql is not installed; 75 no server runs with this DATA_DIR; 78
the configuration is wrong
`;

async function run(argv: readonly string[]): Promise<number> {
  const [option] = argv;
  if (argv.length === 1 && (option === '--help' || option === '-h')) {
    process.stdout.write(help);
    return 0;
  }
  if (argv.includes('--help')) {
    throw new StartError(['--help stands alone; nothing was opened.'], { exitCode: EXIT_USAGE });
  }
  warnOfMisspelledSettings(process.env);
  const { databaseUrl, dataDir } = readConfig(process.env);
  const url = databaseUrl ?? (await runningEmbeddedUrl(dataDir));
  if (url === undefined) {
    const problem = `No server runs an embedded PostgreSQL in ${dataDir}. Start it, or set DATA_DIR or DATABASE_URL.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY });
  }
  const { address, password } = psqlAddress(url);
  try {
    return await psql(['-d', address, ...argv], password);
  } catch (error) {
    // EACCES if a directory of PATH may not be searched, as after runuser.
    if (!['ENOENT', 'EACCES'].includes(systemErrorCode(error) ?? '')) throw error;
    const hidden = databaseUrl === undefined ? `PGPASSWORD=$(cat ${quoted(join(dataDir, 'postgres-password'))}) ` : '';
    const problem = `psql is not installed (Debian: apt-get install postgresql-client). Install it, then connect with: ${hidden}psql`;
    throw new StartError([`${problem} ${quoted(address)}`], { exitCode: EXIT_MISSING_PROGRAM });
  }
}

/** Runs psql in this terminal. Resolves to its exit code. */
async function psql(args: readonly string[], password: string): Promise<number> {
  const env = { ...childEnvironment(process.env), ...(password === '' ? {} : { PGPASSWORD: password }) };
  const child = spawn('psql', args, { stdio: 'inherit', env });
  // Ctrl-C must end a statement of psql, which also gets the signal, and not this process.
  process.on('SIGINT', () => undefined);
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  // Typed by node:child_process: the event has the exit code and the signal.
  const [code] = (await once(child, 'close')) as [number | null];
  return code ?? 1;
}

discardUnreadOutput();
try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  process.exitCode = exitCodeOf(error, 'summing-counters: ');
}
