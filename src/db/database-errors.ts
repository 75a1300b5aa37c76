/**
 * Classifies errors of PostgreSQL and of the network. Any thread.
 */
import pg from 'pg';
import { reasonOf } from '../core/errors.js';

/**
 * - `unreachable`: no server answers, or it is not ready; wait.
 * - `retry`: the same statement may succeed later.
 * - `refused`: the server answers and does not accept this client; an operator must change something.
 * - `poison`: a value in the statement is the reason; the same statement fails for ever.
 * - `other`: none of these; a bug of this program or of PostgreSQL.
 */
export type DatabaseErrorKind = 'unreachable' | 'retry' | 'refused' | 'poison' | 'other';

/**
 * The connection was lost, or a timeout passed, after a statement was sent and before its reply. The statement may be
 * committed, or commit later, or never. Read the checkpoint back first.
 */
export class OutcomeUnknownError extends Error {
  override readonly name = 'OutcomeUnknownError';
}

/** The server answered a statement with an error: nothing is committed. `kind` tells whether a retry can succeed. */
export class StatementRefusedError extends Error {
  override readonly name = 'StatementRefusedError';
  readonly sqlState: string;
  readonly kind: DatabaseErrorKind;

  constructor(message: string, sqlState: string, kind: DatabaseErrorKind, options?: ErrorOptions) {
    super(message, options);
    this.sqlState = sqlState;
    this.kind = kind;
  }
}

/** A session was closed, because it cannot write and DATABASE_URL asks for one that can. */
export class ReadOnlySessionError extends Error {
  override readonly name = 'ReadOnlySessionError';
  /** The code with which PostgreSQL would refuse a write. */
  readonly code = '25006';
}

/** The database is not the one that it should be. The message says what an operator can do. */
export class OtherDatabaseError extends Error {
  override readonly name = 'OtherDatabaseError';
  readonly code = 'other-database';
}

/** Why one host of a list cannot be used. */
export interface HostFailure {
  /** Name and port. */
  readonly host: string;
  readonly error: unknown;
}

/** No host of a list can be used. The message names each with its reason. */
export class NoHostError extends Error {
  override readonly name = 'NoHostError';
  /** In the order of the attempts; at least two. */
  readonly failures: readonly HostFailure[];

  constructor(failures: readonly HostFailure[]) {
    super(`no host can be used: ${failures.map(({ host, error }) => `${host}: ${reasonOf(error)}`).join('; ')}`);
    this.failures = failures;
  }
}

const UNREACHABLE = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'EHOSTDOWN',
  'ENETUNREACH',
  'ENETDOWN',
  'EADDRNOTAVAIL',
  'ENOENT',
  // OtherDatabaseError: an operator decides, and journals take increments meanwhile.
  'other-database',
  // cannot_connect_now (starting up, shutting down), too_many_connections
  '57P03',
  '53300',
]);

const RETRY = new Set([
  'ECONNRESET',
  'EPIPE',
  'ECONNABORTED',
  'ERR_STREAM_DESTROYED',
  // lock_not_available, query_canceled, serialization_failure, deadlock_detected, read_only_sql_transaction (a failover)
  '55P03',
  '57014',
  '40001',
  '40P01',
  '25006',
  // idle_in_transaction_session_timeout, transaction_timeout
  '25P03',
  '25P04',
  // system_error, io_error: a resource of the server
  '58000',
  '58030',
]);

const REFUSED = new Set([
  // insufficient_privilege, invalid_catalog_name (no such database), invalid_schema_name (nowhere to create in)
  '42501',
  '3D000',
  '3F000',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'CERT_HAS_EXPIRED',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'HOSTNAME_MISMATCH',
]);

const BY_HOPE = ['retry', 'unreachable', 'other', 'poison', 'refused'] as const satisfies readonly DatabaseErrorKind[];

/** Messages of pg, whose own errors have no code. */
const MESSAGES: readonly (readonly [RegExp, DatabaseErrorKind])[] = [
  [/^timeout expired$/, 'unreachable'],
  [/^Query read timeout$|^Connection terminated|is not queryable$|^Client network socket disconnected/, 'retry'],
  [/^SASL|does not support SSL|^There was an error establishing an SSL connection/, 'refused'],
];

/** The `code` of a system or PostgreSQL error, or ''. */
export function errorCode(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string'
    ? error.code
    : '';
}

/** The kind of an error of pg or of the network. For a list of hosts, the most hopeful kind. */
export function classifyDatabaseError(error: unknown): DatabaseErrorKind {
  if (error instanceof NoHostError) {
    const kinds = new Set(error.failures.map((failure) => classifyDatabaseError(failure.error)));
    return BY_HOPE.find((kind) => kinds.has(kind)) ?? 'other';
  }
  const code = errorCode(error);
  if (UNREACHABLE.has(code)) return 'unreachable';
  if (RETRY.has(code)) return 'retry';
  if (REFUSED.has(code)) return 'refused';
  if (error instanceof pg.DatabaseError) return classifySqlState(code);
  const message = error instanceof Error ? error.message : '';
  return MESSAGES.find(([pattern]) => pattern.test(message))?.[1] ?? 'other';
}

function classifySqlState(code: string): DatabaseErrorKind {
  if (code.startsWith('57P')) return 'retry';
  switch (code.slice(0, 2)) {
    // Connection exceptions, rollbacks, insufficient resources (disk full, out of memory).
    case '08':
    case '40':
    case '53':
      return 'retry';
    // Invalid authorization: password, role, pg_hba.conf.
    case '28':
      return 'refused';
    // Data exceptions, constraint violations, program limits (an index row too large).
    case '22':
    case '23':
    case '54':
      return 'poison';
    default:
      return 'other';
  }
}

/**
 * True where the server answered the statement with an error and continues: nothing is committed. False where the outcome is
 * unknown: the connection is lost, or the server reported its own shutdown. PostgreSQL translates the severity. A severity in
 * another language is accepted only for error classes that never end a session.
 */
export function isStatementRefused(error: unknown): error is pg.DatabaseError {
  if (!(error instanceof pg.DatabaseError)) return false;
  const code = error.code ?? '';
  if (code.startsWith('57P') || code.startsWith('08') || code === '25P03' || code === '25P04') return false;
  if (error.severity === 'ERROR') return true;
  return error.severity !== 'FATAL' && error.severity !== 'PANIC' && /^(21|22|23|40|42|54|55)/.test(code);
}
