/**
 * Lists the rows of `rejected_increments`, and puts them back into `counters`. Main thread of the journal command.
 *
 * One statement deletes rows and adds their amounts, so a row is counted once or stays, even if a reply is lost and the command
 * runs again. It tries a batch first. If PostgreSQL refuses that, it tries the rows one by one. A row that is refused again
 * stays, with the new reason.
 */
import { connect, describeTarget, type DatabaseConnection, type DatabaseTarget } from '../db/connection.js';
import { classifyDatabaseError, errorCode, isStatementRefused } from '../db/database-errors.js';
import { notWritten } from '../db/flush-statement.js';
import { reasonOf, StartError } from '../core/errors.js';
import {
  LAST_REJECTED,
  LIST_REJECTED,
  REJECTED_IDS,
  RETRY_REJECTED,
  RETRY_SET_ASIDE,
  SET_ASIDE_KEYS,
  UPDATE_REJECTED,
} from '../db/upkeep-statements.js';
import { EXIT_TEMPORARY } from './command-exit.js';

/** Rows of one statement. */
const BATCH_ROWS = 1000;

/** A row as it is printed. */
interface ListedRow extends Record<string, unknown> {
  readonly id: string;
  readonly key: Buffer;
  readonly amount: string;
  /** Null for an increment that could not be checked against the window of its idempotency key. */
  readonly sqlstate: string | null;
  readonly reason: string;
  readonly stream: string;
  readonly rejected_at: Date;
  readonly lsn: string | null;
  readonly token: string | null;
  /** -Infinity if the record carries no time. */
  readonly accepted_after: Date | number | null;
}

/** The result of {@link retryRejected}, in rows. */
export interface RejectedRetry {
  readonly counted: number;
  /** Refused again; they have the new reason. */
  readonly refused: number;
  /** Not tried to the end because of a lock or a timeout. */
  readonly untried: number;
}

/** The result of {@link retrySetAside}, in requests. */
export interface SetAsideRetry {
  readonly counted: number;
  /** Their idempotency keys are recorded: they were counted before, or another request with the same key was. */
  readonly known: number;
  /** Further copies of requests, which were removed with them. */
  readonly copies: number;
  /** Idempotency key → why its request stays. */
  readonly refused: ReadonlyMap<string, string>;
}

/** Calls back with each row as one line of JSON, the oldest first. Resolves to their number. Throws StartError. */
export function listRejected(target: DatabaseTarget, print: (line: string) => void): Promise<number> {
  return withDatabase(target, async (connection) => {
    let rows = 0;
    for (let after = '0'; ;) {
      const page = await connection.query<ListedRow>({ text: LIST_REJECTED, values: [after, BATCH_ROWS] });
      for (const row of page) print(JSON.stringify(printable(row)));
      rows += page.length;
      const last = page.at(-1);
      if (last === undefined) return rows;
      after = last.id;
    }
  });
}

function printable({ id, key, amount, sqlstate, reason, stream, rejected_at: rejectedAt, ...request }: ListedRow) {
  const row = { id, ...printableKey(key), amount, sqlstate, reason, stream, rejectedAt };
  if (request.token === null) return row;
  const { lsn, token: idempotencyKey, accepted_after: acceptedAfter } = request;
  return { ...row, lsn: Number(lsn), idempotencyKey, acceptedAfter };
}

/** Counts the current rows that PostgreSQL refused, except those that it refuses again. Throws StartError. */
export function retryRejected(target: DatabaseTarget): Promise<RejectedRetry> {
  return withDatabase(target, async (connection) => {
    // Leaves rows that a server adds meanwhile to the next call, so that this one ends.
    const [end] = await connection.query<{ id: string }>({ text: LAST_REJECTED });
    let total: RejectedRetry = { counted: 0, refused: 0, untried: 0 };
    for (let after = '0'; ;) {
      const values = [after, end?.id ?? '0', BATCH_ROWS];
      const ids = (await connection.query<{ id: string }>({ text: REJECTED_IDS, values })).map(({ id }) => id);
      const last = ids.at(-1);
      if (last === undefined) return total;
      const { counted, refused, untried } = await retryBatch(connection, ids);
      total = {
        counted: total.counted + counted,
        refused: total.refused + refused,
        untried: total.untried + untried,
      };
      after = last;
    }
  });
}

