/**
 * Moves streams that belong to another database to the database in use, as `npm run journal -- rebind --database`. Main thread
 * of the command, which holds the lock of the data directory.
 *
 * Only an operator knows which records of such a stream the database in use already has: none if it is new, those up to the old
 * checkpoint if it is a copy. So the command needs an LSN for each stream. Without one it only prints what each stream holds.
 */
import { join, resolve } from 'node:path';
import type { Config } from '../config/config.js';
import type { Lsn } from '../core/checkpoint.js';
import { JournalError, reasonOf, StartError } from '../core/errors.js';
import { connect, describeTarget, parseDatabaseUrl, type DatabaseTarget } from '../db/connection.js';
import { errorCode } from '../db/database-errors.js';
import { startEmbeddedPostgres } from '../db/embedded/embedded-postgres.js';
import { DATABASE_ID } from '../db/statements.js';
import { DESCRIBE_STREAM } from '../db/upkeep-statements.js';
import { systemClock } from '../core/clock.js';
import { RECORD_HEADER_BYTES } from '../shard-worker/protocol/record-layout.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { listStreams, type StreamInfo } from '../shard-worker/journal/file/journal-directory.js';
import { finishRebind, rebindStream } from '../shard-worker/journal/file/stream-rebind.js';
import { readRecords } from '../shard-worker/journal/file/stream-recovery.js';
import { findSegments, scanStream } from '../shard-worker/journal/file/stream-scan.js';
import { EXIT_TEMPORARY } from './command-exit.js';
import { readableEntries, type ReadableEntry } from './readable-entries.js';

/** SQLSTATE undefined_table. */
const UNDEFINED_TABLE = '42P01';

/** The request of the operator. */
export interface DatabaseRebindRequest {
  readonly dataDir: string;
  /** The node of the data directory. */
  readonly nodeId: string;
  /** The option of a command that names the same data directory; may be empty. */
  readonly dataDirOption: string;
  readonly databaseUrl: Config['databaseUrl'];
  /** Undefined: only print what the streams hold. */
  readonly choice: { readonly stream: string; readonly above: Lsn } | undefined;
  readonly say: (line: string) => void;
}

interface DatabaseInUse {
  readonly description: string;
  readonly id: string;
  /** The LSNs of the streams in this database, by stream. */
  readonly checkpoints: ReadonlyMap<string, Lsn>;
}

interface StreamContent {
  readonly endLsn: Lsn;
  readonly records: number;
  readonly increments: number;
}

/**
 * Moves the records of one stream, or prints what each stream of another database holds. Resolves to whether no such stream is
 * left. Throws StartError if the database in use cannot be asked, and JournalError as recovery does.
 */
export async function rebindToDatabase(request: DatabaseRebindRequest): Promise<boolean> {
  const { dataDir, choice, say } = request;
  const directory = join(dataDir, 'journal');
  finishRebind(systemDisk, directory);
  const streams = listStreams(systemDisk, directory);
  const database = await askDatabase(
    request,
    streams.map(({ stream }) => stream),
  );
  say(`The database in use is ${database.description}, with the id ${database.id}.`);
  const isForeign = ({ databaseId }: StreamInfo): boolean => databaseId !== undefined && databaseId !== database.id;
  const foreign = streams.filter(isForeign);
  if (choice === undefined) {
    for (const info of foreign) describe(request, database, info);
    say(foreign.length === 0 ? 'No stream belongs to another database.' : 'Nothing was changed.');
    return foreign.length === 0;
  }
  const info = foreign.find(({ stream }) => stream === choice.stream);
  if (info === undefined) {
    say(`Stream ${choice.stream} does not belong to another database: the server starts with it. Nothing was changed.`);
    return false;
  }
  if (!move(request, database, info, choice.above)) return false;
  const rest = foreign.filter(({ stream }) => stream !== choice.stream);
  for (const { stream } of rest) say(`Stream ${stream} still belongs to another database.`);
  return rest.length === 0;
}

/** The least LSN above which the records may be counted. */
function leastAbove({ stream, firstLsn }: StreamInfo, { checkpoints }: DatabaseInUse): Lsn {
  return Math.max(firstLsn - 1, checkpoints.get(stream) ?? 0);
}

