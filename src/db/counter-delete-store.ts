/**
 * Removal of counters: the row goes and its sum is kept under the reset's id, in one statement. Main thread.
 */
import { randomUUID } from 'node:crypto';
import { CounterError, type ErrorCode } from '../core/errors.js';
import type { Sum } from '../core/increment.js';
import { parseSum } from './counter-store.js';
import { errorCode, isStatementRefused } from './database-errors.js';
import type { DatabaseConnection } from './connection.js';
import type { OnDemandConnection } from './on-demand-connection.js';
import { READ_DELETE, DELETE_COUNTER } from './statements.js';

const UNIQUE_VIOLATION = '23505';
/** Another request with the same id may be in the middle of it, and end without effect. */
const ATTEMPTS = 3;

/** Resets over the shared connection. */
export class CounterDeleteStore {
  readonly #connection: OnDemandConnection;

  constructor(connection: OnDemandConnection) {
    this.#connection = connection;
  }

  /**
   * Removes a counter and returns what it was; undefined where it does not exist. `id` is the request's token, if it has
   * one; the same id answers the same again. Rejects with CounterError `database-unavailable` (nothing happened),
   * `outcome-unknown` (the reply was lost), `idempotency-mismatch` (the id belongs to another counter's reset).
   */
  delete(id: string | undefined, key: Uint8Array): Promise<Sum | undefined> {
    return this.#connection.run((connection) => deleteOnce(connection, id, Buffer.from(key).toString('utf8')));
  }
}

async function deleteOnce(
  connection: DatabaseConnection,
  token: string | undefined,
  key: string,
): Promise<Sum | undefined> {
  const id = token ?? randomUUID();
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    const before = await readDelete(connection, id);
    if (before !== undefined) {
      if (before.key === key) return before.sum === null ? undefined : parseSum(before.sum);
      throw new CounterError('idempotency-mismatch', 'The token was used to remove another counter.');
    }
    try {
      const [row] = await connection.query<{ sum: string }>({
        text: DELETE_COUNTER,
        values: [id, key, token !== undefined],
      });
      return row === undefined ? undefined : parseSum(row.sum);
    } catch (error) {
      if (!isStatementRefused(error)) throw failure('outcome-unknown', 'The reply of the database was lost.', error);
      if (errorCode(error) !== UNIQUE_VIOLATION) throw failure('database-unavailable', 'The database refused.', error);
    }
  }
  throw new CounterError('database-unavailable', 'Another request with this token is under way.');
}

async function readDelete(
  connection: DatabaseConnection,
  id: string,
): Promise<{ readonly key: string; readonly sum: string | null } | undefined> {
  try {
    const [row] = await connection.query<{ key: string; sum: string | null }>({ text: READ_DELETE, values: [id] });
    return row;
  } catch (error) {
    throw failure('database-unavailable', 'The database did not answer.', error);
  }
}

function failure(code: ErrorCode, detail: string, cause: unknown): CounterError {
  return new CounterError(code, detail, { cause });
}
