/** The statements of those who write streams of the postgres journal. */
import * as log from '#product/db/log-statements.js';
import * as sql from '#product/db/stream-statements.js';
import { decodeBytes, decodeIntegers, decodeTexts } from '../binary-arrays.js';
import {
  columnsOf,
  newEpoch,
  type Plan,
  recordLock,
  rowLock,
  type StatementContext,
  type StatementMeaning,
  streamLock,
} from './statement.js';
import { isOpen, type LogRow, type StreamRow, type Tables } from './tables.js';
import { newRow } from './taking-statements.js';
import { refusal, type Row, secondsOf } from './values.js';

/** The statements that append a group. */
export const APPENDS: readonly string[] = [log.APPEND, log.APPEND_IDEMPOTENT];

/** By text. */
export const logWriterStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.BEGIN_STREAM, beginStream],
  [log.APPEND, append],
  [log.APPEND_IDEMPOTENT, append],
  [log.LAST_LSN, lastLsn],
  [log.AWAIT_STANDBY, awaitStandby],
  [sql.ASK_STREAM, askStream],
  [sql.SEND_HEARTBEATS, sendHeartbeats],
  [sql.END_HEARTBEATS, endHeartbeats],
  [sql.ADVANCE_ACCEPTED_THROUGH, advanceAcceptedThrough],
];

const UNIQUE_VIOLATION = '23505';

function beginStream(context: StatementContext): Plan {
  const { server, transaction, values, arrivedAt } = context;
  const [stream, node, shard, flusher] = values as [string, string, number, string | null];
  const run = (): Row[] => {
    if (server.tables.streams.has(stream)) throw refusal(UNIQUE_VIOLATION);
    const fence = newEpoch(server);
    const owner = flusher ?? undefined;
    const row = newRow(context, { epoch: newEpoch(server), lsn: 0, node, shard, journal: 'postgres', owner });
    transaction.setStream(stream, { epoch: fence, node, shard, flusher: owner, retiredAt: undefined });
    transaction.setCheckpoint(stream, row);
    transaction.atCommit(() => {
      server.tables.heartbeats.set(stream, {
        flushes: false,
        aliveAt: transaction.beganAt,
        acceptedThrough: Number.NEGATIVE_INFINITY,
      });
    });
    return [{ ...columnsOf(row), append_epoch: String(fence), database_time: secondsOf(arrivedAt) }];
  };
  // The unique index makes it wait for another transaction that is making the rows.
  const lockRow: Plan = { lock: { name: rowLock(stream), mode: 'exclusive' }, run };
  return { lock: { name: streamLock(stream), mode: 'exclusive' }, run: () => lockRow };
}

function append(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const { appendWithoutFence, appendWithoutLock, appendOverGap } = server.mutations;
  const [stream, epoch, , first] = values as [string, unknown, unknown, unknown];
  const records = decodeGroup(values, transaction.beganAt);
  const isFence = (row: StreamRow | undefined): boolean => row?.epoch === Number(epoch) && row.retiredAt === undefined;
  const outcome = (fenced: number, appended: number): Row[] => [{ fenced, appended }];
  const isRefused: Plan = { run: () => outcome(0, 0) };
  // The row is locked as it is then. Anything else is as the statement sees it when it begins.
  if (appendWithoutFence !== true && !isFence(transaction.stream(stream))) return isRefused;
  const follows = appendOverGap === true || hasRecordBefore(server.tables, stream, Number(first));
  const insert = (index: number): Plan => {
    const record = records[index];
    if (record === undefined) {
      transaction.atCommit(() => insertRecords(server.tables, stream, records));
      return { run: () => outcome(1, records.length) };
    }
    const run = (): Plan => {
      if (isInLog(server.tables, stream, record.lsn)) throw refusal(UNIQUE_VIOLATION);
      return insert(index + 1);
    };
    return { lock: { name: recordLock(stream, record.lsn), mode: 'exclusive' }, run };
  };
  const run = (): Row[] | Plan => {
    const isStillFence =
      appendWithoutFence === true || appendWithoutLock === true || isFence(transaction.stream(stream));
    if (!isStillFence) return outcome(0, 0);
    return follows ? insert(0) : outcome(1, 0);
  };
  if (appendWithoutFence === true || appendWithoutLock === true) return { run };
  return { lock: { name: streamLock(stream), mode: 'share' }, run };
}

