/**
 * `npm run journal -- COMMAND`: looks at a file journal and repairs it, while no server is using it; ends the stream of a
 * journal that is gone. Main thread of a process of its own.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { readConfig } from '../config/config.js';
import { acquireDataDirectory, makeNodeId } from '../server/data-directory.js';
import { parseDatabaseUrl } from '../db/connection.js';
import { JournalError, StartError, reasonOf } from '../core/errors.js';
import type { Lsn } from '../core/checkpoint.js';
import { readUint64, RECORD_HEADER_BYTES, RECORD_OFFSET } from '../shard-worker/protocol/record-layout.js';
import { isUuid } from '../core/uuid.js';
import { acceptGaps, readAcceptedGaps, unaccepted } from '../shard-worker/journal/file/stream-files.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { EXIT_USAGE, exitCodeOf } from './command-exit.js';
import { readableEntries } from './readable-entries.js';
import { rebindStream } from '../shard-worker/journal/file/stream-rebind.js';
import { readRecords } from '../shard-worker/journal/file/stream-recovery.js';
import { retireStream } from './retire-stream.js';
import { inspectStream, repairStream } from '../shard-worker/journal/file/stream-repair.js';
import { findSegments, scanStream, type LsnRange } from '../shard-worker/journal/file/stream-scan.js';

const help = `npm run journal -- COMMAND [--data-dir DIR] [--stream ID] [--above LSN]

  verify   reads every segment and says what is in it; with --above, whether all above that LSN is there
  dump     prints the records above --above (default 0), one line of JSON each
  repair   copies what is damaged, then cuts it at the last whole record, keeping what is whole behind it
  accept   records that what is missing above --above is lost, so that the server starts without it
  rebind   gives this copy of a data directory a node id of its own and, with --stream and --above, moves that
           stream's records above --above to a stream of their own
  retire   ends a stream in the database of DATABASE_URL whose node is gone for good: idempotency tokens are pruned
           again, and what the node had above the stream's checkpoint is given up

  --data-dir  default: DATA_DIR of the environment
  --stream    default: every stream
  --above     for verify, accept: the stream's checkpoint. In the database:
                select stream, lsn from journal_checkpoints
              for rebind: the last LSN that the other copy of this directory has, too
`;

/** A command line that cannot be followed. */
function usageError(problem: string): StartError {
  return new StartError([problem, '', help], { exitCode: EXIT_USAGE });
}

interface Arguments {
  readonly dataDir: string;
  readonly streams: readonly string[];
  /** The stream that was named, rather than every one. */
  readonly named: string | undefined;
  readonly above: Lsn | undefined;
}

type Command = (args: Arguments) => boolean | Promise<boolean>;

const commands = new Map<string, Command>([
  ['verify', verify],
  ['dump', dump],
  ['repair', repair],
  ['accept', accept],
  ['rebind', rebind],
]);