function describe({ dataDir, dataDirOption, say }: DatabaseRebindRequest, database: DatabaseInUse, info: StreamInfo) {
  const { stream, databaseId, firstLsn } = info;
  const least = leastAbove(info, database);
  const { endLsn, records, increments } = contentOf(join(dataDir, 'journal', stream), least);
  const command = `npm run journal -- rebind --database${dataDirOption} --stream ${stream} --above`;
  say(`Stream ${stream} belongs to the database ${databaseId} and holds LSN ${firstLsn} to ${endLsn}.`);
  if (least >= firstLsn) say(`  The database in use has this stream up to LSN ${least}.`);
  say('  The other database shows which of them it has counted:');
  say(`    select lsn from journal_checkpoints where stream = '${stream}'`);
  say('  Choose the LSN up to which the database in use already has them:');
  say(`    ${command} ${least}`);
  say(`      counts ${records} records with ${increments} increments above LSN ${least} here`);
  if (endLsn <= least) return;
  say(`    ${command} ${endLsn}`);
  say('      counts nothing of the stream here');
}

function move(
  { dataDir, nodeId, say }: DatabaseRebindRequest,
  database: DatabaseInUse,
  info: StreamInfo,
  above: Lsn,
): boolean {
  const { stream, firstLsn } = info;
  const known = database.checkpoints.get(stream) ?? 0;
  if (above < known) {
    say(`The database in use has stream ${stream} up to LSN ${known}: --above must be ${known} or more.`);
    return false;
  }
  if (above < firstLsn - 1) {
    say(`The journal of stream ${stream} begins at LSN ${firstLsn}: --above must be ${firstLsn - 1} or more.`);
    return false;
  }
  const directory = join(dataDir, 'journal');
  const { increments } = contentOf(join(directory, stream), above);
  const origin = { clock: systemClock, databaseId: database.id, old: 'aside' } as const;
  const moved = rebindStream(systemDisk, directory, stream, above, nodeId, origin);
  say(
    moved.stream === undefined
      ? `Stream ${stream} holds nothing above LSN ${above}; the database in use counts nothing of it.`
      : `${moved.records} records with ${increments} increments above LSN ${above} are now in stream ${moved.stream}; ` +
          'the next start counts them in the database in use.',
  );
  say(`The old stream is kept in ${moved.kept}; the server does not read it.`);
  return true;
}

function contentOf(path: string, above: Lsn): StreamContent {
  const segments = findSegments(systemDisk, path);
  const { endLsn } = scanStream(systemDisk, segments, above);
  let records = 0;
  let increments = 0;
  for (const { record } of readRecords(systemDisk, segments, above, endLsn)) {
    records += 1;
    increments += incrementsIn(readableEntries(record.subarray(RECORD_HEADER_BYTES)), path);
  }
  return { endLsn, records, increments };
}

function incrementsIn(entries: readonly ReadableEntry[], path: string): number {
  let increments = 0;
  for (const entry of entries) {
    if ('unknown' in entry) {
      throw new JournalError('journal-format', `${path} has entries of a kind that this version does not know.`);
    }
    increments += 'increments' in entry ? entry.increments.length : 1;
  }
  return increments;
}

/** Asks the database of DATABASE_URL, or the embedded one, which then runs only for this. */
async function askDatabase(
  { databaseUrl, dataDir }: DatabaseRebindRequest,
  streams: readonly string[],
): Promise<DatabaseInUse> {
  if (databaseUrl !== undefined) {
    const target = parseDatabaseUrl(databaseUrl);
    return ask(target, describeTarget(target), streams);
  }
  const warn = (_: object, message: string): void => {
    process.stderr.write(`${message}\n`);
  };
  const logger = { info: () => undefined, warn, error: warn };
  const embedded = await startEmbeddedPostgres({ dataDir: resolve(dataDir), logger, maxConnections: 2 });
  try {
    return await ask(parseDatabaseUrl(embedded.url), `the embedded one in ${dataDir}/postgres`, streams);
  } finally {
    await embedded.stop();
  }
}

async function ask(target: DatabaseTarget, description: string, streams: readonly string[]): Promise<DatabaseInUse> {
  try {
    const connection = await connect(target, { applicationName: 'summing-counters journal' });
    try {
      const [row] = await connection.query<{ database_id: string }>({ text: DATABASE_ID });
      if (row === undefined) throw new StartError([`The database ${description} has no id; start the server once.`]);
      const checkpoints = new Map<string, Lsn>();
      for (const stream of streams) {
        const [found] = await connection.query<{ lsn: string }>({ text: DESCRIBE_STREAM, values: [stream] });
        if (found !== undefined) checkpoints.set(stream, Number(found.lsn));
      }
      return { description, id: row.database_id, checkpoints };
    } finally {
      await connection.close();
    }
  } catch (cause) {
    if (cause instanceof StartError) throw cause;
    if (errorCode(cause) === UNDEFINED_TABLE) {
      throw new StartError([`The database ${description} has no tables of the server yet; start the server once.`]);
    }
    const problem = `The query to ${description} failed: ${reasonOf(cause)}.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}
