/** The statements on streams of the sqs journal, whose records are in a queue. */
import * as sql from '#product/db/sqs-statements.js';
import { isAt } from './owner-statements.js';
import {
  columnsOf,
  newEpoch,
  type Plan,
  planForRow,
  type StatementContext,
  type StatementMeaning,
} from './statement.js';
import { askStream, makeStream, retireStream } from './nats-stream-statements.js';
import { type CheckpointRow, isOpen, type UncoveredRow } from './tables.js';
import { takenRow } from './taking-statements.js';
import type { Row } from './values.js';

/** By text. */
export const sqsStreamStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.MAKE_SQS_STREAM, (context) => makeStream(context, 'sqs')],
  [sql.ASK_SQS_STREAM, askStream],
  [sql.TAKE_SQS_STREAM, takeStream],
  [sql.REOPEN_SQS_STREAM, reopenStream],
  [sql.LOOK_AT_SQS_STREAM, lookAtStream],
  [sql.RETIRE_SQS_STREAM, retireStream],
  [sql.LOCK_SET_ASIDE, lockSetAside],
  [sql.SET_STREAM_ASIDE, setAside],
  [sql.IS_SET_ASIDE, isSetAside],
];

function takeStream(context: StatementContext): Plan {
  const [, , lsn] = context.values as [string, string | null, number];
  return takingOf(context, (row) => isOpen(row) && row.lsn >= lsn);
}

function reopenStream(context: StatementContext): Plan {
  return takingOf(context, () => true);
}

function takingOf(context: StatementContext, fits: (row: CheckpointRow) => boolean): Plan {
  const { server, transaction, values } = context;
  const [stream, flusher] = values as [string, string | null];
  return planForRow(context, stream, fits, (row) => {
    if (row === undefined) return [];
    const taken = { ...takenRow(context, row, newEpoch(server)), owner: flusher ?? undefined };
    transaction.setCheckpoint(stream, taken);
    return [columnsOf(taken)];
  });
}

function lookAtStream(context: StatementContext): Plan {
  const [stream] = context.values as [string];
  const run = (): Row[] => {
    const row = context.transaction.checkpoint(stream);
    const isThere = row !== undefined && isAt(context, row, false) && row.retiredAt === undefined;
    return isThere ? [{ '?column?': 1 }] : [];
  };
  return { run };
}

/** The advisory lock ends with the transaction. */
function lockSetAside({ values }: StatementContext): Plan {
  const [stream] = values as [string];
  return { lock: { name: `advisory ${stream}`, mode: 'exclusive' }, run: () => [{ pg_advisory_xact_lock: '' }] };
}

function setAside(context: StatementContext): Plan {
  const { transaction, values } = context;
  const [stream, keys, amounts, lsns, tokens, digests, seconds] = values as [
    string,
    readonly Buffer[],
    readonly string[],
    readonly number[],
    readonly (string | null)[],
    readonly (Buffer | null)[],
    number,
  ];
  const run = (): Row[] => {
    if (isKept(context, stream, lsns) || transaction.checkpoint(stream) !== undefined) return [];
    const rows = keys.map((key, index): UncoveredRow => ({
      stream,
      lsn: lsns[index] ?? 0,
      key: key.toString(),
      amount: BigInt(amounts[index] ?? 0),
      token: tokens[index] ?? '',
      digest: digests[index] ?? Buffer.alloc(0),
      acceptedAfter: seconds === 0 ? Number.NEGATIVE_INFINITY : 1000 * seconds,
    }));
    transaction.atCommit(() => {
      context.server.tables.uncovered.push(...rows);
      transaction.flushed = { stream: undefined, epoch: 0, from: 0, to: 0, sums: [], uncovered: rows };
    });
    return rows.map(() => ({ '?column?': 1 }));
  };
  return { run };
}

function isKept({ server }: StatementContext, stream: string, lsns: readonly number[]): boolean {
  return server.tables.uncovered.some((row) => row.stream === stream && lsns.includes(row.lsn));
}

function isSetAside(context: StatementContext): Plan {
  const [stream, lsns] = context.values as [string, readonly number[]];
  return { run: () => (isKept(context, stream, lsns) ? [{ '?column?': 1 }] : []) };
}
