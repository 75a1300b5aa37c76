/**
 * Reads and deletes counters of a server over HTTP. Main thread of a command.
 */
import { reasonsOf } from '../../core/errors.js';
import type { LoadHistory } from './load-history.js';
import type { LoadOptions } from './load-options.js';
import { problemOf } from './outcomes.js';

/** A read or a delete that failed. `isTransient`: the same call may succeed later. */
export class ReadError extends Error {
  override readonly name = 'ReadError';
  readonly status: number | undefined;
  readonly isTransient: boolean;

  constructor(message: string, status: number | undefined, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
    this.isTransient = status === undefined || status >= 500;
  }
}

/** The most that `GET /counters` takes. */
const KEYS_MAX = 100;
/** Some servers close a connection whose head has more than 4 KiB. */
const QUERY_LENGTH_MAX = 3000;
const PARALLEL_REQUESTS = 4;
const READ_TIMEOUT_MS = 10_000;

/** The counters of one server. */
export class CounterReader {
  readonly #url: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #history: LoadHistory | undefined;

  /** Reads are written to `history`. */
  constructor({ url, token }: Pick<LoadOptions, 'url' | 'token'>, history?: LoadHistory) {
    this.#url = url;
    this.#history = history;
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  /**
   * Calls `onSum` with each key and its exact sum, undefined for a missing counter. Rejects with {@link ReadError} at the first
   * failure, after calls for a part of the keys.
   */
  async read(keys: Iterable<string>, onSum: (key: string, sum: bigint | undefined) => void): Promise<void> {
    await inParallel(queriesOf(keys), async ({ query, keys: asked }) => {
      const askedAt = performance.now();
      const sums = await this.#sums(query, asked.length);
      // There is a sum for each key.
      asked.forEach((key, index) => {
        this.#history?.read(key, sums[index], askedAt);
        onSum(key, sums[index]);
      });
    });
  }

  /** Deletes each counter that exists. Rejects with {@link ReadError} at the first failure. */
  async delete(keys: Iterable<string>): Promise<void> {
    await inParallel(keys, async (key) => {
      const { status, text } = await this.#ask('DELETE', `key=${encodeURIComponent(key)}`);
      if (status !== 200 && status !== 404) throw failureOf(`DELETE /counters`, status, text);
    });
  }

  async #sums(query: string, count: number): Promise<readonly (bigint | undefined)[]> {
    const { status, text } = await this.#ask('GET', query);
    if (count === 1 && status === 404 && problemOf(text)?.code === 'unknown-counter') return [undefined];
    if (status !== 200) throw failureOf('GET /counters', status, text);
    // JSON.parse rounds large numbers. No key can match, because a quotation mark in a key follows a backslash.
    const sums = Array.from(text.matchAll(/"sum":(?:(-?\d+)|null)/g), ([, digits]) =>
      digits === undefined ? undefined : BigInt(digits),
    );
    if (sums.length !== count) throw failureOf('GET /counters', status, '');
    return sums;
  }

  async #ask(method: 'GET' | 'DELETE', query: string): Promise<{ status: number; text: string }> {
    try {
      const signal = AbortSignal.timeout(READ_TIMEOUT_MS);
      const url = `${this.#url}/counters?${query}`;
      const response = await fetch(url, { method, headers: this.#headers, redirect: 'manual', signal });
      return { status: response.status, text: await response.text() };
    } catch (error) {
      throw new ReadError(`${this.#url} does not answer: ${causeOf(error)}`, undefined, { cause: error });
    }
  }
}

function failureOf(what: string, status: number, text: string): ReadError {
  const problem = problemOf(text);
  const answer = problem === undefined ? `${status}, which is not an answer of summing-counters` : status;
  const because = problem === undefined ? '' : ` ${problem.code}: ${problem.detail.replace(/\.$/, '')}`;
  return new ReadError(`${what} is answered ${answer}${because}`, status);
}

/** The error of `fetch` has the reason in its cause. */
function causeOf(error: unknown): string {
  return reasonsOf(error)
    .replace(/^fetch failed: /, '')
    .replace(/\.$/, '');
}

function* queriesOf(keys: Iterable<string>): Iterable<{ query: string; keys: readonly string[] }> {
  let query = '';
  let asked: string[] = [];
  for (const key of keys) {
    const member = `key=${encodeURIComponent(key)}`;
    if (asked.length === KEYS_MAX || (asked.length > 0 && query.length + member.length > QUERY_LENGTH_MAX)) {
      yield { query, keys: asked };
      query = '';
      asked = [];
    }
    query += `${asked.length === 0 ? '' : '&'}${member}`;
    asked.push(key);
  }
  if (asked.length > 0) yield { query, keys: asked };
}

/** Calls `work` for each item, a few at a time. Rejects with the first failure once the current calls have ended. */
async function inParallel<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const iterator = items[Symbol.iterator]();
  const failures: unknown[] = [];
  const worker = async (): Promise<void> => {
    for (let item = iterator.next(); item.done !== true && failures.length === 0; item = iterator.next()) {
      try {
        await work(item.value);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL_REQUESTS }, worker));
  if (failures.length > 0) throw failures[0];
}
