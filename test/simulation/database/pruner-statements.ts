/** The statements of the pruner, and those of operators. */
import * as sql from '#product/db/upkeep-statements.js';
import {
  horizonOf,
  newEpoch,
  type Plan,
  planForRow,
  PRUNING_LOCK,
  rowLock,
  type StatementContext,
  type StatementMeaning,
} from './statement.js';
import type { CheckpointRow } from './tables.js';
import { type Row, textOfTime, timeOf } from './values.js';

/** By text. */
export const prunerStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.TRY_PRUNER_LOCK, tryPrunerLock],
  [sql.PRUNER_UNLOCK, unlockPruner],
  [sql.NOTE_PRUNER_ROUND, notePrunerRound],
  [sql.FIND_EXPIRED_STREAMS, findExpiredStreams],
  [sql.EXPIRE_STREAM, expireStream],
  [sql.RETIRE_DEAD_STREAM, retireDeadStream],
  [sql.LOCK_PRUNING, lockPruning],
  [sql.ADVANCE_PRUNED_BEFORE, advancePrunedBefore],
  [sql.PRUNE_IDEMPOTENCY_KEYS, pruneIdempotencyKeys],
  [sql.PRUNE_TOMBSTONES, pruneTombstones],
  [sql.PRUNE_DELETES, () => ({ run: () => [{ pruned: 0 }] })],
];

const pruningLock = { name: PRUNING_LOCK, mode: 'exclusive' } as const;

/** The lock of a session that is gone ends when the server notices. */
function tryPrunerLock({ server, session }: StatementContext): Plan {
  const run = (): Row[] => {
    const { prunerSession } = server;
    const isNoticed = prunerSession?.clientIsGone === true && server.below(2) === 0;
    if (prunerSession === undefined || isNoticed) server.prunerSession = session;
    return [{ locked: server.prunerSession === session }];
  };
  return { run };
}

function unlockPruner({ server, session }: StatementContext): Plan {
  const run = (): Row[] => {
    if (server.prunerSession === session) server.prunerSession = undefined;
    return [{ pg_advisory_unlock: true }];
  };
  return { run };
}

function notePrunerRound({ server, transaction }: StatementContext): Plan {
  const run = (): Row[] => {
    const { beganAt: now, pruning } = transaction;
    const isGap = pruning.prunedAt < now - server.clock.span(server.clock.scale.gapMs);
    transaction.pruning = { ...pruning, prunedAt: now, gapAt: isGap ? now : pruning.gapAt };
    return [];
  };
  return { lock: pruningLock, run };
}

function findExpiredStreams(context: StatementContext): Plan {
  const [days, limit] = context.values as [number, number];
  const run = (): Row[] => {
    const { checkpoints } = context.server.tables;
    const expired = [...checkpoints].filter(([, row]) => isExpired(context, row, days)).map(([stream]) => stream);
    return expired
      .sort()
      .slice(0, limit)
      .map((stream) => ({ stream }));
  };
  return { run };
}

function expireStream(context: StatementContext): Plan {
  const { server, transaction } = context;
  const [days, stream] = context.values as [number, string];
  const mutated = server.mutations.expireKeepsEpoch === true;
  return planForRow(
    context,
    stream,
    (row) => isExpired(context, row, days),
    (row) => {
      if (row === undefined) return [];
      const epoch = mutated ? row.epoch : newEpoch(server);
      transaction.setCheckpoint(stream, { ...row, retiredAt: transaction.beganAt, epoch });
      transaction.atCommit(() => server.expired(stream));
      const { lsn, node, shard, journal, heardAt, closedAt } = row;
      const closed = closedAt !== undefined;
      return [{ lsn: String(lsn), node, shard, journal, heard_at: new Date(heardAt), closed }];
    },
  );
}

function isExpired({ server, transaction }: StatementContext, row: CheckpointRow, days: number): boolean {
  const { clock, tables } = server;
  const { expiryDayMs, hourMs, queueExpiryMs = Number.POSITIVE_INFINITY } = clock.scale;
  const now = transaction.beganAt;
  if (row.retiredAt !== undefined || tables.pruning.gapAt >= now - clock.span(hourMs)) return false;
  if (row.journal === 'file') return days > 0 && row.heardAt < now - clock.span(days * expiryDayMs);
  if (row.journal === 'sqs') return row.heardAt < now - clock.span(queueExpiryMs);
  return row.journal === 'memory' && row.heardAt < now - clock.span(hourMs);
}