/** The records of an append, as their rows. */
function decodeGroup(values: readonly unknown[], now: number): readonly LogRow[] {
  const [, , after, first] = values.map(Number) as [number, number, number, number];
  const [acceptedAt, firsts, lasts] = values.slice(4, 7) as [number[], number[], number[]];
  const keys = decodeTexts(values[7] as Buffer);
  const amounts = decodeIntegers(values[8] as Buffer);
  const isIdempotent = values.length > 9;
  const idempotencyKeys = isIdempotent ? decodeTexts(values[9] as Buffer) : [];
  const digests = isIdempotent ? decodeBytes(values[11] as Buffer) : [];
  const [requestIncrements, firstRequests, lastRequests] = (
    isIdempotent ? [values[10], values[12], values[13]] : [[], [], []]
  ) as [number[], number[], number[]];
  return acceptedAt.map((at, index): LogRow => {
    const [from, to] = [(firsts[index] ?? 1) - 1, lasts[index]];
    const [fromRequest, toRequest] = [(firstRequests[index] ?? 1) - 1, lastRequests[index] ?? 0];
    const hasRequests = fromRequest < toRequest;
    return {
      lsn: first + index,
      acceptedAt: 1000 * at,
      acceptedAfter: 1000 * after,
      loggedAt: now,
      keys: keys.slice(from, to),
      amounts: amounts.slice(from, to),
      idempotencyKeys: hasRequests ? idempotencyKeys.slice(from, to) : undefined,
      requestIncrements: hasRequests ? requestIncrements.slice(fromRequest, toRequest) : undefined,
      digests: hasRequests ? digests.slice(fromRequest, toRequest) : undefined,
    };
  });
}

function isInLog({ log }: Tables, stream: string, lsn: number): boolean {
  return log.get(stream)?.some((record) => record.lsn === lsn) === true;
}

function hasRecordBefore(tables: Tables, stream: string, first: number): boolean {
  const checkpoint = tables.checkpoints.get(stream)?.lsn ?? -1;
  return first === 1 || isInLog(tables, stream, first - 1) || checkpoint >= first - 1;
}

function insertRecords({ log }: Tables, stream: string, records: readonly LogRow[]): void {
  const all = [...(log.get(stream) ?? []), ...records];
  log.set(
    stream,
    all.sort((a, b) => a.lsn - b.lsn),
  );
}

function lastLsn({ server, transaction, values }: StatementContext): Plan {
  const [stream] = values as [string];
  const run = (): Row[] => {
    const row = transaction.checkpoint(stream);
    if (row === undefined) return [];
    const end = server.tables.log.get(stream)?.at(-1)?.lsn ?? 0;
    return [{ lsn: String(server.mutations.lastLsnOfLogAlone === true ? end : Math.max(row.lsn, end)) }];
  };
  return { run };
}

function awaitStandby(): Plan {
  return { run: () => [{}] };
}

function askStream({ transaction, values }: StatementContext): Plan {
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

function sendHeartbeats({ server, transaction, values }: StatementContext): Plan {
  const [flusher, streams] = values as [string | null, readonly string[]];
  const aliveAt = transaction.beganAt;
  const run = (): Row[] => {
    transaction.atCommit(() => {
      const { heartbeats } = server.tables;
      for (const stream of streams) {
        const row = heartbeats.get(stream);
        if (row !== undefined) heartbeats.set(stream, { ...row, aliveAt });
      }
      if (flusher === null) return;
      const row = heartbeats.get(flusher) ?? { flushes: true, acceptedThrough: Number.NEGATIVE_INFINITY };
      heartbeats.set(flusher, { ...row, aliveAt });
    });
    return [];
  };
  return { run };
}

function endHeartbeats({ server, transaction, values }: StatementContext): Plan {
  const [ids] = values as [readonly string[]];
  const run = (): Row[] => {
    transaction.atCommit(() => {
      for (const id of ids) server.tables.heartbeats.delete(id);
    });
    return [];
  };
  return { run };
}

/** The row of journal_streams is not locked: it counts as the statement sees it when it begins. */
function advanceAcceptedThrough({ server, transaction, values }: StatementContext): Plan {
  const [stream, epoch, seconds] = values as [string, unknown, unknown];
  const run = (): Row[] => {
    const fence = transaction.stream(stream);
    const isOwner = fence?.epoch === Number(epoch) && fence.retiredAt === undefined;
    if (!isOwner || !server.tables.heartbeats.has(stream)) return [];
    transaction.atCommit(() => {
      const { heartbeats } = server.tables;
      const row = heartbeats.get(stream);
      if (row === undefined) return;
      heartbeats.set(stream, { ...row, acceptedThrough: Math.max(row.acceptedThrough, 1000 * Number(seconds)) });
    });
    return [{ '?column?': 1 }];
  };
  return { run };
}
