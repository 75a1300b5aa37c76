/** The statements on streams of the nats journal, whose records are in a broker. */
import { SHOW_LIFE_WITHOUT_ROW } from '#product/db/log-statements.js';
import * as sql from '#product/db/nats-statements.js';
import { surveyOf } from './log-owner-statements.js';
import { isAt } from './owner-statements.js';
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
import { type CheckpointRow, isOpen } from './tables.js';
import { newRow, takenRow } from './taking-statements.js';
import { type Row, secondsOf } from './values.js';

/** By text. */
export const natsStreamStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.MAKE_NATS_STREAM, (context) => makeStream(context, 'nats')],
  [sql.ASK_NATS_STREAM, askStream],
  [SHOW_LIFE_WITHOUT_ROW, showLife],
  [sql.SURVEY_NATS_STREAMS, (context) => surveyOf(context, 'nats')],
  [sql.KNOWN_NATS_STREAMS, knownStreams],
  [sql.REOPEN_NATS_STREAM, reopenStream],
  [sql.TOUCH_NATS_STREAM, touchStream],
  [sql.RETIRE_NATS_STREAM, retireStream],
  [sql.FORGET_NATS_STREAM, forgetStream],
];

const NEVER = Number.NEGATIVE_INFINITY;

/** Makes the row of a new stream of a journal outside of the database. */
export function makeStream(context: StatementContext, journal: 'nats' | 'sqs'): Plan {
  const { server, transaction, values, arrivedAt } = context;
  const { newRowWithoutPruningLock } = server.mutations;
  const [stream, node, shard, flusher, isWriter] = values as [string, string, number, string | null, boolean?];
  const run = (): Row[] => {
    if (transaction.checkpoint(stream) !== undefined) {
      server.locks.release(rowLock(stream), transaction);
      return [];
    }
    const facts = { epoch: newEpoch(server), lsn: 0, node, shard, journal, owner: flusher ?? undefined };
    const row = newRow(context, facts);
    if (newRowWithoutPruningLock === true) server.locks.release(PRUNING_LOCK, transaction);
    transaction.setCheckpoint(stream, row);
    if (journal === 'nats' && transaction.stream(stream) === undefined)
      transaction.setStream(stream, { epoch: row.epoch, node, shard, flusher: row.owner, retiredAt: undefined });
    if (isWriter === true) transaction.atCommit(() => noteAlive(context, stream, false, true));
    return [{ ...columnsOf(row), database_time: secondsOf(arrivedAt) }];
  };
  if (transaction.checkpoint(stream) !== undefined) return { run: () => [] };
  // The unique index makes it wait for another transaction that is making the row.
  return { lock: { name: rowLock(stream), mode: 'exclusive' }, run };
}

function noteAlive({ server, transaction }: StatementContext, id: string, flushes: boolean, isNew = false): void {
  const { heartbeats } = server.tables;
  const found = heartbeats.get(id);
  if (found !== undefined && isNew) return;
  heartbeats.set(id, { ...(found ?? { flushes, acceptedThrough: NEVER }), aliveAt: transaction.beganAt });
}

/** What the row of a stream says, for a writer whose journal is outside of the database. */
export function askStream({ transaction, values }: StatementContext): Plan {
  const [stream] = values as [string];
  const run = (): Row[] => {
    const row = transaction.checkpoint(stream);
    if (row === undefined) return [];
    const { lsn, epoch } = row;
    const database_time = secondsOf(transaction.beganAt);
    return [{ lsn: String(lsn), epoch: String(epoch), open: isOpen(row), database_time }];
  };
  return { run };
}

function showLife(context: StatementContext): Plan {
  const { transaction, values } = context;
  const [flusher, streams] = values as [string | null, readonly string[]];
  const run = (): Row[] => {
    transaction.atCommit(() => {
      if (flusher !== null) noteAlive(context, flusher, true);
      for (const stream of streams) noteAlive(context, stream, false);
    });
    return [];
  };
  return { run };
}

/** The seconds for which committed records are kept are those of a process. */
function knownStreams({ server, transaction, values }: StatementContext): Plan {
  const [streams, keepSeconds, hours] = values as [readonly string[], number, number];
  const isOlder = ({ retiredAt }: CheckpointRow, worldMs: number): boolean =>
    retiredAt !== undefined && retiredAt < transaction.beganAt - server.clock.span(worldMs);
  const run = (): Row[] =>
    streams.flatMap((stream) => {
      const row = transaction.checkpoint(stream);
      if (row === undefined) return [];
      return [
        {
          stream,
          epoch: String(row.epoch),
          lsn: String(row.lsn),
          retired: row.retiredAt !== undefined,
          due: isOlder(row, 1000 * keepSeconds),
          old: isOlder(row, tombstoneMs(server, hours)),
        },
      ];
    });
  return { run };
}

/** How long a tombstone stays, in ms of the world. */
function tombstoneMs({ clock: { scale } }: StatementContext['server'], hours: number): number {
  return hours * scale.windowHourMs + scale.tombstoneMs;
}

function reopenStream(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const [stream] = values as [string];
  const isRetired = ({ retiredAt }: CheckpointRow): boolean => retiredAt !== undefined;
  return planForRow(context, stream, isRetired, (row) => {
    if (row === undefined) return [];
    transaction.setCheckpoint(stream, { ...takenRow(context, row, newEpoch(server)), owner: undefined });
    return [{ '?column?': 1 }];
  });
}

function touchStream(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const [stream] = values as [string];
  const fits = (row: CheckpointRow): boolean => isAt(context, row, false) && row.retiredAt === undefined;
  return planForRow(context, stream, fits, (row) => {
    if (row === undefined) return [];
    const word = server.mutations.wordOfRollUp === true ? transaction.beganAt : NEVER;
    const acceptedThrough = Math.max(row.acceptedThrough, word);
    transaction.setCheckpoint(stream, { ...row, acceptedThrough, heardAt: transaction.beganAt });
    return [{ '?column?': 1 }];
  });
}

/** Retires a stream whose journal is outside of the database. */
export function retireStream(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const [stream] = values as [string];
  const fits = (row: CheckpointRow): boolean => isAt(context, row, false);
  return planForRow(context, stream, fits, (row) => {
    if (row === undefined) return [];
    const now = transaction.beganAt;
    transaction.setCheckpoint(stream, { ...row, retiredAt: row.retiredAt ?? now, heardAt: now, owner: undefined });
    transaction.atCommit(() => server.tables.heartbeats.delete(stream));
    return [{ '?column?': 1 }];
  });
}

function forgetStream(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const [stream, epoch, hours] = values as [string, unknown, number];
  const before = transaction.beganAt - server.clock.span(tombstoneMs(server, hours));
  const isDue = (row: CheckpointRow): boolean =>
    row.epoch === Number(epoch) && row.retiredAt !== undefined && row.retiredAt < before;
  return planForRow(context, stream, isDue, (row) => {
    if (row === undefined) return [];
    transaction.atCommit(() => {
      server.tables.checkpoints.delete(stream);
      server.tables.streams.delete(stream);
    });
    return [];
  });
}
