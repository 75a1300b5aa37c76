/**
 * Explains to an operator why the database cannot be used. Any thread. docs/errors.md describes each cause.
 */
import pg from 'pg';
import { causesOf, reasonOf } from '../core/errors.js';
import { errorCode, NoHostError } from './database-errors.js';

/** Cause → its meaning, as a part of a sentence. The names are stable; the log has them under `cause`. */
export const databaseCauses = {
  'connection-refused': 'no server listens at this address',
  'unknown-host': 'the host name cannot be resolved',
  'host-unreachable': 'there is no network path to the host',
  'no-answer': 'no answer of PostgreSQL came in time',
  'connection-lost': 'the connection was lost',
  'starting-up': 'PostgreSQL is starting up or shutting down',
  'session-ended': 'PostgreSQL ended the session',
  'too-many-connections': 'PostgreSQL has no connection left for this server; raise max_connections or lower SHARDS',
  'out-of-resources': 'PostgreSQL is out of disk space or memory',
  'no-such-database': 'the database does not exist',
  'login-refused': 'the role may not log in; check role, password and pg_hba.conf',
  'permission-denied': 'the role lacks a permission',
  'tls-refused': 'no TLS connection can be made; check certificates and sslmode',
  'read-only': 'the database takes no writes, as a standby does',
  locked: 'other sessions hold the rows or tables',
  'too-slow': 'statements exceed their time limit',
  'row-refused': 'PostgreSQL refuses what the flush writes; check constraints and triggers of your own',
  'no-schema': 'the tables of this server do not exist yet',
  'transaction-pooler':
    'a connection pooler gives each transaction another session; set pool_mode = session, or connect to PostgreSQL directly',
  'no-host': 'no host of DATABASE_URL can be used',
  'other-database': 'this is not the database that the sums belong to',
  other: 'PostgreSQL cannot be used',
} as const;

/** The stable name of a cause. */
export type DatabaseCause = keyof typeof databaseCauses;

/** A cause with its explanation. Survives structured cloning. */
export interface DatabaseProblem {
  readonly cause: DatabaseCause;
  /** The meaning of the cause, then the report of the system or PostgreSQL, where that says more. */
  readonly reason: string;
}

const CODES: readonly (readonly [RegExp, DatabaseCause])[] = [
  [/^(ECONNREFUSED|ENOENT)$/, 'connection-refused'],
  [/^(ENOTFOUND|EAI_AGAIN)$/, 'unknown-host'],
  [/^(EHOSTUNREACH|EHOSTDOWN|ENETUNREACH|ENETDOWN|EADDRNOTAVAIL)$/, 'host-unreachable'],
  [/^ETIMEDOUT$/, 'no-answer'],
  [/^(ECONNRESET|EPIPE|ECONNABORTED|ERR_STREAM_DESTROYED|08...)$/, 'connection-lost'],
  [/CERT|^UNABLE_TO_VERIFY|^UNABLE_TO_GET|^HOSTNAME_MISMATCH$|^ERR_TLS|^ERR_SSL/, 'tls-refused'],
  [/^57P03$/, 'starting-up'],
  [/^57P..$/, 'session-ended'],
  [/^53300$/, 'too-many-connections'],
  [/^53...$/, 'out-of-resources'],
  [/^3D000$/, 'no-such-database'],
  [/^28...$/, 'login-refused'],
  [/^42501$/, 'permission-denied'],
  [/^25006$/, 'read-only'],
  [/^other-database$/, 'other-database'],
  [/^(55P03|40001|40P01)$/, 'locked'],
  [/^(57014|25P03|25P04)$/, 'too-slow'],
  [/^(22|23|54)...$/, 'row-refused'],
  [/^(42P01|3F000)$/, 'no-schema'],
  // Only a pooler makes prepared statements vanish or exist already.
  [/^(26000|42P05)$/, 'transaction-pooler'],
];

/** Messages of errors of pg and of this program, which have no code. */
const MESSAGES: readonly (readonly [RegExp, DatabaseCause])[] = [
  [/^timeout expired$|^Query read timeout$|^PostgreSQL does not answer/, 'no-answer'],
  [
    /^Connection terminated|^Connection closed|is not queryable$|^Client network socket disconnected/,
    'connection-lost',
  ],
  [/^SASL/, 'login-refused'],
  [/does not support SSL|^There was an error establishing an SSL connection/, 'tls-refused'],
  [/^The database has no schema of ours yet/, 'no-schema'],
];

/** The problem behind an error of a statement or a connection. Searches its chain of causes, from the outside. */
export function databaseProblem(error: unknown): DatabaseProblem {
  let innermost = error;
  for (const at of causesOf(error)) {
    if (isProblem(at)) return at;
    if (at instanceof NoHostError) return problemOfHosts(at);
    const code = errorCode(at);
    const byCode = CODES.find(([pattern]) => pattern.test(code))?.[1];
    if (byCode !== undefined) return { cause: byCode, reason: `${databaseCauses[byCode]} (${reported(at)})` };
    const message = at instanceof Error ? at.message : '';
    const byMessage = MESSAGES.find(([pattern]) => pattern.test(message))?.[1];
    if (byMessage !== undefined) return { cause: byMessage, reason: databaseCauses[byMessage] };
    innermost = at;
  }
  return { cause: 'other', reason: `${databaseCauses.other} (${reported(innermost)})` };
}

/** The common cause of all hosts; `no-host` where they differ, as in most failovers. */
function problemOfHosts({ failures }: NoHostError): DatabaseProblem {
  const problems = failures.map(({ host, error }) => ({ host, ...databaseProblem(error) }));
  const reasons = problems.map(({ host, reason }) => `${host}: ${reason}`).join('; ');
  const causes = new Set(problems.map(({ cause }) => cause));
  const [only] = causes;
  const cause = only !== undefined && causes.size === 1 ? only : 'no-host';
  return { cause, reason: `${databaseCauses['no-host']} (${reasons})` };
}

function reported(error: unknown): string {
  const message = reasonOf(error);
  return error instanceof pg.DatabaseError ? `${message}, SQLSTATE ${errorCode(error)}` : message;
}

/** The cause of an error may be a problem that another thread found. */
function isProblem(value: unknown): value is DatabaseProblem {
  return (
    typeof value === 'object' &&
    value !== null &&
    'cause' in value &&
    'reason' in value &&
    typeof value.cause === 'string' &&
    value.cause in databaseCauses
  );
}
