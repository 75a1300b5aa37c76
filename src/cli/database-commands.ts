/**
 * The commands that work on the database without locking a data directory. Each returns its exit code. Main thread of a process
 * of its own.
 */
import { join } from 'node:path';
import { commandConfig } from './command-config.js';
import { isUuid } from '../core/uuid.js';
import { parseDatabaseUrl, type DatabaseTarget } from '../db/connection.js';
import { runningEmbeddedUrl } from '../db/embedded/running-embedded.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { identify } from './database-identity.js';
import { say, usageError, type JournalOptions } from './journal-command-line.js';
import { forgetStore, listStores, NO_STORE, pairStore } from './journal-stores.js';
import { recount as recountLog } from './recount.js';
import { listRejected, retryRejected, retrySetAside } from './rejected-rows.js';
import { retireStream } from './retire-stream.js';
import { skipMissing } from './skip-missing.js';

/** Of recount: the journal does not hold everything that was counted. */
const EXIT_INCOMPLETE = 2;

/** Retires a stream. Works without a data directory, because that of the stream is lost. */
export async function retire({ 'data-dir': dataDirectory, stream: [stream] = [] }: JournalOptions): Promise<number> {
  if (stream === undefined || !isUuid(stream)) throw usageError('retire needs --stream with the id of a stream.');
  const { databaseUrl, dataDir } = commandConfig();
  if (databaseUrl === undefined) throw usageError('retire needs DATABASE_URL or DATABASE_URL_FILE.');
  const directory = join(dataDirectory ?? dataDir, 'journal', stream);
  if (systemDisk.list(directory).length > 0) {
    say(`Stream ${stream} is in ${directory}. Start the server, which counts its records, or move the directory away.`);
    return 1;
  }
  const { isRetired, sentence } = await retireStream(parseDatabaseUrl(databaseUrl), stream);
  say(sentence);
  return isRetired ? 0 : 1;
}

/** Lists refused rows, or counts them. Works beside a running server. Succeeds if no row is left. */
export async function rejected({
  'data-dir': dataDirectory,
  retry,
  idempotent,
  prefix,
}: JournalOptions): Promise<number> {
  if (idempotent === true ? retry !== true : prefix !== undefined)
    throw usageError('--idempotent is for rejected --retry, and --prefix for that and for recount.');
  const target = await databaseInUse('rejected', dataDirectory);
  if (idempotent === true) return retryIdempotent(target, prefix);
  if (retry === true) {
    const { counted, refused, untried } = await retryRejected(target);
    say(`${rowsText(counted)} counted, ${rowsText(refused)} refused again.`);
    if (untried > 0)
      say(`${rowsText(untried)} could not be tried because of a lock or a timeout: run the command again.`);
    return refused + untried === 0 ? 0 : 1;
  }
  const rows = await listRejected(target, say);
  if (rows === 0) say('There are no rejected rows.');
  return rows === 0 ? 0 : 1;
}

/** Says where the database is, or records a decision about it. */
export async function database({ 'data-dir': dataDirectory, moved, copy }: JournalOptions): Promise<number> {
  if (moved === true && copy === true) throw usageError('database takes --moved or --copy, not both.');
  const target = await databaseInUse('database', dataDirectory);
  const decision = moved === true ? 'moved' : copy === true ? 'copy' : undefined;
  const { sentences, isInPlace } = await identify(target, decision);
  for (const sentence of sentences) say(sentence);
  return isInPlace ? 0 : 1;
}

/** Counts what a stream has above missing records. */
export async function skip({ stream = [], above = [], yes = false }: JournalOptions): Promise<number> {
  const [id] = stream;
  const lsn = Number(above[0]);
  if (id === undefined || !isUuid(id) || !Number.isSafeInteger(lsn) || lsn < 1)
    throw usageError('skip needs --stream with the id of a stream, and --above with an LSN.');
  const given = { stream: id, above: lsn, isConfirmed: yes };
  return (await skipMissing(givenDatabase('skip'), given, say)) ? 0 : 1;
}

/** Lists the brokers and queues of the database, with their open streams. */
export async function stores(): Promise<number> {
  await listStores(givenDatabase('stores'), say);
  return 0;
}

/** Retires the streams of a store that is lost. */
export async function forget({ store, yes = false }: JournalOptions): Promise<number> {
  if (store === undefined || !(store === NO_STORE || isUuid(store)))
    throw usageError('forget-store needs --store with the id of a store, or none.');
  return (await forgetStore(givenDatabase('forget-store'), store, yes, say)) ? 0 : 1;
}

/** Gives the broker or the queue of JOURNAL to the database. */
export async function pair({ yes = false }: JournalOptions): Promise<number> {
  return (await pairStore(givenDatabase('pair-store'), yes, say)) ? 0 : 1;
}

function givenDatabase(command: string): DatabaseTarget {
  const { databaseUrl } = commandConfig();
  if (databaseUrl === undefined) throw usageError(`${command} needs DATABASE_URL or DATABASE_URL_FILE.`);
  return parseDatabaseUrl(databaseUrl);
}

/** That of DATABASE_URL, or the embedded one of a running server. */
async function databaseInUse(command: string, dataDirectory: string | undefined): Promise<DatabaseTarget> {
  const { databaseUrl, dataDir } = commandConfig();
  const url = databaseUrl ?? (await runningEmbeddedUrl(dataDirectory ?? dataDir));
  if (url !== undefined) return parseDatabaseUrl(url);
  throw usageError(
    `${command} needs DATABASE_URL, or a running server with its embedded PostgreSQL in --data-dir: start the server first.`,
  );
}

async function retryIdempotent(target: DatabaseTarget, prefix = ''): Promise<number> {
  const { counted, known, copies, refused } = await retrySetAside(target, prefix);
  say(`${requestsText(counted)} counted, each under its idempotency key.`);
  if (known > 0) say(`${requestsText(known)} removed: a request with the same idempotency key is counted.`);
  if (copies > 0) say(`${copies} further ${copies === 1 ? 'copy' : 'copies'} of these requests removed.`);
  for (const [key, reason] of refused) say(`The request ${key} stays: ${reason}.`);
  return refused.size === 0 ? 0 : 1;
}

/** Compares the sums with the journal. Works beside running servers. */
export async function recount({ prefix = '' }: JournalOptions): Promise<number> {
  const { databaseUrl, idempotencyWindowHours } = commandConfig();
  if (databaseUrl === undefined) throw usageError('recount needs DATABASE_URL.');
  const { missing, drifted } = await recountLog(parseDatabaseUrl(databaseUrl), prefix, idempotencyWindowHours, say);
  if (missing.length > 0) {
    say('The sums cannot be recomputed:');
    for (const sentence of missing) say(`  ${sentence}`);
    return EXIT_INCOMPLETE;
  }
  say(drifted === 0 ? 'Every sum agrees with the journal.' : `${drifted} sums differ.`);
  return drifted === 0 ? 0 : 1;
}

function requestsText(requests: number): string {
  return requests === 1 ? '1 request' : `${requests} requests`;
}

function rowsText(rows: number): string {
  return rows === 1 ? '1 row' : `${rows} rows`;
}
