/**
 * Recognises a connection pooler that gives each transaction another session, as PgBouncer does with
 * `pool_mode = transaction`. There, settings and prepared statements of a session are lost. Main thread, at the start.
 *
 * The check cannot refuse a plain server or a pooler in session mode: there only the session itself sees its settings. It can
 * miss a pooler whose sessions others use at the same moment, hence several rounds.
 */
import { randomUUID } from 'node:crypto';
import { StartError } from '../core/errors.js';
import { connect, type ConnectOptions, type DatabaseConnection, type DatabaseTarget } from './connection.js';

const ROUNDS = 5;
const STATEMENT_TIMEOUT_MS = 2_000;

/** For the operator, complete. */
const TRANSACTION_POOLER =
  'DATABASE_URL leads to a connection pooler that gives each transaction another session, as PgBouncer does with ' +
  'pool_mode = transaction: set pool_mode = session for this database in pgbouncer.ini and reload PgBouncer, or name ' +
  'PostgreSQL itself in DATABASE_URL.';

/**
 * Throws StartError where `connection` leads through such a pooler. Opens a second connection, but only behind a pooler. Does
 * nothing where the second connection fails.
 */
export async function refuseTransactionPooler(
  target: DatabaseTarget,
  connection: DatabaseConnection,
  options: ConnectOptions,
): Promise<void> {
  if (!connection.isPooled) return;
  let other: DatabaseConnection | undefined;
  try {
    const { host } = connection.backend;
    other = await connect(target, { ...options, ...(host !== undefined && { host }) });
    for (let round = 0; round < ROUNDS; round += 1) {
      if (await sharesSessions(connection, other)) throw new StartError([TRANSACTION_POOLER]);
    }
  } catch (error) {
    if (error instanceof StartError) throw error;
    // PgBouncer refuses transactions with pool_mode = statement.
    if (error instanceof Error && error.message.includes('statement pooling mode')) {
      throw new StartError([TRANSACTION_POOLER], { cause: error });
    }
  } finally {
    await other?.close();
  }
}

/** While `other` is in a transaction, it must not see what `connection` has set, and `connection` must. */
async function sharesSessions(connection: DatabaseConnection, other: DatabaseConnection): Promise<boolean> {
  const mark = randomUUID();
  const timeoutMs = STATEMENT_TIMEOUT_MS;
  await connection.query({
    text: `select set_config('summing_counters.session', $1, false)`,
    values: [mark],
    timeoutMs,
  });
  await other.query({ text: 'begin', timeoutMs });
  try {
    return (await markOf(other)) === mark || (await markOf(connection)) !== mark;
  } finally {
    await other.query({ text: 'rollback', timeoutMs });
  }
}

async function markOf(connection: DatabaseConnection): Promise<string | null> {
  const [row] = await connection.query<{ mark: string | null }>({
    text: `select current_setting('summing_counters.session', true) as mark`,
    timeoutMs: STATEMENT_TIMEOUT_MS,
  });
  return row?.mark ?? null;
}
