/**
 * `npm run journal -- COMMAND`: inspects and repairs a file journal while no server uses it, retires the stream of a journal
 * that is lost, and counts rows that PostgreSQL refused. Main thread of a process of its own.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { readConfig } from '../config/config.js';
import { acquireDataDirectory, makeNodeId } from '../server/data-directory.js';
import { parseDatabaseUrl } from '../db/connection.js';
import { JournalError, StartError, reasonOf } from '../core/errors.js';
import type { Lsn } from '../core/checkpoint.js';
import { discardUnreadOutput, isOutputUnread } from '../core/closed-output.js';
import { readUint64, RECORD_HEADER_BYTES, RECORD_OFFSET } from '../shard-worker/protocol/record-layout.js';
import { isUuid } from '../core/uuid.js';
import {
  acceptCheckpoint,
  acceptGaps,
  readAcceptedGaps,
  unaccepted,
} from '../shard-worker/journal/file/stream-files.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { EXIT_USAGE, exitCodeOf, warnOfMisspelledSettings } from './command-exit.js';
import { readableEntries } from './readable-entries.js';
import { rebindToDatabase } from './rebind-database.js';
import { journalCommand, quoted } from '../shard-worker/journal/journal-command.js';
import { rebindStream } from '../shard-worker/journal/file/stream-rebind.js';
import { readRecords } from '../shard-worker/journal/file/stream-recovery.js';
import { recount } from './recount.js';
import { listRejected, retryRejected } from './rejected-rows.js';
import { runningEmbeddedUrl } from '../db/embedded/running-embedded.js';
import { retireStream } from './retire-stream.js';
import { inspectStream, repairStream } from '../shard-worker/journal/file/stream-repair.js';
import { findSegments, scanStream, type LsnRange } from '../shard-worker/journal/file/stream-scan.js';

const help = `npm run journal -- COMMAND [--data-dir DIR] [--stream ID] [--above LSN]
                           [--retry] [--prefix P]

  verify    reads every segment and reports its records and damage; with
            --above, also the missing records above that LSN
  dump      prints the records above --above (default 0), one line of JSON each
  repair    copies each damaged segment, cuts it at the last whole record, and
            keeps whole records behind the damage
  accept    accepts that the missing records above --above are lost, so that the
            server starts without them; where the database has lost the row of
            the stream, says that the records up to --above are counted (0:
            none), and the next start counts those above
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
            not be checked stay, because they may be counted already
  recount   recomputes the sums from increment_log in the database of
            DATABASE_URL (JOURNAL=postgres) and prints each counter whose sum is
            another, one line of JSON each; where the log no longer holds all
            that was counted, says what is missing. Servers may run meanwhile

  --data-dir  default: DATA_DIR of the environment
  --stream    default: every stream
  --above     for verify, accept: the checkpoint of the stream. In the database:
                select stream, lsn from journal_checkpoints
              for rebind: the last LSN that the other copy of this directory
              has, too
              for rebind --database: the last LSN that the database in use has;
              0 if it has none of the stream
  --retry     for rejected: counts the rows
  --prefix    for recount: only keys that begin with P

DATABASE_URL_FILE may take the place of DATABASE_URL.

Exit codes: 0 success (rejected: there are no rows, or --retry has counted all
of them); 1 the command found or did not solve a problem (rejected: there are
rows, or some are left; recount: sums differ); 2 recount: the log is not
complete; 64 wrong command line; 75 the database cannot be reached; 78 the data
directory is in use, or the configuration is wrong
`;

/** Of recount: the log does not hold all that was counted. */
const EXIT_INCOMPLETE = 2;

/** A wrong command line: the problem, then the help. */
function usageError(problem: string): StartError {
  return new StartError([problem, '', help], { exitCode: EXIT_USAGE });
}

interface Arguments {
  readonly dataDir: string;
  readonly nodeId: string;
  readonly streams: readonly string[];
  /** The stream of --stream; undefined for all streams. */
  readonly named: string | undefined;
  readonly above: Lsn | undefined;
  readonly database: boolean;
  /** The data directory as a further command must name it; empty if DATA_DIR names it. */
  readonly dataDirOption: string;
}

