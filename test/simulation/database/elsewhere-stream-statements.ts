/** The statements on streams whose records are elsewhere. */
import * as sql from '#product/db/stream-statements.js';
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
export const elsewhereStreamStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.MAKE_STREAM, makeStream],
  [sql.SEND_HEARTBEATS_WITHOUT_ROW, sendHeartbeats],
  [sql.KNOWN_STREAMS, knownStreams],
  [sql.TAKE_OPEN_STREAM, takeOpenStream],
  [sql.REOPEN_STREAM, reopenStream],
  [sql.TOUCH_STREAM, touchStream],
  [sql.LOOK_AT_STREAM, lookAtStream],
  [sql.RETIRE_STREAM_ELSEWHERE, retireStream],
  [sql.FORGET_STREAM, forgetStream],
  [sql.JOIN_STORE, joinStore],
  [sql.COUNT_STREAMS_ELSEWHERE, countElsewhere],
];

const NEVER = Number.NEGATIVE_INFINITY;

/** Makes the row of a new stream of a journal outside of the database. */
function makeStream(context: StatementContext): Plan {
  const { server, transaction, values, arrivedAt } = context;
  const { newRowWithoutPruningLock } = server.mutations;
  const [stream, node, shard, flusher, journal, isWriter, store] = values as [
    string,
    string,
    number,
    string | null,
    string,
    boolean,
    string | null,
  ];
  const run = (): Row[] => {
    if (transaction.checkpoint(stream) !== undefined) {
      server.locks.release(rowLock(stream), transaction);
      return [];
    }
    const facts = { epoch: newEpoch(server), lsn: 0, node, shard, journal, owner: flusher ?? undefined, store };
    const row = newRow(context, facts);
    if (newRowWithoutPruningLock === true) server.locks.release(PRUNING_LOCK, transaction);
    transaction.setCheckpoint(stream, row);
    if (journal === 'nats' && transaction.stream(stream) === undefined)
      transaction.setStream(stream, { epoch: row.epoch, node, shard, flusher: row.owner, retiredAt: undefined });
    if (isWriter) transaction.atCommit(() => noteAlive(context, stream, false, true));
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

function sendHeartbeats(context: StatementContext): Plan {
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
          store: row.store,
        },
      ];
    });
  return { run };
}

/** How long a tombstone stays, in ms of the world. */
function tombstoneMs({ clock: { scale } }: StatementContext['server'], hours: number): number {
  return hours * scale.windowHourMs + scale.tombstoneMs;
}

function takeOpenStream(context: StatementContext): Plan {
  const [, , lsn] = context.values as [string, string | null, number];
  return takingOf(context, (row) => isOpen(row) && row.lsn >= lsn);
}

function reopenStream(context: StatementContext): Plan {
  return takingOf(context, ({ retiredAt }) => retiredAt !== undefined);
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
function retireStream(context: StatementContext): Plan {
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

function joinStore(context: StatementContext): Plan {
  const { transaction, values } = context;
  const [stream, store] = values as [string, string];
  const fits = (row: CheckpointRow): boolean => row.store === null && row.journal === 'nats';
  return planForRow(context, stream, fits, (row) => {
    if (row === undefined) return [];
    transaction.setCheckpoint(stream, { ...row, store });
    return [{ '?column?': 1 }];
  });
}

function countElsewhere({ server, values }: StatementContext): Plan {
  const [journal, store] = values as [string, string];
  const run = (): Row[] => {
    const rows = [...server.tables.checkpoints.values()];
    const elsewhere = rows.filter(
      (row) => row.journal === journal && row.retiredAt === undefined && row.store !== store,
    );
    return [{ streams: elsewhere.length }];
  };
  return { run };
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
