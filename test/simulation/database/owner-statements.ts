/** The statements that the owner of a stream sends under its epoch, each a transaction of its own. */
import * as sql from '#product/db/statements.js';
import { decodeFlush, type DecodedFlush, type FlushEffect, type FlushedSum } from './flush-effect.js';
import {
  columnsOf,
  type Plan,
  planForRow,
  rowLock,
  type StatementContext,
  type StatementMeaning,
} from './statement.js';
import { add, type CheckpointRow, isOpen } from './tables.js';
import {
  COUNTERS,
  IDEMPOTENCY_KEYS,
  isDropped,
  isPoison,
  notWritten,
  refusal,
  type Row,
  secondsOf,
  timeOf,
} from './values.js';

/** The statements that move a checkpoint. */
export const FLUSHES: readonly string[] = [sql.FLUSH, sql.FLUSH_WITH_IDEMPOTENCY_KEYS, sql.FLUSH_WITH_REJECTED];

/** By text. */
export const ownerStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.READ_BACK, readBack],
  [sql.TOUCH_CHECKPOINT, touch],
  [sql.CLOSE_STREAM, close],
  [sql.RETIRE_STREAM, retire],
  ...FLUSHES.map((text) => [text, flush] as const),
];

/** The time by which a node's clock is ahead in {@link DatabaseMutations.acceptedThroughOfNode}. */
const NODE_AHEAD_HOURS = 2;

function readBack(context: StatementContext): Plan {
  const [stream] = context.values as [string];
  return planForRow(
    context,
    stream,
    () => true,
    (row) => (row === undefined ? [] : [columnsOf(row)]),
  );
}

function touch(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const { touchComparesNothing, touchComparesLsnOnly } = server.mutations;
  const [stream, , , time] = values as [string, unknown, unknown, unknown];
  const fits = (row: CheckpointRow): boolean =>
    touchComparesNothing === true || isAt(context, row, touchComparesLsnOnly === true);
  const update = (row: CheckpointRow | undefined): Row[] => {
    if (row === undefined) return [];
    const acceptedThrough = Math.max(row.acceptedThrough, timeOf(time) ?? Number.NEGATIVE_INFINITY);
    transaction.setCheckpoint(stream, { ...row, acceptedThrough, heardAt: transaction.beganAt });
    return [{ database_time: secondsOf(transaction.beganAt) }];
  };
  return madeAnew(context, fits, update) ?? planForRow(context, stream, fits, update);
}

function close(context: StatementContext): Plan {
  const { server, transaction } = context;
  const ignoresEpoch = server.mutations.closeComparesLsnOnly === true;
  return endOf(context, ignoresEpoch, (row) => ({ closedAt: row.closedAt ?? transaction.beganAt }));
}

function retire(context: StatementContext): Plan {
  const { transaction } = context;
  return endOf(context, false, (row) => ({ retiredAt: row.retiredAt ?? transaction.beganAt }));
}

function endOf(
  context: StatementContext,
  ignoresEpoch: boolean,
  change: (row: CheckpointRow) => Partial<CheckpointRow>,
): Plan {
  const { transaction, values } = context;
  const [stream] = values as [string];
  return planForRow(
    context,
    stream,
    (row) => isAt(context, row, ignoresEpoch),
    (row) => {
      if (row === undefined) return [];
      transaction.setCheckpoint(stream, { ...row, ...change(row), heardAt: transaction.beganAt });
      return [{ '?column?': 1 }];
    },
  );
}

function flush(context: StatementContext): Plan {
  const { server, transaction } = context;
  const { mutations } = server;
  const flushed = decodeFlush(context.values);
  const { stream, from, to } = flushed;
  const ignoresEpoch = mutations.firstFlushIgnoresEpoch === true && from === 0;
  const fits = (row: CheckpointRow): boolean =>
    isAt(context, row, ignoresEpoch) && (isOpen(row) || mutations.fenceIgnoresState === true);
  const run = (row: CheckpointRow | undefined): Row[] => {
    const names = flushed.tokens.map(([token]) => token);
    const result: Row = {
      fenced: row === undefined ? 0 : 1,
      claimed: 0,
      keys: row === undefined ? 0 : flushed.increments.length,
      unclaimed: names.length === 0 ? null : names,
      database_time: secondsOf(transaction.beganAt),
    };
    if (row === undefined) return [result];
    requireWritten(context, flushed);
    const written = writtenOf(context, flushed);
    const acceptedThrough = Math.max(row.acceptedThrough, acceptedThroughOf(context, flushed));
    transaction.setCheckpoint(stream, { ...row, lsn: to, acceptedThrough, heardAt: transaction.beganAt });
    transaction.atCommit(() => {
      if (mutations.separateTransactions === true) {
        server.after(server.below(30), () => server.committed(apply(context, written, {})));
      } else {
        transaction.flushed = apply(context, written, result);
      }
    });
    return [result];
  };
  return madeAnew(context, fits, run) ?? planForRow(context, stream, fits, run);
}