type Command = (args: Arguments) => boolean | Promise<boolean>;

const commands = new Map<string, Command>([
  ['verify', verify],
  ['dump', dump],
  ['repair', repair],
  ['accept', accept],
  ['rebind', rebind],
]);

/**
 * Runs the command line. Returns the exit code: 0 success, 1 the command found or did not solve a problem, 64 wrong
 * command line, 75 the database cannot be reached, 78 data directory in use.
 */
async function run(argv: readonly string[]): Promise<number> {
  try {
    const { positionals, values } = parseCommandLine(argv);
    if (values.help === true) {
      process.stdout.write(help);
      return 0;
    }
    warnOfMisspelledSettings(process.env);
    const command = commands.get(positionals.join(' '));
    if (values.retry === true && positionals.join(' ') !== 'rejected') throw usageError('--retry is for rejected.');
    if (positionals.join(' ') === 'rejected') {
      if (values.stream !== undefined || values.above !== undefined)
        throw usageError('rejected takes neither --stream nor --above.');
      return (await rejected(values['data-dir'], values.retry === true)) ? 0 : 1;
    }
    if (values.prefix !== undefined && positionals.join(' ') !== 'recount')
      throw usageError('--prefix is for recount.');
    if (positionals.join(' ') === 'recount') {
      if (values.stream !== undefined || values.above !== undefined)
        throw usageError('recount takes neither --stream nor --above.');
      return await audit(values.prefix ?? '');
    }
    if (positionals.join(' ') === 'retire') return (await retire(values['data-dir'], values.stream)) ? 0 : 1;
    if (command === undefined) throw usageError(`There is no command "${positionals.join(' ')}".`);
    if (values.database === true && command !== rebind) throw usageError('--database is for rebind only.');
    const dataDir = values['data-dir'] ?? readConfig(process.env).dataDir;
    const held = acquireDataDirectory(dataDir);
    try {
      return (await command(argumentsOf(dataDir, held.nodeId, values))) ? 0 : 1;
    } finally {
      held.release();
    }
  } catch (error) {
    return exitCodeOf(error);
  }
}

function parseCommandLine(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        'data-dir': { type: 'string' },
        stream: { type: 'string' },
        above: { type: 'string' },
        database: { type: 'boolean' },
        retry: { type: 'boolean' },
        prefix: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw usageError(reasonOf(error));
  }
}