/** Runs the command line; returns the exit code: 0 all well, 1 something is wrong, 64 usage, 78 directory in use. */
async function run(argv: readonly string[]): Promise<number> {
  try {
    const { positionals, values } = parseCommandLine(argv);
    if (values.help === true) {
      process.stdout.write(help);
      return 0;
    }
    const command = commands.get(positionals.join(' '));
    if (positionals.join(' ') === 'retire') return (await retire(values['data-dir'], values.stream)) ? 0 : 1;
    if (command === undefined) throw usageError(`There is no command "${positionals.join(' ')}".`);
    const dataDir = values['data-dir'] ?? readConfig(process.env).dataDir;
    const held = acquireDataDirectory(dataDir);
    try {
      return (await command(argumentsOf(dataDir, values.stream, values.above))) ? 0 : 1;
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
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw usageError(reasonOf(error));
  }
}

function argumentsOf(dataDir: string, stream: string | undefined, above: string | undefined): Arguments {
  const found = systemDisk.list(join(dataDir, 'journal')).filter(isUuid).sort();
  if (stream !== undefined && !found.includes(stream)) throw usageError(`There is no stream ${stream}.`);
  if (above !== undefined && !/^\d{1,15}$/.test(above)) throw usageError(`--above takes an LSN, not "${above}".`);
  return {
    dataDir,
    streams: stream === undefined ? found : [stream],
    named: stream,
    above: above === undefined ? undefined : Number(above),
  };
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function journalDirectory({ dataDir }: Arguments): string {
  return join(dataDir, 'journal');
}

/** Whether each stream is fit for a start. A torn tail is: the start cuts it. */
function verify(args: Arguments): boolean {
  let fit = true;
  for (const stream of args.streams) fit = verifyStream(args, stream) && fit;
  if (args.streams.length === 0) say('There are no streams.');
  return fit;
}

function verifyStream(args: Arguments, stream: string): boolean {
  say(`stream ${stream}`);
  try {
    const reports = inspectStream(systemDisk, join(journalDirectory(args), stream));
    for (const { segment, records, lastLsn, end, verdict } of reports) {
      const range = records === 0 ? 'no records' : `${records} records, LSN ${segment.header.firstLsn} to ${lastLsn}`;
      say(`  ${segment.path}: ${range}, ${end} of ${segment.fileBytes} bytes used`);
      if (verdict.kind === 'torn') say(`    a torn tail of ${verdict.bytes} bytes, which recovery cuts`);
      if (verdict.kind === 'short') say(`    LSN ${rangeText(verdict.missing)} was cut off`);
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
    say(`    LSN ${rangeText(range)} is missing${open.includes(range) ? '' : ', accepted'}`);
  return open.length === 0;
}

/** Prints records; where a segment is damaged, that is said on stderr and the next one follows. */
function dump(args: Arguments): boolean {
  let whole = true;
  for (const stream of args.streams) {
    for (const { segment, lastLsn, verdict } of inspectStream(systemDisk, join(journalDirectory(args), stream))) {
      for (const { lsn, record, acceptedAt } of readRecords(systemDisk, [segment], args.above ?? 0, lastLsn)) {
        const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
        const syncedLsn = readUint64(view, RECORD_OFFSET.syncedLsn);
        const entries = readableEntries(record.subarray(RECORD_HEADER_BYTES));
        say(JSON.stringify({ stream, lsn, syncedLsn, acceptedAt: new Date(acceptedAt).toISOString(), entries }));
      }
      if (verdict.kind !== 'corrupt') continue;
      process.stderr.write(`${verdict.message}\n`);
      whole = false;
    }
  }
  return whole;
}

function repair(args: Arguments): boolean {
  let repaired = 0;
  for (const stream of args.streams) {
    const directory = join(journalDirectory(args), stream);
    for (const { path, copy, offset, lastLsn, rescued } of repairStream(systemDisk, directory, new Date())) {
      repaired += 1;
      say(`${path} was cut at offset ${offset}, behind LSN ${lastLsn}; as it was, it is ${copy}`);
      for (const range of rescued) say(`  LSN ${rangeText(range)} behind the damage was kept`);
      if (rescued.length === 0) say('  nothing behind the damage could be read: what was there is lost');
    }
  }
  say(
    repaired === 0 ? 'Nothing to repair.' : 'If the start finds LSNs missing now, `accept` records that they are lost.',
  );
  return true;
}

function accept(args: Arguments): boolean {
  const { named, above } = args;
  if (named === undefined || above === undefined) throw usageError('accept takes --stream and --above.');
  const directory = join(journalDirectory(args), named);
  const { missing } = scanStream(systemDisk, findSegments(systemDisk, directory), above);
  if (missing.length > 0) acceptGaps(systemDisk, directory, missing, Date.now());
  say(missing.length === 0 ? 'Nothing is missing.' : `Accepted as lost: LSN ${missing.map(rangeText).join(', ')}`);
  return true;
}

async function rebind(args: Arguments): Promise<boolean> {
  const { named, above, dataDir } = args;
  if ((named === undefined) !== (above === undefined))
    throw usageError('rebind takes both or none of --stream, --above.');
  const nodeId = makeNodeId(dataDir);
  say(`This node is ${nodeId} from now on.`);
  if (named === undefined || above === undefined) {
    for (const stream of args.streams)
      say(`Stream ${stream} is still the one of the other copy: rebind it with --stream.`);
    return args.streams.length === 0;
  }
  const { stream, records, kept } = await rebindStream(systemDisk, journalDirectory(args), named, above, nodeId);
  say(stream === undefined ? `Nothing is above LSN ${above}.` : `${records} records are stream ${stream} now.`);
  say(`The old stream is kept in ${kept}, which the server does not read.`);
  return true;
}

/** Of no data directory: the one that holds the stream is not to be had any more. */
async function retire(dataDirectory: string | undefined, stream: string | undefined): Promise<boolean> {
  if (stream === undefined || !isUuid(stream)) throw usageError('retire takes --stream and the id of a stream.');
  const { databaseUrl, dataDir } = readConfig(process.env);
  if (databaseUrl === undefined) throw usageError('retire needs DATABASE_URL.');
  const directory = join(dataDirectory ?? dataDir, 'journal', stream);
  if (systemDisk.list(directory).length > 0) {
    say(`Stream ${stream} is here, in ${directory}: start the server, which counts what it holds, or move it away.`);
    return false;
  }
  const { isRetired, sentence } = await retireStream(parseDatabaseUrl(databaseUrl), stream);
  say(sentence);
  return isRetired;
}

function rangeText({ from, to }: LsnRange): string {
  return from === to ? String(from) : `${from} to ${to}`;
}

process.exitCode = await run(process.argv.slice(2));
