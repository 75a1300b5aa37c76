/** The statements of those who flush streams of the postgres journal, and the pruning of the log. */
import * as log from '#product/db/log-statements.js';
import * as sql from '#product/db/stream-statements.js';
import { encodeBytes, encodeDoubles, encodeTexts } from '../binary-arrays.js';
import {
  columnsOf,
  newEpoch,
  type Plan,
  planForRow,
  rowLock,
  type Server,
  type StatementContext,
  type StatementMeaning,
  streamLock,
} from './statement.js';
import { isAt } from './owner-statements.js';
import type { CheckpointRow, LogRow } from './tables.js';
import { takenRow } from './taking-statements.js';
import { type Row, secondsOf } from './values.js';

/** By text. */
export const logOwnerStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.SURVEY_STREAMS, surveyStreams],
  [sql.LOCK_STREAM, lockStream],
  [sql.ADOPT_STREAM, adoptStream],
  [sql.TAKE_FLUSHES, takeFlushes],
  [sql.RELEASE_STREAM, releaseStream],
  [log.READ_LOG, readLog],
  [sql.TOUCH_LOG_STREAM, touchStream],
  [sql.RETIRE_LOG_STREAM, retireLogStream],
  [log.PRUNE_LOG, pruneLog],
  [log.PRUNE_HEARTBEATS, pruneHeartbeats],
  [log.PRUNE_LOG_TOMBSTONES, pruneLogTombstones],
];

/** In ms of the clock of the database. */
const ALIVE_MS = 6000;

/** All streams of a journal and a store that are not retired. Those of the postgres journal have a row in journal_streams. */
function surveyStreams({ server, transaction, values: [journal, store] }: StatementContext): Plan {
  const run = (): Row[] => {
    const { checkpoints, streams, heartbeats } = server.tables;
    const isAlive = (id: string | undefined): boolean =>
      (heartbeats.get(id ?? '')?.aliveAt ?? Number.NEGATIVE_INFINITY) > transaction.beganAt - ALIVE_MS;
    const flushers = [...heartbeats].filter(([id, row]) => row.flushes && isAlive(id)).length;
    return [...checkpoints].sort(byName).flatMap(([stream, row]) => {
      const fence = streams.get(stream);
      const isLeftOut = journal === 'postgres' && fence === undefined;
      const isElsewhere = row.store !== store && server.mutations.surveyOfAllStores !== true;
      if (row.journal !== journal || isElsewhere || row.retiredAt !== undefined || isLeftOut) return [];
      return [
        {
          stream,
          epoch: String(row.epoch),
          lsn: String(row.lsn),
          owner: row.owner ?? null,
          node: row.node,
          shard: row.shard,
          is_owned: isAlive(row.owner),
          is_written: isAlive(stream),
          silent_ms: silentMs(server, stream),
          self_flushed: row.owner !== undefined && row.owner === fence?.flusher,
          flushers,
        },
      ];
    });
  };
  return { run };
}

/** Since the last sign of life of a writer, in ms of the world; null: it has none. */
function silentMs({ tables, clock }: Server, stream: string): number | null {
  const row = tables.heartbeats.get(stream);
  return row === undefined ? null : (clock.now() - row.aliveAt) / clock.scale.rate;
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}

function lockStream({ transaction, values }: StatementContext): Plan {
  const [stream] = values as [string];
  const run = (): Row[] => (transaction.stream(stream) === undefined ? [] : [{ '?column?': 1 }]);
  if (transaction.stream(stream) === undefined) return { run };
  return { lock: { name: streamLock(stream), mode: 'exclusive' }, run };
}

function adoptStream(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const { adoptionKeepsAppendEpoch } = server.mutations;
  const [stream] = values as [string];
  const taken = taking(context, (): Row => {
    const fence = transaction.stream(stream);
    if (fence === undefined) return { append_epoch: null };
    const epoch = adoptionKeepsAppendEpoch === true ? fence.epoch : newEpoch(server);
    transaction.setStream(stream, { ...fence, epoch, flusher: undefined, retiredAt: undefined });
    return { append_epoch: String(epoch) };
  });
  if (transaction.stream(stream) === undefined) return taken;
  return { lock: { name: streamLock(stream), mode: 'exclusive' }, run: () => taken };
}

