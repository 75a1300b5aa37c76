/**
 * `npm run journal -- COMMAND`: inspects and repairs a file journal that no server uses, retires streams of lost journals, and
 * counts rows that PostgreSQL refused. Main thread of a process of its own.
 */
import { readConfig } from '../config/read-config.js';
import { discardUnreadOutput } from '../core/closed-output.js';
import { acquireDataDirectory } from '../server/data-directory.js';
import { exitCodeOf, warnOfMisspelledSettings } from './command-exit.js';
import { database, forget, pair, recount, rejected, retire, skip, stores } from './database-commands.js';
import {
  directoryArguments,
  help,
  parseCommandLine,
  usageError,
  type DirectoryArguments,
  type JournalOptions,
} from './journal-command-line.js';
import { dump, verify } from './journal-inspection.js';
import { accept, rebind, repair } from './journal-repair.js';

type Option = Exclude<keyof JournalOptions, 'help' | 'data-dir'>;

interface Command {
  readonly takes: readonly Option[];
  /** Returns the exit code. */
  readonly run: (options: JournalOptions) => Promise<number>;
}

/** The sentences for refused options. */
const refusals: Readonly<Partial<Record<string, string>>> = {
  retry: '--retry is for rejected.',
  idempotent: '--idempotent is for rejected --retry.',
  prefix: '--prefix is for recount, and for rejected --retry --idempotent.',
  database: '--database is for rebind only.',
  moved: '--moved is for database only.',
  copy: '--copy is for database only.',
  store: '--store is for forget-store only.',
  yes: '--yes is for skip, forget-store and pair-store.',
};

const commands: Readonly<Record<string, Command>> = {
  verify: { takes: ['stream', 'above'], run: inDirectory(verify) },
  dump: { takes: ['stream', 'above'], run: inDirectory(dump) },
  repair: { takes: ['stream', 'above'], run: inDirectory(repair) },
  accept: { takes: ['stream', 'above'], run: inDirectory(accept) },
  rebind: { takes: ['stream', 'above', 'database'], run: inDirectory(rebind) },
  retire: { takes: ['stream'], run: retire },
  rejected: { takes: ['retry', 'idempotent', 'prefix'], run: rejected },
  recount: { takes: ['prefix'], run: recount },
  database: { takes: ['moved', 'copy'], run: database },
  skip: { takes: ['stream', 'above', 'yes'], run: skip },
  stores: { takes: [], run: stores },
  'forget-store': { takes: ['store', 'yes'], run: forget },
  'pair-store': { takes: ['yes'], run: pair },
};

/** A command that locks the data directory. Its result: true if it found no problem, or solved it. */
function inDirectory(command: (args: DirectoryArguments) => boolean | Promise<boolean>): Command['run'] {
  return async (options) => {
    const dataDir = options['data-dir'] ?? readConfig(process.env).dataDir;
    const held = acquireDataDirectory(dataDir);
    try {
      return (await command(directoryArguments(dataDir, held.nodeId, options))) ? 0 : 1;
    } finally {
      held.release();
    }
  };
}

/**
 * Runs the command line. Returns the exit code: 0 success, 1 the command found a problem or did not solve it, 64 wrong command
 * line, 75 the database cannot be reached, 78 data directory in use.
 */
async function run(argv: readonly string[]): Promise<number> {
  try {
    const { positionals, values } = parseCommandLine(argv);
    if (values.help === true) {
      process.stdout.write(help);
      return 0;
    }
    warnOfMisspelledSettings(process.env);
    const name = positionals.join(' ');
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (command === undefined) throw usageError(`There is no command "${name}".`);
    for (const [option, value] of Object.entries(values)) {
      if (value === false || option === 'data-dir' || command.takes.some((taken) => taken === option)) continue;
      throw usageError(refusals[option] ?? `${name} does not take --${option}.`);
    }
    const { stream = [], above = [] } = values;
    if (name !== 'accept' && Math.max(stream.length, above.length) > 1)
      throw usageError(`${name} takes one --stream and one --above.`);
    return await command.run(values);
  } catch (error) {
    return exitCodeOf(error);
  }
}

discardUnreadOutput();
process.exitCode = await run(process.argv.slice(2));
