/** The statements that set records of streams without a row aside. */
import * as sql from '#product/db/stream-statements.js';
import type { Plan, StatementContext, StatementMeaning } from './statement.js';
import type { UncoveredRow } from './tables.js';
import type { Row } from './values.js';

/** By text. */
export const setAsideStatements: readonly (readonly [string, StatementMeaning])[] = [
  [sql.LOCK_SET_ASIDE, lockSetAside],
  [sql.SET_STREAM_ASIDE, setAside],
  [sql.IS_SET_ASIDE, isSetAside],
];

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