function takeFlushes(context: StatementContext): Plan {
  return taking(context, () => ({ append_epoch: null }));
}

function taking(context: StatementContext, fence: () => Row): Plan {
  const { server, transaction, values } = context;
  const [stream, owner] = values as [string, string];
  const run = (row: CheckpointRow | undefined): Row[] => {
    const more = fence();
    if (row === undefined) return [];
    const taken = { ...takenRow(context, row, newEpoch(server)), owner };
    transaction.setCheckpoint(stream, taken);
    return [{ ...columnsOf(taken), ...more }];
  };
  return planForRow(context, stream, () => true, run);
}

function releaseStream(context: StatementContext): Plan {
  const { transaction, values } = context;
  const [stream] = values as [string];
  const fits = (row: CheckpointRow): boolean => isAt(context, row, false) && row.retiredAt === undefined;
  return planForRow(context, stream, fits, (row) => {
    if (row === undefined) return [];
    transaction.setCheckpoint(stream, { ...row, owner: undefined, heardAt: transaction.beganAt });
    return [{ '?column?': 1 }];
  });
}

function readLog({ server, values }: StatementContext): Plan {
  const [streams, lsns, most] = values as [readonly string[], readonly unknown[], unknown];
  const run = (): Row[] =>
    streams
      .map((stream, index) => [stream, Number(lsns[index])] as const)
      .sort(byName)
      .flatMap(([stream, above]) =>
        (server.tables.log.get(stream) ?? [])
          .filter(({ lsn }) => lsn > above)
          .slice(0, Number(most))
          .map((record) => rowOf(stream, record)),
      );
  return { run };
}

function rowOf(stream: string, record: LogRow): Row {
  const { idempotencyKeys, requestIncrements, digests } = record;
  return {
    stream,
    lsn: String(record.lsn),
    accepted_at: record.acceptedAt / 1000,
    accepted_after: secondsOf(record.acceptedAfter),
    keys: encodeTexts(record.keys),
    amounts: encodeDoubles(record.amounts.map(Number)),
    idempotency_keys: idempotencyKeys === undefined ? null : encodeTexts(idempotencyKeys),
    request_increments: requestIncrements ?? null,
    digests: digests === undefined ? null : encodeBytes([...digests]),
  };
}

/** The log and the writer's word count as the statement sees them when it begins; the row as it is once it is locked. */
function touchStream(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const { wordOverLog, wordOfRollUp } = server.mutations;
  const [stream, , lsn] = values as [string, unknown, unknown];
  const isEnd = !hasRecordAbove(server, stream, Number(lsn));
  const given = server.tables.heartbeats.get(stream)?.acceptedThrough ?? Number.NEGATIVE_INFINITY;
  const word = wordOfRollUp === true ? transaction.beganAt : given;
  const through = isEnd || wordOverLog === true ? Math.min(transaction.beganAt, word) : Number.NEGATIVE_INFINITY;
  const fits = (row: CheckpointRow): boolean => isAt(context, row, false) && row.retiredAt === undefined;
  return planForRow(context, stream, fits, (row) => {
    if (row === undefined) return [];
    const acceptedThrough = Math.max(row.acceptedThrough, through);
    transaction.setCheckpoint(stream, { ...row, acceptedThrough, heardAt: transaction.beganAt });
    return [{ database_time: secondsOf(transaction.beganAt) }];
  });
}

function hasRecordAbove({ tables }: Server, stream: string, lsn: number): boolean {
  return (tables.log.get(stream)?.at(-1)?.lsn ?? 0) > lsn;
}

