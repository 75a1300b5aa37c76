/**
 * Deletes counters: one statement deletes the row and keeps its sum under the id of the delete. Main thread.
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
/** Several attempts, because a concurrent request with the same id may end without effect. */
const ATTEMPTS = 3;

/** Deletes counters over the shared connection. */
export class CounterDeleteStore {
  readonly #connection: OnDemandConnection;

  constructor(connection: OnDemandConnection) {
    this.#connection = connection;
  }

  /**
   * Deletes a counter and resolves to its last sum; undefined where it does not exist. `id` is the idempotency key of the
   * request, if it has one: the same id gets the same answer again. Rejects with CounterError `database-unavailable` (nothing
   * happened), `outcome-unknown` (the reply was lost), `idempotency-mismatch` (the id belongs to the delete of another
   * counter).
   */
  delete(id: string | undefined, key: Uint8Array): Promise<Sum | undefined> {
    return this.#connection.run((connection) => deleteOnce(connection, id, Buffer.from(key).toString('utf8')));
  }
}

async function deleteOnce(
  connection: DatabaseConnection,
  requestId: string | undefined,
  key: string,
): Promise<Sum | undefined> {
  const id = requestId ?? randomUUID();
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    const before = await readDelete(connection, id);
    if (before !== undefined) {
      if (before.key === key) return before.sum === null ? undefined : parseSum(before.sum);
      throw new CounterError(
        'idempotency-mismatch',
        'The idempotency key was used to delete another counter; use a new one.',
      );
    }
    try {
      const [row] = await connection.query<{ sum: string }>({
        text: DELETE_COUNTER,
        values: [id, key, requestId !== undefined],
      });
      return row === undefined ? undefined : parseSum(row.sum);
    } catch (error) {
      if (!isStatementRefused(error))
        throw failure('outcome-unknown', 'The reply of the database was lost; the counter may be deleted.', error);
      if (errorCode(error) !== UNIQUE_VIOLATION)
        throw failure('database-unavailable', 'The database refused the delete; nothing was deleted.', error);
    }
  }
  throw new CounterError(
    'database-unavailable',
    'Another request with this idempotency key is under way; try again later.',
  );
}

async function readDelete(
  connection: DatabaseConnection,
  id: string,
): Promise<{ readonly key: string; readonly sum: string | null } | undefined> {
  try {
    const [row] = await connection.query<{ key: string; sum: string | null }>({ text: READ_DELETE, values: [id] });
    return row;
  } catch (error) {
    throw failure('database-unavailable', 'The database did not answer; nothing was deleted.', error);
  }
}

function failure(code: ErrorCode, detail: string, cause: unknown): CounterError {
  return new CounterError(code, detail, { cause });
}