/** Throws where PostgreSQL refuses rows, or the statement sees that they were not written. */
function requireWritten({ server, arrivedAt }: StatementContext, { increments, tokens }: DecodedFlush): void {
  const { mutations, dropsRows, dropsTokens } = server;
  if (increments.some(({ key }) => isPoison(key) && !isDropped(key))) throw refusal('54000');
  const written = increments.filter(({ key }) => !dropsRows && !isDropped(key)).length;
  if (written < increments.length && mutations.droppedRowsPass !== true) throw notWritten(written, COUNTERS);
  if (mutations.unseenIsDuplicate === true) return;
  const isUnseen = tokens.some(([token]) => {
    const recorded = server.tables.tokens.get(token);
    // One that was recorded since the statement began is not in its snapshot.
    return recorded === undefined ? dropsTokens : recorded.claimedAt > arrivedAt;
  });
  if (isUnseen) throw notWritten(1, IDEMPOTENCY_KEYS);
}

/** What a trigger lets through. */
function writtenOf({ server: { dropsRows, dropsTokens } }: StatementContext, flushed: DecodedFlush): DecodedFlush {
  const increments = flushed.increments.filter(({ key }) => !dropsRows && !isDropped(key));
  return { ...flushed, increments, isWithoutTokens: dropsTokens };
}

/** What happens to the other tables. Completes the row of the result. */
function apply({ server, transaction }: StatementContext, flushed: DecodedFlush, result: Row): FlushEffect {
  const { stream, epoch, from, to } = flushed;
  const { tokens, counters, rejected, uncovered } = server.tables;
  const claimed = new Set<string>();
  for (const [token, digest] of flushed.tokens) {
    if (tokens.has(token) || flushed.isWithoutTokens === true) continue;
    claimed.add(token);
    tokens.set(token, { digest, claimedAt: transaction.beganAt });
  }
  const counts = ({ token }: FlushedSum): boolean => token === undefined || claimed.has(token);
  const added = flushed.increments.filter(counts);
  const setAside = flushed.rejected.filter(counts);
  for (const { key, amount } of added) add(counters, key, amount);
  for (const { key, amount } of setAside) add(rejected, key, amount);
  uncovered.push(...flushed.uncovered);
  const unclaimed = flushed.tokens.map(([token]) => token).filter((token) => !claimed.has(token));
  Object.assign(result, { claimed: claimed.size, unclaimed: unclaimed.length === 0 ? null : unclaimed });
  const sums = [...added, ...setAside].map(({ key, amount }) => [key, amount] as const);
  return { stream, epoch, from, to, sums, uncovered: flushed.uncovered };
}

function acceptedThroughOf({ server, transaction }: StatementContext, { acceptedThrough }: DecodedFlush): number {
  const { acceptedThroughOfNode, acceptedThroughCapped } = server.mutations;
  const { clock } = server;
  if (acceptedThroughOfNode === true) {
    return transaction.beganAt + clock.span(NODE_AHEAD_HOURS * clock.scale.windowHourMs);
  }
  return Math.min(acceptedThroughCapped === true ? Infinity : acceptedThrough, transaction.beganAt);
}

/** Whether the row is at the epoch and the LSN of the statement. */
export function isAt({ server, values }: StatementContext, row: CheckpointRow, ignoresEpoch: boolean): boolean {
  const mutated = ignoresEpoch || server.mutations.ignoreEpoch === true;
  const [, epoch, lsn] = values;
  return (mutated || row.epoch === Number(epoch)) && row.lsn === Number(lsn);
}

/** {@link DatabaseMutations.makeRowAnew}: the plan where the row is missing. */
function madeAnew(
  { server, transaction, values }: StatementContext,
  fits: (row: CheckpointRow) => boolean,
  run: (row: CheckpointRow | undefined) => Row[],
): Plan | undefined {
  const [stream, epoch] = values as [string, unknown];
  if (server.mutations.makeRowAnew !== true || transaction.checkpoint(stream) !== undefined) return undefined;
  const made: CheckpointRow = {
    epoch: Number(epoch),
    lsn: 0,
    acceptedThrough: Number.NEGATIVE_INFINITY,
    coveredFrom: Number.NEGATIVE_INFINITY,
    heardAt: transaction.beganAt,
    closedAt: undefined,
    retiredAt: undefined,
    node: '',
    shard: 0,
    journal: 'file',
    owner: undefined,
    store: null,
  };
  const makeAndRun = (): Row[] => {
    if (transaction.checkpoint(stream) === undefined) transaction.setCheckpoint(stream, made);
    const row = transaction.checkpoint(stream);
    return run(row !== undefined && fits(row) ? row : undefined);
  };
  return { lock: { name: rowLock(stream), mode: 'exclusive' }, run: makeAndRun };
}
