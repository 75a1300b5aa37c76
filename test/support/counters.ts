/** Counters as a client reads them, with sums of any size. */
import assert from 'node:assert/strict';
import { send } from './http.js';

/** The answer of GET /counters for one counter. */
export interface CounterView {
  readonly key: string;
  readonly sum: bigint;
  readonly committed: bigint;
  readonly pending: bigint;
  readonly updatedAt: string | null;
}

const INTEGER = '(0|-?[1-9][0-9]*)';
const COUNTER = new RegExp(
  `^\\{"key":(".*"),"sum":${INTEGER},"committed":${INTEGER},"pending":${INTEGER},"updated_at":(null|"[^"]*")\\}$`,
  's',
);

/** The counter, or undefined if it is unknown. Asserts the document's exact form and that its numbers add up. */
export async function counterOf(base: string, key: string): Promise<CounterView | undefined> {
  const answer = await send(base, `/counters?${new URLSearchParams({ key }).toString()}`);
  if (answer.status === 404) return undefined;
  assert.equal(answer.status, 200, answer.body);
  return parseCounter(answer.body);
}

/** Parses the document, whose numbers may exceed a double. */
export function parseCounter(document: string): CounterView {
  const match = COUNTER.exec(document);
  assert.ok(match, document);
  const [, key = '', sum = '', committed = '', pending = '', updatedAt = ''] = match;
  const view = {
    key: JSON.parse(key) as string,
    sum: BigInt(sum),
    committed: BigInt(committed),
    pending: BigInt(pending),
    updatedAt: JSON.parse(updatedAt) as string | null,
  };
  assert.equal(view.committed + view.pending, view.sum, document);
  return view;
}

/** The sum that a client reads; undefined if the counter is unknown. */
export async function sumOf(base: string, key: string): Promise<bigint | undefined> {
  return (await counterOf(base, key))?.sum;
}
