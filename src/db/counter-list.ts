import type { CounterListPage, CounterListQuery } from '../core/counter-operations.js';
import { parseSum, type CounterStore } from './counter-store.js';
import { LIST_COUNTERS, LIST_COUNTERS_BELOW } from './statements.js';

interface ListedRow {
  readonly key: string;
  readonly sum: string;
  readonly updated_at: Date;
}

const CODE_POINT_MAX = 0x10ffff;
const SURROGATE_MIN = 0xd800;
const SURROGATE_MAX = 0xdfff;

/**
 * One page, on the connection of the reads and in turn with them. Rejects with CounterError `database-unavailable` or
 * `overloaded`.
 */
export async function listCounters(
  store: Pick<CounterStore, 'inTurn'>,
  query: CounterListQuery,
): Promise<CounterListPage> {
  const { prefix, after, limit } = query;
  const from = lowerBound(prefix, after);
  const below = prefixSuccessor(prefix);
  const rows = await store.inTurn((connection) =>
    connection.query<ListedRow>(
      below === undefined
        ? { name: 'list-counters', text: LIST_COUNTERS, values: [limit + 1, from] }
        : { name: 'list-counters-below', text: LIST_COUNTERS_BELOW, values: [limit + 1, from, below] },
    ),
  );
  const counters = rows
    .slice(0, limit)
    .map(({ key, sum, updated_at }) => ({ key, sum: parseSum(sum), updatedAt: updated_at }));
  return { counters, next: rows.length > limit ? (counters.at(-1)?.key ?? null) : null };
}

/**
 * The least string that a key of the page may be. Keys have no U+0000, so that U+0001 makes the least string that is
 * greater than `after`.
 */
function lowerBound(prefix: string, after: string | undefined): string {
  if (after === undefined) return prefix;
  const next = `${after}\u0001`;
  return Buffer.compare(Buffer.from(next), Buffer.from(prefix)) > 0 ? next : prefix;
}

/**
 * The least string that is greater than every string with this prefix: its last code point plus one, skipping the
 * surrogates, which UTF-8 does not have. Undefined where there is none: no prefix, or nothing but U+10FFFF.
 */
export function prefixSuccessor(prefix: string): string | undefined {
  const points = Array.from(prefix, (character) => character.codePointAt(0) ?? 0);
  while (points.at(-1) === CODE_POINT_MAX) points.pop();
  const last = points.pop();
  if (last === undefined) return undefined;
  const next = last + 1 === SURROGATE_MIN ? SURROGATE_MAX + 1 : last + 1;
  return String.fromCodePoint(...points, next);
}