async function retryBatch(connection: DatabaseConnection, ids: readonly string[]): Promise<RejectedRetry> {
  try {
    return { counted: await retryRows(connection, ids), refused: 0, untried: 0 };
  } catch (error) {
    if (!isStatementRefused(error)) throw error;
  }
  let [counted, refused, untried] = [0, 0, 0];
  for (const id of ids) {
    try {
      counted += await retryRows(connection, [id]);
    } catch (error) {
      if (!isStatementRefused(error)) throw error;
      const kind = classifyDatabaseError(error);
      if (kind === 'retry' || kind === 'unreachable') {
        untried += 1;
        continue;
      }
      refused += 1;
      await connection.query({
        text: UPDATE_REJECTED,
        values: [id, (notWritten(error) ?? error).message, errorCode(error)],
      });
    }
  }
  return { counted, refused, untried };
}

/**
 * Counts requests that could not be checked and whose idempotency keys begin with `prefix`, each once, unless its key is recorded.
 * Removes all copies of them. Throws StartError.
 */
export function retrySetAside(target: DatabaseTarget, prefix: string): Promise<SetAsideRetry> {
  return withDatabase(target, async (connection) => {
    let [counted, known, copies] = [0, 0, 0];
    const refused = new Map<string, string>();
    const retry = async (keys: readonly string[]): Promise<void> => {
      const [row] = await connection.query<{ counted: number; requests: number; copies: number }>({
        text: RETRY_SET_ASIDE,
        values: [keys],
      });
      counted += row?.counted ?? 0;
      known += (row?.requests ?? 0) - (row?.counted ?? 0);
      copies += (row?.copies ?? 0) - (row?.requests ?? 0);
    };
    for (let after = ''; ;) {
      const values = [after, prefix, BATCH_ROWS];
      const keys = (await connection.query<{ token: string }>({ text: SET_ASIDE_KEYS, values })).map(
        (row) => row.token,
      );
      const last = keys.at(-1);
      if (last === undefined) return { counted, known, copies, refused };
      try {
        await retry(keys);
      } catch (error) {
        if (!isStatementRefused(error)) throw error;
        for (const key of keys)
          await retry([key]).catch((reason: unknown) => {
            if (!isStatementRefused(reason)) throw reason;
            refused.set(key, (notWritten(reason) ?? reason).message);
          });
      }
      after = last;
    }
  });
}

/** Counts rows, all or none. Resolves to how many were still there. */
async function retryRows(connection: DatabaseConnection, ids: readonly string[]): Promise<number> {
  const [row] = await connection.query<{ rows: number }>({ text: RETRY_REJECTED, values: [ids] });
  return row?.rows ?? 0;
}

/** The key as text, or in hexadecimal if it is not UTF-8. */
function printableKey(key: Buffer): { readonly key: string } | { readonly keyHex: string } {
  try {
    return { key: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(key) };
  } catch {
    return { keyHex: key.toString('hex') };
  }
}

async function withDatabase<T>(
  target: DatabaseTarget,
  use: (connection: DatabaseConnection) => Promise<T>,
): Promise<T> {
  try {
    const connection = await connect(target, { applicationName: 'summing-counters journal' });
    try {
      return await use(connection);
    } finally {
      await connection.close();
    }
  } catch (cause) {
    const problem = `The query to ${describeTarget(target)} failed: ${reasonOf(cause)}. Run the command again.`;
    throw new StartError([problem], { exitCode: EXIT_TEMPORARY, cause });
  }
}
