/** The command line of `npm run journal`. Main thread of a process of its own. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Lsn } from '../core/checkpoint.js';
import { reasonOf, StartError } from '../core/errors.js';
import { isUuid } from '../core/uuid.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { quoted } from '../shard-worker/journal/journal-command.js';
import { EXIT_USAGE } from './command-exit.js';

/** What `--help` prints. */
export const help = `npm run journal -- COMMAND [--data-dir DIR] [--stream ID] [--above LSN]
                           [--retry [--idempotent]] [--prefix P]
                           [--moved | --copy] [--store ID] [--yes]

  verify    reads every segment and reports its records and damage; with
            --above, also the missing records above that LSN
  dump      prints the records above --above (default 0), one line of JSON each
  repair    copies each damaged segment, cuts it at the last whole record, and
            keeps whole records behind the damage
  accept    accepts that the missing records above --above are lost, so that the
            server starts without them; where the database has lost the row of
            the stream, says that the records up to --above are counted (0:
            none), and the next start counts those above; takes several
            streams, each --stream with its --above
  rebind    gives this copy of a data directory its own node id; with --stream
            and --above, moves the records of that stream above --above to a
            new stream, and leaves the old one with those up to there
  rebind --database
            for a data directory whose streams belong to another database: says
            what they hold; with --stream and --above, moves the records of
            that stream above --above to a new stream of the database in use
            (DATABASE_URL, or the embedded one), where the next start counts
            them
  retire    ends a stream in the database of DATABASE_URL whose node is lost for
            good. Pruning of idempotency keys continues; records that the node
            had above the checkpoint of the stream are not counted
  rejected  lists the rows that PostgreSQL refused or that could not be checked
            against the window of their idempotency key (the table
            rejected_increments of DATABASE_URL or, without that, of the
            embedded database of a running server), one line of JSON each; with
            --retry, adds their amounts to counters and deletes them; those
            that are refused again stay, with the new reason; those that could
            not be checked stay, because they may be counted already; with
            --idempotent, counts those in their place: one copy of each request
            whose idempotency key is not recorded, and records the key; all
            copies are removed. Look first whether they were counted: keys are
            forgotten after IDEMPOTENCY_WINDOW_HOURS
  recount   recomputes the sums from increment_log in the database of
            DATABASE_URL (JOURNAL=postgres) and prints each counter whose sum is
            another, one line of JSON each; where the log no longer holds all
            that was counted, says what is missing. Servers may run meanwhile
  database  says which database DATABASE_URL, or the embedded one of a running
            server, is, and whether it is still where it was: servers do not
            count in one that was restored from a dump, copied or upgraded.
            --moved: they may from now on. --copy: it is a database of its own,
            and its streams are retired, because the journals belong to the one
            that was copied
  skip      for a stream of a broker or a queue that lacks records: says what
            stays uncounted up to --above, and what follows: in the broker, or
            from a queue in rejected_increments; with --yes, has what follows
            counted, without requests whose idempotency key is recorded
  stores    lists the brokers and queues that belong to the database of
            DATABASE_URL, with their open streams
  forget-store
            for a broker or a queue that is lost for good: says which streams of
            --store (an id, or none) are open; with --yes, retires them
  pair-store
            gives the broker or the queue of JOURNAL to the database of
            DATABASE_URL, also where it belongs to another one, or where it is
            not known whose streams it has. Says what it would do; with --yes,
            does it. Stop the servers first

  --data-dir  default: DATA_DIR of the environment
  --stream    default: every stream
  --above     for verify, accept: the checkpoint of the stream. In the database:
                select stream, lsn from journal_checkpoints
              for rebind: the last LSN that the other copy of this directory
              has, too
              for rebind --database: the last LSN that the database in use has;
              0 if it has none of the stream
  --retry     for rejected: counts the rows
  --prefix    for recount: only keys that begin with P; with --idempotent: only
              idempotency keys that do

DATABASE_URL_FILE may take the place of DATABASE_URL.

Exit codes: 0 success (rejected: there are no rows, or --retry has counted all
of them); 1 the command found or did not solve a problem (rejected: there are
rows, or some are left; recount: sums differ); 2 recount: the log is not
complete; 64 wrong command line; 75 the database cannot be reached; 78 the data
directory is in use, or the configuration is wrong
`;

/** A wrong command line: the problem, then the help. */
export function usageError(problem: string): StartError {
  return new StartError([problem, '', help], { exitCode: EXIT_USAGE });
}

/** The options as given. */
export type JournalOptions = ReturnType<typeof parseCommandLine>['values'];

/** The arguments of a command that locks a data directory. */
export interface DirectoryArguments {
  readonly dataDir: string;
  /** Where its streams are. */
  readonly journal: string;
  readonly nodeId: string;
  readonly streams: readonly string[];
  /** The stream of --stream; undefined for all streams. */
  readonly named: string | undefined;
  readonly above: Lsn | undefined;
  /** For accept, which takes several: each --stream with its --above. Empty unless each has one. */
  readonly choices: readonly { readonly stream: string; readonly above: Lsn }[];
  readonly database: boolean;
  /** The option by which a further command names the data directory; empty if DATA_DIR names it. */
  readonly dataDirOption: string;
}

/** The words of the command and its options. Throws StartError for an unknown option. */
export function parseCommandLine(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        'data-dir': { type: 'string' },
        stream: { type: 'string', multiple: true },
        above: { type: 'string', multiple: true },
        database: { type: 'boolean' },
        retry: { type: 'boolean' },
        prefix: { type: 'string' },
        idempotent: { type: 'boolean' },
        moved: { type: 'boolean' },
        copy: { type: 'boolean' },
        store: { type: 'string' },
        yes: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw usageError(reasonOf(error));
  }
}

/** Checks the options against the streams of the directory. */
export function directoryArguments(dataDir: string, nodeId: string, values: JournalOptions): DirectoryArguments {
  const { stream: named = [], above = [] } = values;
  const journal = join(dataDir, 'journal');
  const found = systemDisk.list(journal).filter(isUuid).sort();
  const unknown = named.find((stream) => !found.includes(stream));
  if (unknown !== undefined) throw usageError(`There is no stream ${unknown}.`);
  const lsns = above.map((text) => {
    if (!/^\d{1,15}$/.test(text)) throw usageError(`--above takes an LSN, not "${text}".`);
    return Number(text);
  });
  return {
    dataDir,
    journal,
    nodeId,
    streams: named.length === 0 ? found : named,
    named: named.length === 1 ? named[0] : undefined,
    above: lsns[0],
    choices: named.length === lsns.length ? named.map((stream, index) => ({ stream, above: lsns[index] ?? 0 })) : [],
    database: values.database === true,
    dataDirOption: values['data-dir'] === undefined ? '' : ` --data-dir ${quoted(values['data-dir'])}`,
  };
}

/** Prints a line. */
export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** One LSN, or the first and the last. */
export function rangeText({ from, to }: { readonly from: Lsn; readonly to: Lsn }): string {
  return from === to ? String(from) : `${from} to ${to}`;
}