/** The end of the log counts as the statement sees it when it begins, before it waits for an append. */
function retireLogStream(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const { retireIgnoresLog } = server.mutations;
  const [stream, , lsn, appendEpoch] = values as [string, unknown, unknown, unknown];
  const isFence = (): boolean => {
    const fence = transaction.stream(stream);
    return fence?.epoch === Number(appendEpoch);
  };
  const isEnd = retireIgnoresLog === true || !hasRecordAbove(server, stream, Number(lsn));
  const nothing: Plan = { run: () => [] };
  if (!isFence()) return nothing;
  const fits = (row: CheckpointRow): boolean => isEnd && isAt(context, row, false);
  const retire = planForRow(context, stream, fits, (row) => {
    const fence = transaction.stream(stream);
    if (row === undefined || fence === undefined) return [];
    const now = transaction.beganAt;
    transaction.setCheckpoint(stream, { ...row, retiredAt: row.retiredAt ?? now, heardAt: now, owner: undefined });
    transaction.setStream(stream, { ...fence, retiredAt: fence.retiredAt ?? now });
    transaction.atCommit(() => server.tables.heartbeats.delete(stream));
    return [{ '?column?': 1 }];
  });
  return { lock: { name: streamLock(stream), mode: 'exclusive' }, run: () => (isFence() ? retire : nothing) };
}

function pruneLog({ server, transaction, values }: StatementContext): Plan {
  const [keepSeconds, mostOfStream, most] = values as [number, number, number];
  const run = (): Row[] => {
    const { checkpoints, log } = server.tables;
    const before = transaction.beganAt - 1000 * keepSeconds;
    const pruned = [...checkpoints]
      .filter(([, { journal }]) => journal === 'postgres')
      .flatMap(([stream, row]) => {
        const committed = (log.get(stream) ?? []).filter(({ lsn }) => lsn <= row.lsn).slice(0, mostOfStream);
        return committed.filter(({ loggedAt }) => loggedAt < before).map((record) => [stream, record] as const);
      })
      .slice(0, most);
    transaction.atCommit(() => {
      for (const [stream, record] of pruned) {
        log.set(
          stream,
          (log.get(stream) ?? []).filter((other) => other !== record),
        );
      }
    });
    return [{ pruned: pruned.length }];
  };
  return { run };
}

function pruneHeartbeats({ server, transaction }: StatementContext): Plan {
  const run = (): Row[] => {
    const before = transaction.beganAt - server.clock.span(server.clock.scale.expiryDayMs);
    transaction.atCommit(() => {
      const { heartbeats } = server.tables;
      for (const [id, { aliveAt }] of heartbeats) if (aliveAt < before) heartbeats.delete(id);
    });
    return [];
  };
  return { run };
}

function pruneLogTombstones({ server, transaction, values }: StatementContext): Plan {
  const { clock } = server;
  const [hours, limit] = values as [number, number];
  const before = transaction.beganAt - clock.span(hours * clock.scale.windowHourMs + clock.scale.tombstoneMs);
  const run = (): Row[] | Plan => {
    const { checkpoints, streams, log, heartbeats } = server.tables;
    const isDue = ([stream, row]: readonly [string, CheckpointRow]): boolean =>
      row.journal === 'postgres' &&
      row.retiredAt !== undefined &&
      row.retiredAt < before &&
      streams.has(stream) &&
      (log.get(stream) ?? []).length === 0;
    // `for update skip locked`
    const found = [...checkpoints]
      .filter((entry) => isDue(entry) && !server.locks.isHeldByOther(streamLock(entry[0]), transaction))
      .map(([stream]) => stream)
      .sort()
      .slice(0, limit);
    for (const stream of found) server.locks.acquire(streamLock(stream), transaction, 'exclusive', () => undefined);
    const remove = (index: number): Plan => {
      const stream = found[index];
      if (stream === undefined) return { run: () => [{ pruned: found.length }] };
      return { lock: { name: rowLock(stream), mode: 'exclusive' }, run: () => remove(index + 1) };
    };
    transaction.atCommit(() => {
      for (const stream of found) {
        checkpoints.delete(stream);
        streams.delete(stream);
        log.delete(stream);
        heartbeats.delete(stream);
      }
    });
    return remove(0);
  };
  return { run };
}