function retireDeadStream(context: StatementContext): Plan {
  const { server, transaction } = context;
  const { clock } = server;
  const [stream] = context.values as [string];
  return planForRow(
    context,
    stream,
    ({ retiredAt, heardAt }) =>
      retiredAt === undefined && heardAt < transaction.beganAt - clock.span(clock.scale.marginMs),
    (row) => {
      if (row === undefined) return [];
      transaction.setCheckpoint(stream, { ...row, retiredAt: transaction.beganAt, epoch: newEpoch(server) });
      transaction.atCommit(() => server.retired(stream));
      return [{ '?column?': 1 }];
    },
  );
}

function lockPruning({ server, transaction }: StatementContext): Plan {
  const mutated = server.mutations.horizonBeforeLock === true;
  if (mutated) transaction.readEarly = horizonOf(server.tables, transaction.beganAt);
  return { lock: pruningLock, run: () => [{ '?column?': 1 }] };
}

function advancePrunedBefore({ server, transaction }: StatementContext): Plan {
  const { prunerWithoutGreatest, prunedBeforeWithDeletion } = server.mutations;
  const run = (): Row[] => {
    const { beganAt: now, pruning } = transaction;
    // Read early in a mutation only.
    const horizon = transaction.readEarly ?? horizonOf(server.tables, now);
    const prunedBefore = prunerWithoutGreatest === true ? horizon : Math.max(pruning.prunedBefore, horizon);
    if (prunedBeforeWithDeletion !== true) transaction.pruning = { ...pruning, prunedBefore };
    return [{ horizon: textOfTime(horizon), held_seconds: Math.max(0, (now - Math.max(horizon, 0)) / 1000) }];
  };
  return { lock: pruningLock, run };
}

function pruneIdempotencyKeys({ server, transaction, values }: StatementContext): Plan {
  const { noMargin, prunedBeforeWithDeletion } = server.mutations;
  const { clock } = server;
  const [hours, limit, horizonText] = values as [number, number, unknown];
  const run = (): Row[] => {
    const { tokens } = server.tables;
    const horizon = timeOf(horizonText) ?? Number.NEGATIVE_INFINITY;
    const margin = noMargin === true ? 0 : clock.scale.marginMs;
    const before = horizon - clock.span(hours * clock.scale.windowHourMs + margin);
    const pruned = [...tokens].filter(([, { claimedAt }]) => claimedAt < before).slice(0, limit);
    transaction.atCommit(() => {
      for (const [token, row] of pruned) if (tokens.get(token) === row) tokens.delete(token);
      if (prunedBeforeWithDeletion !== true) return;
      const { pruning } = server.tables;
      server.tables.pruning = { ...pruning, prunedBefore: Math.max(pruning.prunedBefore, horizon) };
    });
    return [{ pruned: pruned.length }];
  };
  return { run };
}

function pruneTombstones({ server, transaction, values }: StatementContext): Plan {
  const { clock } = server;
  const [hours, limit] = values as [number, number];
  const before = transaction.beganAt - clock.span(hours * clock.scale.windowHourMs + clock.scale.tombstoneMs);
  const run = (): Row[] => {
    const { checkpoints, claims } = server.tables;
    const journals = ['memory', ...(clock.scale.queueExpiryMs === undefined ? [] : ['sqs'])];
    const isPruned = ({ journal, retiredAt }: CheckpointRow): boolean =>
      journals.includes(journal) && retiredAt !== undefined && retiredAt < before;
    // `for update skip locked`
    const found = [...checkpoints]
      .filter(([stream, row]) => isPruned(row) && !server.locks.isHeldByOther(rowLock(stream), transaction))
      .slice(0, limit);
    for (const [stream] of found) server.locks.acquire(rowLock(stream), transaction, 'exclusive', () => undefined);
    transaction.atCommit(() => {
      for (const [stream] of found) {
        checkpoints.delete(stream);
        claims.delete(stream);
      }
    });
    return [{ pruned: found.length }];
  };
  return { run };
}
