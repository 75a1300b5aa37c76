/**
 * Migrates a database to the schema of this version. Main thread, at start, before any stream recovers.
 *
 * A migration is one transaction under an advisory lock: any number of nodes may start at the same time, and a killed one leaves
 * the database unchanged. An old version refuses to start on a newer schema.
 */
import { StartError, reasonOf } from '../../core/errors.js';
import type { DatabaseConnection } from '../connection.js';
import { prepareCountersTable, type TableAdoption } from './counters-table.js';
import { missingGrant } from './missing-grant.js';
import { classifyDatabaseError, errorCode } from '../database-errors.js';
import { migrations } from './migrations.js';
import { DATABASE_ID } from '../statements.js';

/** The result of `migrate`. */
export interface MigrationResult {
  /** From the first migration. Distinguishes databases that have the same address. */
  readonly databaseId: string;
  /** "version name" of each applied step. */
  readonly applied: readonly string[];
  /** Sentences for the log about settings that work but cost speed. */
  readonly warnings: readonly string[];
  /** The adoption of a table of the original application, if there was one. */
  readonly adopted?: TableAdoption;
}

/** What an operator may allow. */
export interface MigrationOptions {
  /** See `CountersTableOptions`. */
  readonly adoptsOtherColumns: boolean;
}

const VERSION_MIN = 130_000;
/** Unlikely in other applications: "summing" in ASCII. */
const LOCK_ID = '32497614093250151';
/** Long, because the migration of another node may rewrite a large `counters`. */
const LOCK_TIMEOUT = '10min';
/** Short, because all other users of the table queue behind a wait for its lock. */
const TABLE_LOCK_TIMEOUT = '300ms';
/** An hour: the adoption of a large table rewrites it. */
const STATEMENT_TIMEOUT_MS = 3_600_000;

const PREPARE_TRANSACTION = `
begin;
set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = '60s'`;

const VERSION_TABLE = `
create table if not exists summing_counters_migrations (
  version int primary key,
  name text not null,
  applied_at timestamptz not null default now(),
  database_id uuid not null default gen_random_uuid()
)`;

/** Another session locked a table for longer than {@link TABLE_LOCK_TIMEOUT}. The same migration may succeed later. */
export class TableBusyError extends Error {
  override readonly name = 'TableBusyError';
}

const HOLDERS = `
select distinct a.pid, a.application_name as name
from pg_locks l join pg_stat_activity a using (pid)
where l.relation = to_regclass('counters') and l.granted and a.pid <> pg_backend_pid()
order by a.pid limit 5`;

/**
 * Applies the missing steps, in one attempt. Throws StartError, with one sentence for the operator, where this version must
 * not use the database. Rejects with {@link TableBusyError} where other sessions lock a table that must be altered, and with the
 * error of pg where the database was unreachable or the connection was lost (see `classifyDatabaseError`).
 */
export async function migrate(
  connection: DatabaseConnection,
  options: MigrationOptions = { adoptsOtherColumns: false },
): Promise<MigrationResult> {
  checkServer(connection);
  try {
    return await migrateOnce(connection, options);
  } catch (error) {
    if (!connection.lost) await connection.query({ text: 'rollback' });
    // A refused write closes the session, see DatabaseConnection.query.
    const isReadOnly = errorCode(error) === '25006';
    if (error instanceof StartError || (connection.lost && !isReadOnly)) throw error;
    const kind = classifyDatabaseError(error);
    if (kind === 'unreachable') throw error;
    if (kind === 'retry' && !isReadOnly) throw await busy(connection, error);
    const help = connection.lost ? '' : await missingGrant(connection, error);
    throw new StartError([`The database cannot be migrated: ${reasonOf(error)}.${help}`], { cause: error });
  }
}

/** Names the sessions that lock the table. */
async function busy(connection: DatabaseConnection, cause: unknown): Promise<TableBusyError> {
  const holders = await connection.query<{ pid: number; name: string }>({ text: HOLDERS });
  const names = holders.map(({ pid, name }) => (name === '' ? `process ${pid}` : `process ${pid} (${name})`));
  const who = names.length === 0 ? '' : `; the table counters is in use by ${names.join(', ')}`;
  const reason = reasonOf(cause);
  return new TableBusyError(`the migration waits for a table lock: ${reason}${who}`, { cause });
}

/** Checks version, encoding and role of the server. Throws StartError. */
function checkServer({ server }: DatabaseConnection): void {
  if (server.versionNumber < VERSION_MIN) {
    const version = `${Math.floor(server.versionNumber / 10_000)}`;
    throw new StartError([`The database is PostgreSQL ${version}; upgrade it to version 13 or later.`]);
  }
  if (server.encoding !== 'UTF8') {
    throw new StartError([`The database's encoding is ${server.encoding}; it must be UTF8, because keys are UTF-8.`]);
  }
  if (server.inRecovery) {
    throw new StartError([
      'The database is a standby and takes no writes: set DATABASE_URL to the primary, or to a list of all hosts.',
    ]);
  }
}

async function migrateOnce(
  connection: DatabaseConnection,
  { adoptsOtherColumns }: MigrationOptions,
): Promise<MigrationResult> {
  await connection.query({ text: PREPARE_TRANSACTION });
  if (connection.server.versionNumber >= 170_000) await connection.query({ text: 'set local transaction_timeout = 0' });
  await connection.query({ text: `set local lock_timeout = '${LOCK_TIMEOUT}'` });
  await connection.query({ text: `select pg_advisory_xact_lock(${LOCK_ID})`, timeoutMs: STATEMENT_TIMEOUT_MS });
  await connection.query({ text: `set local lock_timeout = '${TABLE_LOCK_TIMEOUT}'` });

  // Looks first: an account that may not create tables can still start on a migrated database.
  const [found] = await connection.query<{ there: boolean }>({
    text: `select to_regclass('summing_counters_migrations') is not null as there`,
  });
  if (found?.there !== true) await connection.query({ text: VERSION_TABLE });

  const rows = await connection.query<{ version: number; database_id: string }>({
    text: 'select version, database_id from summing_counters_migrations order by version',
  });
  const newest = migrations.at(-1)?.version ?? 0;
  const present = rows.at(-1)?.version ?? 0;
  if (present > newest) {
    throw new StartError([
      `The database has schema version ${present} and this server knows ${newest}: run the newer server that used it.`,
    ]);
  }

  const { warnings, adopted } = await prepareCountersTable(connection, {
    timeoutMs: STATEMENT_TIMEOUT_MS,
    isOurs: present > 0,
    adoptsOtherColumns,
  });
  const applied: string[] = [];
  for (const { version, name, sql } of migrations) {
    if (version <= present) continue;
    await connection.query({ text: sql, timeoutMs: STATEMENT_TIMEOUT_MS });
    await connection.query({
      text: 'insert into summing_counters_migrations (version, name) values ($1, $2)',
      values: [version, name],
    });
    applied.push(`${version} ${name}`);
  }
  const [first] = await connection.query<{ database_id: string }>({
    text: DATABASE_ID,
  });
  await connection.query({ text: 'commit' });
  if (first === undefined)
    throw new StartError(['The table summing_counters_migrations has lost its rows; restore them from a backup.']);
  return { databaseId: first.database_id, applied, warnings, ...(adopted === undefined ? {} : { adopted }) };
}
