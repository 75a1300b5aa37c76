/**
 * The first connection of a start: whether the database is reachable, whether it accepts this server, and its schema. Main
 * thread.
 */
import { reasonOf, StartError } from '../../core/errors.js';
import { classifyDatabaseError } from '../database-errors.js';
import { databaseProblem, type DatabaseProblem } from '../database-problem.js';
import { connect, type DatabaseTarget } from '../connection.js';
import type { DatabaseLogger } from '../embedded/embedded-postgres.js';
import { refuseTransactionPooler } from '../transaction-pooler.js';
import { migrate, TableBusyError } from './migrate.js';

/** The outcome of an attempt. */
export type OpenedDatabase =
  | { readonly kind: 'open'; readonly databaseId: string }
  /** No server answers, or it cannot answer yet: try again. */
  | { readonly kind: 'unavailable'; readonly reason: string; readonly problem: DatabaseProblem }
  /** The server answers, and others hold a table that must be altered: try again, not too soon. */
  | { readonly kind: 'busy'; readonly reason: string; readonly problem: DatabaseProblem };

const CONNECT_TIMEOUT_MS = 2_000;

/** Connects once and migrates. Throws StartError where the database answers and refuses this server. */
export async function openDatabase(
  target: DatabaseTarget,
  logger: DatabaseLogger,
  connectTimeoutMs = CONNECT_TIMEOUT_MS,
): Promise<OpenedDatabase> {
  try {
    const options = { applicationName: 'summing-counters start', connectTimeoutMs };
    const connection = await connect(target, options);
    try {
      await refuseTransactionPooler(target, connection, options);
      const { databaseId, applied, warnings } = await migrate(connection);
      for (const warning of warnings) logger.warn({}, warning);
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
        throw new StartError([`The database refuses this server: ${reason}.`], { cause: error });
    }
  }
}
