/** The statements of the transaction that takes a stream, between `begin` and `commit`. */
import * as sql from '#product/db/statements.js';
import {
  columnsOf,
  newEpoch,
  type Plan,
  planForRow,
  PRUNING_LOCK,
  rowLock,
  type StatementContext,
  type StatementMeaning,
} from './statement.js';
import { type CheckpointRow, type ClaimRow, isOpen } from './tables.js';
import { secondsOf } from './values.js';

/** By text. */
export const takingStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.LOCK_PRUNED_BEFORE, lockPrunedBefore],
  [sql.LOCK_CHECKPOINT, lockCheckpoint],
  [sql.READ_CLAIMS, readClaims],
  [sql.MAKE_CHECKPOINT, makeCheckpoint],
  [sql.TAKE_CHECKPOINT, takeCheckpoint],
];

function lockPrunedBefore({ server, transaction }: StatementContext): Plan {
  const mutated = server.mutations.prunedBeforeReadFirst === true;
  if (mutated) transaction.readEarly = server.tables.pruning.prunedBefore;
  return { lock: { name: PRUNING_LOCK, mode: 'share' }, run: () => [{ '?column?': 1 }] };
}

function lockCheckpoint(context: StatementContext): Plan {
  const { server, transaction, values, arrivedAt } = context;
  const { takeWithoutRowLock, newRowWithoutPruningLock, retiredRowWithoutPruningLock } = server.mutations;
  const [stream] = values as [string];
  const plan = planForRow(
    context,
    stream,
    () => true,
    (row) => {
      const mutated =
        row === undefined ? newRowWithoutPruningLock : row.retiredAt !== undefined && retiredRowWithoutPruningLock;
      if (mutated === true) server.locks.release(PRUNING_LOCK, transaction);
      return [{ database_time: secondsOf(arrivedAt), ...columnsOf(row) }];
    },
  );
  return takeWithoutRowLock === true ? { run: plan.run } : plan;
}

function readClaims({ transaction, values }: StatementContext): Plan {
  const [stream] = values as [string];
  const run: Plan['run'] = () =>
    transaction.claims(stream).map(({ claim, epoch, lsn }) => ({ claim, epoch: String(epoch), lsn: String(lsn) }));
  return { run };
}

function makeCheckpoint(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const [stream, , , node, shard, journal, lsn] = values as [string, unknown, unknown, string, number, string, unknown];
  const run: Plan['run'] = () => {
    const facts = { epoch: keepClaims(context), lsn: Number(lsn), node, shard, journal, owner: undefined };
    const row = newRow(context, facts);
    if (transaction.checkpoint(stream) === undefined) {
      transaction.setCheckpoint(stream, row);
      return [columnsOf(row)];
    }
    server.locks.release(rowLock(stream), transaction);
    return [];
  };
  if (transaction.checkpoint(stream) !== undefined) return { run };
  // The unique index makes it wait for another transaction that is making the row.
  return { lock: { name: rowLock(stream), mode: 'exclusive' }, run };
}

function takeCheckpoint(context: StatementContext): Plan {
  const { transaction, values } = context;
  const [stream] = values as [string];
  return planForRow(
    context,
    stream,
    () => true,
    (row) => {
      const epoch = keepClaims(context);
      if (row === undefined) {
        endPruningLockEarly(context);
        return [];
      }
      const taken = takenRow(context, row, epoch);
      transaction.setCheckpoint(stream, taken);
      return [columnsOf(taken)];
    },
  );
}

/** The row of a new stream. */
export function newRow(
  context: StatementContext,
  facts: Pick<CheckpointRow, 'epoch' | 'lsn' | 'node' | 'shard' | 'journal' | 'owner'> & {
    readonly store?: string | null;
  },
): CheckpointRow {
  const { server, transaction } = context;
  const { newRowCoversAll, newRowAcceptedNow } = server.mutations;
  const prunedBefore = prunedBeforeOf(context);
  endPruningLockEarly(context);
  return {
    ...facts,
    acceptedThrough: newRowAcceptedNow === true ? transaction.beganAt : prunedBefore,
    coveredFrom: newRowCoversAll === true ? Number.NEGATIVE_INFINITY : prunedBefore,
    heardAt: transaction.beganAt,
    closedAt: undefined,
    retiredAt: undefined,
    store: facts.store ?? null,
  };
}

/** A row as a taking leaves it. */
export function takenRow(context: StatementContext, row: CheckpointRow, epoch: number): CheckpointRow {
  const { server, transaction } = context;
  const { retiredRowKeepsCover, reopenedRowAcceptedNow, takeKeepsEpoch } = server.mutations;
  const prunedBefore = prunedBeforeOf(context);
  endPruningLockEarly(context);
  const wasOpen = isOpen(row);
  const keepsCover = wasOpen || (retiredRowKeepsCover === true && row.retiredAt !== undefined);
  return {
    ...row,
    epoch: takeKeepsEpoch === true ? row.epoch : epoch,
    heardAt: transaction.beganAt,
    closedAt: undefined,
    retiredAt: undefined,
    coveredFrom: keepsCover ? row.coveredFrom : Math.max(row.coveredFrom, prunedBefore),
    acceptedThrough: !wasOpen && reopenedRowAcceptedNow === true ? transaction.beganAt : row.acceptedThrough,
  };
}

/** As KEEP_CLAIMS. Returns the epoch of the last claim. */
function keepClaims({ server, transaction, values }: StatementContext): number {
  const [stream, claims, ends] = values as [string, readonly string[], readonly unknown[]];
  const known = transaction.claims(stream).toReversed();
  const added = claims.map((claim, index): ClaimRow => ({ claim, lsn: Number(ends[index]), epoch: newEpoch(server) }));
  const oldest = known[Math.max(0, sql.CLAIMS_MAX - 1 - claims.length)];
  transaction.addClaims(stream, added, oldest?.epoch ?? Number.NEGATIVE_INFINITY);
  return Math.max(...added.map(({ epoch }) => epoch));
}

/** `pruned_before`, as a taking sees it. */
function prunedBeforeOf({ server, transaction }: StatementContext): number {
  const mutated = server.mutations.prunedBeforeReadFirst === true;
  return mutated ? (transaction.readEarly ?? transaction.pruning.prunedBefore) : transaction.pruning.prunedBefore;
}

/** {@link DatabaseMutations.pruningLockEndsEarly} */
function endPruningLockEarly({ server, transaction }: StatementContext): void {
  const mutated = server.mutations.pruningLockEndsEarly === true;
  if (mutated) server.locks.release(PRUNING_LOCK, transaction);
}
