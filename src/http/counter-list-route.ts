/**
 * GET /counters?prefix=P&after=KEY&limit=N: pages of committed counters. Front-end thread.
 */
import { CounterError } from '../core/errors.js';
import type { CounterOperations } from '../core/counter-operations.js';
import type { CounterListDocument } from './documents.js';
import { exactJson } from './exact-json.js';
import { parseQuery } from './percent-encoding.js';
import { jsonReply, type HttpReply } from './reply.js';

/** Most counters of a page. */
export const LIST_LIMIT_MAX = 1000;

/** Counters of a page where the request does not say. */
export const LIST_LIMIT_DEFAULT = 100;

/** `query` is the raw query. Throws `invalid-request` where a parameter is not what it should be. */
export async function counterListRoute(query: string, operations: CounterOperations): Promise<HttpReply> {
  const parameters = parseQuery(query);
  const prefix = textOf(parameters, 'prefix') ?? '';
  const after = textOf(parameters, 'after');
  const page = await operations.list({ prefix, after, limit: limitOf(textOf(parameters, 'limit')) });
  const counters = page.counters.map(({ key, sum, updatedAt }) => ({ key, sum, updated_at: updatedAt.toISOString() }));
  return jsonReply(200, exactJson<CounterListDocument>({ counters, next: page.next }));
}

/** Longer than any key is legal: nothing has such a prefix. The head's own limit bounds it. */
function textOf(parameters: ReadonlyMap<string, Uint8Array>, name: string): string | undefined {
  const bytes = parameters.get(name);
  if (bytes === undefined) return undefined;
  if (bytes.includes(0)) throw new CounterError('invalid-request', `The query parameter ${name} contains U+0000.`);
  return Buffer.from(bytes).toString('utf8');
}

function limitOf(text: string | undefined): number {
  if (text === undefined) return LIST_LIMIT_DEFAULT;
  const limit = /^[0-9]{1,4}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= LIST_LIMIT_MAX) return limit;
  throw new CounterError('invalid-request', `The query parameter limit must be a number from 1 to ${LIST_LIMIT_MAX}.`);
}
