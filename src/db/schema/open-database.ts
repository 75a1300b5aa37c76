/**
 * The first connection of a start: checks whether the database accepts this server, and migrates it. Main thread.
 */
import { reasonOf, StartError } from '../../core/errors.js';
import type { Config } from '../../config/config.js';
import { classifyDatabaseError, errorCode } from '../database-errors.js';
import { databaseProblem, type DatabaseProblem } from '../database-problem.js';
import { connect, type DatabaseTarget } from '../connection.js';
import type { DatabaseLogger } from '../embedded/embedded-postgres.js';
import { refuseTransactionPooler } from '../transaction-pooler.js';
import type { TableAdoption } from './counters-table.js';
import { raisedEpochs } from './epochs.js';
import { migrate, TableBusyError } from './migrate.js';
import { silentRowWarnings } from './silent-rows.js';

/** The outcome of an attempt. */
export type OpenedDatabase =
  | { readonly kind: 'open'; readonly databaseId: string }
  /** No server answers, or it is not ready: try again. */
  | { readonly kind: 'unavailable'; readonly reason: string; readonly problem: DatabaseProblem }
  /** Other sessions lock a table that must be altered: try again, not too soon. */
  | { readonly kind: 'busy'; readonly reason: string; readonly problem: DatabaseProblem };

const CONNECT_TIMEOUT_MS = 2_000;

/** Connects once and migrates. Throws StartError where the database answers and refuses this server. */
export async function openDatabase(
  target: DatabaseTarget,
  logger: DatabaseLogger,
  { adoptCounters }: Pick<Config, 'adoptCounters'>,
  connectTimeoutMs = CONNECT_TIMEOUT_MS,
): Promise<OpenedDatabase> {
  try {
    const options = { applicationName: 'summing-counters start', connectTimeoutMs };
    const connection = await connect(target, options);
    try {
      await refuseTransactionPooler(target, connection, options);
      const adoption = { adoptsOtherColumns: adoptCounters === 1 };
      const { databaseId, applied, warnings, adopted } = await migrate(connection, adoption);
      if (adopted !== undefined) logger.info({ ...adopted }, adoptionSentence(adopted));
      const behind = await raisedEpochs(connection);
      const others = behind === undefined ? warnings : [...warnings, behind];
      for (const warning of [...others, ...(await silentRowWarnings(connection))]) logger.warn({}, warning);
      if (applied.length > 0) logger.info({ applied }, 'Migrated the database');
      return { kind: 'open', databaseId };
    } finally {
      await connection.close();
    }
  } catch (error) {
    if (error instanceof StartError) throw error;
    const reason = reasonOf(error);
    if (error instanceof TableBusyError) return { kind: 'busy', reason, problem: { cause: 'locked', reason } };
    switch (classifyDatabaseError(error)) {
      case 'unreachable':
      case 'retry':
        return { kind: 'unavailable', reason, problem: databaseProblem(error) };
      default:
        throw new StartError([`The database refuses this server: ${reason}.${connectGrant(target, error)}`], {
          cause: error,
        });
    }
  }
}

function adoptionSentence({ rows, nulls, seconds }: TableAdoption): string {
  const zeros = nulls === 0 ? 'no sum was null' : `${nulls} null ${nulls === 1 ? 'sum is' : 'sums are'} 0 now`;
  return `Adopted the table counters with ${rows} ${rows === 1 ? 'row' : 'rows'}; ${zeros}; it was locked for ${seconds} s`;
}

/** A role that may not connect cannot query its name, so the names are those of DATABASE_URL. */
function connectGrant({ database, user }: DatabaseTarget, error: unknown): string {
  if (errorCode(error) !== '42501') return '';
  const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
  return ` As its owner or a superuser: \`grant connect on database ${quoted(database)} to ${quoted(user)};\`.`;
}
