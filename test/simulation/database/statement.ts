/** What the statements of the simulated database have in common. */
import type { DatabaseClock } from './database-clock.js';
import type { DatabaseMutations } from './database-mutations.js';
import type { FlushEffect } from './flush-effect.js';
import type { LockMode, LockTable } from './locks.js';
import type { SimulatedSession } from './session.js';
import { type CheckpointRow, isOpen, type Tables } from './tables.js';
import type { Transaction } from './transaction.js';
import { type Row, secondsOf } from './values.js';

/** The server, as statements see it. */
export interface Server {
  readonly tables: Tables;
  readonly locks: LockTable;
  readonly clock: DatabaseClock;
  readonly mutations: DatabaseMutations;
  readonly databaseId: string;
  /** A trigger drops every row of counters. */
  readonly dropsRows: boolean;
  /** A trigger drops every row of idempotency_keys. */
  readonly dropsTokens: boolean;
  /** The session that has the pruner's advisory lock. */
  prunerSession: SimulatedSession | undefined;
  /** The pruner has retired a stream. */
  expired(stream: string): void;
  /** An operator has. */
  retired(stream: string): void;
  /** An integer from 0 to `bound` − 1. */
  below(bound: number): number;
  /** Runs a callback later in the life of the server process. */
  after(delayMs: number, callback: () => void): void;
  committed(effect: FlushEffect): void;
  backend(pid: unknown): SimulatedSession | undefined;
  isIdle(session: SimulatedSession): boolean;
  endSession(session: SimulatedSession): void;
}

/** A statement that has arrived. */
export interface StatementContext {
  readonly server: Server;
  readonly session: SimulatedSession;
  /** That of `begin`, or of this statement alone. */
  readonly transaction: Transaction;
  readonly values: readonly unknown[];
  /** `statement_timestamp()`. */
  readonly arrivedAt: number;
}

/** A statement about to run. */
export interface Plan {
  /** The row that it waits for, judged by what it sees as it begins. */
  readonly lock?: { readonly name: string; readonly mode: LockMode };
  /** Runs with the lock, and sees what it waited for. Returns the rows, or how it goes on. Throws a refusal. */
  readonly run: () => Row[] | Plan;
}

/** The meaning of a statement. */
export type StatementMeaning = (context: StatementContext) => Plan;

/** The lock on the row of idempotency_pruning. */
export const PRUNING_LOCK = 'pruning';

/** The lock on a checkpoint's row, or on its making. */
export function rowLock(stream: string): string {
  return `row ${stream}`;
}

/** The lock on a row of journal_streams. */
export function streamLock(stream: string): string {
  return `stream ${stream}`;
}

/** The lock on a record, which the unique index holds until the transaction that inserts it ends. */
export function recordLock(stream: string, lsn: number): string {
  return `record ${stream} ${lsn}`;
}

/**
 * A plan for the row of a stream, as PostgreSQL treats an update or `for update`: it locks a row that fits as the statement
 * begins, and looks again once it has the lock. A row that another transaction is making cannot be seen.
 */
export function planForRow(
  { transaction }: StatementContext,
  stream: string,
  fits: (row: CheckpointRow) => boolean,
  run: (row: CheckpointRow | undefined) => Row[] | Plan,
): Plan {
  const fitting = (): CheckpointRow | undefined => {
    const row = transaction.checkpoint(stream);
    return row !== undefined && fits(row) ? row : undefined;
  };
  if (fitting() === undefined) return { run: () => run(undefined) };
  return { lock: { name: rowLock(stream), mode: 'exclusive' }, run: () => run(fitting()) };
}

/** The columns that takings and looks return; all is null or false where there is no row. */
export function columnsOf(row: CheckpointRow | undefined): Row {
  return {
    epoch: row === undefined ? null : String(row.epoch),
    lsn: row === undefined ? null : String(row.lsn),
    covered_from: secondsOf(row?.coveredFrom ?? 0),
    retired: row?.retiredAt !== undefined,
    closed: row?.closedAt !== undefined,
  };
}

/** As NEW_EPOCH: the next value of the sequence with random low bits. */
export function newEpoch(server: Server): number {
  server.tables.epochs += 1;
  return server.tables.epochs * 2 ** 20 + server.below(2 ** 20);
}

/** The time before which every open stream has committed everything that it accepted. */
export function horizonOf(tables: Tables, now: number): number {
  let horizon = now;
  for (const row of tables.checkpoints.values()) if (isOpen(row)) horizon = Math.min(horizon, row.acceptedThrough);
  return horizon;
}