function argumentsOf(
  dataDir: string,
  nodeId: string,
  values: ReturnType<typeof parseCommandLine>['values'],
): Arguments {
  const { stream, above } = values;
  const found = systemDisk.list(join(dataDir, 'journal')).filter(isUuid).sort();
  if (stream !== undefined && !found.includes(stream)) throw usageError(`There is no stream ${stream}.`);
  if (above !== undefined && !/^\d{1,15}$/.test(above)) throw usageError(`--above takes an LSN, not "${above}".`);
  return {
    dataDir,
    nodeId,
    streams: stream === undefined ? found : [stream],
    named: stream,
    above: above === undefined ? undefined : Number(above),
    database: values.database === true,
    dataDirOption: values['data-dir'] === undefined ? '' : ` --data-dir ${quoted(values['data-dir'])}`,
  };
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function journalDirectory({ dataDir }: Arguments): string {
  return join(dataDir, 'journal');
}

/** Whether the server can start with each stream. It can with a torn tail, which it cuts. */
function verify(args: Arguments): boolean {
  let canStart = true;
  for (const stream of args.streams) canStart = verifyStream(args, stream) && canStart;
  if (args.streams.length === 0) say('There are no streams.');
  return canStart;
}

function verifyStream(args: Arguments, stream: string): boolean {
  say(`stream ${stream}`);
  try {
    const reports = inspectStream(systemDisk, join(journalDirectory(args), stream));
    for (const { segment, records, lastLsn, end, verdict } of reports) {
      const range = records === 0 ? 'no records' : `${records} records, LSN ${segment.header.firstLsn} to ${lastLsn}`;
      say(`  ${segment.path}: ${range}, ${end} of ${segment.fileBytes} bytes used`);
      if (verdict.kind === 'torn') say(`    a torn tail of ${verdict.bytes} bytes, which the next start cuts`);
      if (verdict.kind === 'short')
        say(`    LSN ${rangeText(verdict.missing)} is missing: a repair has cut the segment`);
      if (verdict.kind === 'corrupt') say(`    DAMAGED: ${verdict.message}`);
    }
    if (reports.some(({ verdict }) => verdict.kind === 'corrupt')) return false;
    return args.above === undefined || verifyAbove(args, stream, args.above);
  } catch (error) {
    if (!(error instanceof JournalError)) throw error;
    say(`  ${error.code}: ${error.message}`);
    return false;
  }
}

function verifyAbove(args: Arguments, stream: string, above: Lsn): boolean {
  const directory = join(journalDirectory(args), stream);
  const scan = scanStream(systemDisk, findSegments(systemDisk, directory), above);
  const open = unaccepted(scan.missing, readAcceptedGaps(systemDisk, directory));
  say(`  above LSN ${above}: ${scan.pendingRecords} records, the last is LSN ${scan.endLsn}`);
  for (const range of scan.missing)
    say(`    LSN ${rangeText(range)} is missing${open.includes(range) ? '' : '; the loss is accepted'}`);
  return open.length === 0;
}

/**
 * Prints records until nobody reads them any more. Reports damage of a segment on stderr and continues with the next
 * segment.
 */
function dump(args: Arguments): boolean {
  let isWhole = true;
  for (const stream of args.streams) {
    for (const { segment, lastLsn, verdict } of inspectStream(systemDisk, join(journalDirectory(args), stream))) {
      for (const { lsn, record, acceptedAt, databaseTime } of readRecords(
        systemDisk,
        [segment],
        args.above ?? 0,
        lastLsn,
      )) {
        const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
        const syncedLsn = readUint64(view, RECORD_OFFSET.syncedLsn);
        const entries = readableEntries(record.subarray(RECORD_HEADER_BYTES));
        const times = { acceptedAt: isoTime(acceptedAt), databaseTime: isoTime(1000 * databaseTime) };
        say(JSON.stringify({ stream, lsn, syncedLsn, ...times, entries }));
        // Printing is all that this command does.
        if (isOutputUnread()) return true;
      }
      if (verdict.kind !== 'corrupt') continue;
      process.stderr.write(`${verdict.message}\n`);
      isWhole = false;
    }
  }
  return isWhole;
}

/** Null for a time that is not known. */
function isoTime(ms: number): string | null {
  return ms === 0 ? null : new Date(ms).toISOString();
}

function repair(args: Arguments): boolean {
  let repaired = 0;
  for (const stream of args.streams) {
    const directory = join(journalDirectory(args), stream);
    for (const { path, copy, offset, lastLsn, rescued } of repairStream(systemDisk, directory, new Date())) {
      repaired += 1;
      say(`${path} is cut at offset ${offset}, after LSN ${lastLsn}; the damaged file is kept as ${copy}`);
      for (const range of rescued) say(`  kept LSN ${rangeText(range)} behind the damage`);
      if (rescued.length === 0) say('  no record behind the damage can be read: those records are lost');
    }
  }
  say(
    repaired === 0
      ? 'Nothing to repair.'
      : 'If the server does not start because LSNs are missing, its error names the command that accepts their loss.',
  );
  return true;
}

function accept(args: Arguments): boolean {
  const { named, above } = args;
  if (named === undefined || above === undefined) throw usageError('accept needs --stream and --above.');
  const directory = join(journalDirectory(args), named);
  const { missing } = scanStream(systemDisk, findSegments(systemDisk, directory), above);
  if (missing.length > 0) acceptGaps(systemDisk, directory, missing, Date.now());
  acceptCheckpoint(systemDisk, directory, above, Date.now());
  say(missing.length === 0 ? 'No record is missing.' : `Accepted as lost: LSN ${missing.map(rangeText).join(', ')}`);
  say(
    `If the database has lost the row of the stream, the next start takes the records up to LSN ${above} as counted.`,
  );
  return true;
}

async function rebind(args: Arguments): Promise<boolean> {
  const { named, above, dataDir } = args;
  if ((named === undefined) !== (above === undefined))
    throw usageError('rebind needs both of --stream and --above, or none.');
  if (args.database) {
    return rebindToDatabase({
      dataDir,
      nodeId: args.nodeId,
      dataDirOption: args.dataDirOption,
      databaseUrl: readConfig(process.env).databaseUrl,
      choice: named === undefined || above === undefined ? undefined : { stream: named, above },
      say,
    });
  }
  const nodeId = makeNodeId(dataDir);
  say(`The node id of this data directory is now ${nodeId}.`);
  if (named === undefined || above === undefined) {
    for (const stream of args.streams) {
      const command = journalCommand('rebind', join(journalDirectory(args), stream), stream, 'LSN');
      say(`Stream ${stream} still belongs to both copies: ${command}, with the last LSN that the other copy has, too.`);
    }
    return args.streams.length === 0;
  }
  const { stream, records } = await rebindStream(systemDisk, journalDirectory(args), named, above, nodeId);
  say(
    stream === undefined
      ? `There are no records above LSN ${above}.`
      : `${records} records are now in stream ${stream}.`,
  );
  say(`Stream ${named} ends at LSN ${above} now; the next start counts what of it is not counted yet.`);
  return true;
}

/** Works without a data directory, because the directory that held the stream is lost. */
async function retire(dataDirectory: string | undefined, stream: string | undefined): Promise<boolean> {
  if (stream === undefined || !isUuid(stream)) throw usageError('retire needs --stream with the id of a stream.');
  const { databaseUrl, dataDir } = readConfig(process.env);
  if (databaseUrl === undefined) throw usageError('retire needs DATABASE_URL or DATABASE_URL_FILE.');
  const directory = join(dataDirectory ?? dataDir, 'journal', stream);
  if (systemDisk.list(directory).length > 0) {
    say(`Stream ${stream} is in ${directory}. Start the server, which counts its records, or move the directory away.`);
    return false;
  }
  const { isRetired, sentence } = await retireStream(parseDatabaseUrl(databaseUrl), stream);
  say(sentence);
  return isRetired;
}

/** Works beside a running server. Whether no row is left. */
async function rejected(dataDirectory: string | undefined, isRetry: boolean): Promise<boolean> {
  const { databaseUrl, dataDir } = readConfig(process.env);
  const url = databaseUrl ?? (await runningEmbeddedUrl(dataDirectory ?? dataDir));
  if (url === undefined) {
    throw usageError(
      'rejected needs DATABASE_URL, or a running server with its embedded PostgreSQL in --data-dir: start the server first.',
    );
  }
  const target = parseDatabaseUrl(url);
  if (isRetry) {
    const { counted, refused, untried } = await retryRejected(target);
    say(`${rowsText(counted)} counted, ${rowsText(refused)} refused again.`);
    if (untried > 0)
      say(`${rowsText(untried)} could not be tried because of a lock or a timeout: run the command again.`);
    return refused + untried === 0;
  }
  const rows = await listRejected(target, say);
  if (rows === 0) say('There are no rejected rows.');
  return rows === 0;
}

/** Works beside running servers. Returns the exit code. */
async function audit(prefix: string): Promise<number> {
  const { databaseUrl, idempotencyWindowHours } = readConfig(process.env);
  if (databaseUrl === undefined) throw usageError('recount needs DATABASE_URL.');
  const { missing, drifted } = await recount(parseDatabaseUrl(databaseUrl), prefix, idempotencyWindowHours, say);
  if (missing.length > 0) {
    say('The sums cannot be recomputed:');
    for (const sentence of missing) say(`  ${sentence}`);
    return EXIT_INCOMPLETE;
  }
  say(drifted === 0 ? 'Every sum is what the log adds up to.' : `${drifted} sums differ.`);
  return drifted === 0 ? 0 : 1;
}

function rowsText(rows: number): string {
  return rows === 1 ? '1 row' : `${rows} rows`;
}

function rangeText({ from, to }: LsnRange): string {
  return from === to ? String(from) : `${from} to ${to}`;
}

discardUnreadOutput();
process.exitCode = await run(process.argv.slice(2));
