/** The statements that set records of streams aside, and messages that nobody can read. */
import * as sql from '#product/db/stream-statements.js';
import { isAt } from './owner-statements.js';
import { newEpoch, planForRow, type Plan, type StatementContext, type StatementMeaning } from './statement.js';
import type { CheckpointRow, UncoveredRow } from './tables.js';
import type { Row } from './values.js';

/** By text. */
export const setAsideStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.LOCK_SET_ASIDE, lockSetAside],
  [sql.END_AT_GAP, endAtGap],
  [sql.SET_STREAM_ASIDE, setAside],
  [sql.IS_SET_ASIDE, isSetAside],
  // The simulated queue damages nothing.
  [sql.KEEP_DAMAGED, ({ values: [id] }) => ({ run: () => [{ id }] })],
];

/** The advisory lock ends with the transaction. */
function lockSetAside({ values }: StatementContext): Plan {
  const [stream] = values as [string];
  return { lock: { name: `advisory ${stream}`, mode: 'exclusive' }, run: () => [{ pg_advisory_xact_lock: '' }] };
}

/** Retires a row behind which records are missing. */
function endAtGap(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const [stream] = values as [string];
  const fits = (row: CheckpointRow): boolean => isAt(context, row, false);
  return planForRow(context, stream, fits, (row) => {
    if (row === undefined) return [];
    const now = transaction.beganAt;
    const epoch = row.retiredAt === undefined ? newEpoch(server) : row.epoch;
    const retiredAt = row.retiredAt ?? now;
    transaction.setCheckpoint(stream, { ...row, epoch, retiredAt, heardAt: now, owner: undefined });
    return [{ epoch: String(epoch) }];
  });
}

function setAside(context: StatementContext): Plan {
  const { server, transaction, values } = context;
  const [stream, keys, amounts, lsns, tokens, digests, times, hasRow] = values as [
    string,
    readonly Buffer[],
    readonly string[],
    readonly number[],
    readonly (string | null)[],
    readonly (Buffer | null)[],
    readonly number[],
    boolean,
  ];
  const run = (): Row[] => {
    if ((transaction.checkpoint(stream) !== undefined) !== hasRow) return [];
    const rows = keys.map((key, index): UncoveredRow => {
      const seconds = times[index] ?? 0;
      return {
        stream,
        lsn: lsns[index] ?? 0,
        key: key.toString(),
        amount: BigInt(amounts[index] ?? 0),
        token: tokens[index] ?? '',
        digest: digests[index] ?? Buffer.alloc(0),
        acceptedAfter: seconds === 0 ? Number.NEGATIVE_INFINITY : 1000 * seconds,
      };
    });
    const added = rows.filter(({ lsn }) => !isKept(context, stream, lsn));
    transaction.atCommit(() => {
      server.tables.uncovered.push(...added);
      transaction.flushed = { stream: undefined, epoch: 0, from: 0, to: 0, sums: [], uncovered: added };
    });
    asideInTransaction.set(transaction, new Set(added.map(({ lsn }) => lsn)));
    return added.map(() => ({ '?column?': 1 }));
  };
  return { run };
}

/** What a transaction has set aside and not yet committed. */
const asideInTransaction = new WeakMap<object, ReadonlySet<number>>();

function isKept({ server }: StatementContext, stream: string, lsn: number): boolean {
  return server.tables.uncovered.some((row) => row.stream === stream && row.lsn === lsn);
}

function isSetAside(context: StatementContext): Plan {
  const [stream, lsns] = context.values as [string, readonly number[]];
  const own = asideInTransaction.get(context.transaction);
  const isAside = (lsn: number): boolean => own?.has(lsn) === true || isKept(context, stream, lsn);
  return { run: () => (lsns.every(isAside) ? [{ '?column?': 1 }] : []) };
}
