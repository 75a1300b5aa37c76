/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The client: sums increments by key and sends them in batches. A batch counts exactly once, no matter how often it is
 * sent. Imports nothing outside this folder and uses only Web APIs: it runs in Node 20 and later, Deno, Bun and browsers.
 * The package in `client/` is made from this folder.
 */
import { CounterClientError, type Increment } from './client-error.js';
import { checkedIncrementErrors, checkedNumbers, checkedUrl, type CounterClientOptions } from './client-options.js';
import { BatchSender } from './batch-sender.js';
import { Exchange, failureOf, type Answer } from './exchange.js';
import { checkKey } from './increment-buffer.js';
import { Reports } from './reports.js';
import { randomIdempotencyKey, Retries } from './retries.js';

export { CounterClientError, type Counted, type Increment, type RefusedBatch } from './client-error.js';
export type { CounterClientOptions, Retry } from './client-options.js';

/** What a client holds and what it has met. */
export interface CounterClientStats {
  /** Keys that wait for a batch. */
  readonly pending: number;
  /** Keys of the batch that is being sent. */
  readonly inFlight: number;
  /** Attempts that failed and were repeated, since the client was made. */
  readonly retries: number;
  /** The error of the last attempt or call that failed; undefined if none has. */
  readonly lastError: CounterClientError | undefined;
}

/** Ends a wait early. */
export interface WaitOptions {
  readonly signal?: AbortSignal | undefined;
}

/** Most keys that the server reads in one request. */
const READ_KEYS_MAX = 100;

/** Sends increments to a server, and reads and deletes counters. */
export class CounterClient {
  readonly #keyBytesMax: number;
  readonly #incrementErrors: 'throw' | 'report';
  readonly #reports: Reports;
  readonly #exchange: Exchange;
  readonly #retries: Retries;
  readonly #sender: BatchSender;

  /** Throws TypeError or RangeError for settings that cannot work. Opens no connection. */
  constructor(options: CounterClientOptions) {
    const { token, fetch } = options;
    const url = checkedUrl(options.url);
    const numbers = checkedNumbers(options);
    const { requestTimeoutMs } = numbers;
    const reports = new Reports(options);
    this.#keyBytesMax = numbers.keyBytesMax;
    this.#reports = reports;
    this.#exchange = new Exchange({ url, token, fetch, requestTimeoutMs, reports });
    this.#retries = new Retries(numbers, reports);
    this.#sender = new BatchSender({ numbers, exchange: this.#exchange, retries: this.#retries, reports });
    this.#incrementErrors = checkedIncrementErrors(options);
  }

  /**
   * Adds to a counter, soon. Throws, and counts nothing: TypeError or RangeError for an illegal key or amount;
   * `closed`; `buffer-full` for a key that is not yet waiting, while `bufferKeysMax` keys are held. With `incrementErrors:
   * 'report'` it does not throw: it returns false, and `onError` gets the error, whose `refused` has the increments. True if
   * the client has taken the increment.
   */
  increment(key: string, amount = 1): boolean {
    return this.incrementMany([[key, amount]]);
  }

  /** The same for many increments. Takes all of them, or none. */
  incrementMany(increments: Iterable<Increment> | Readonly<Record<string, number>>): boolean {
    const given: readonly Increment[] = isIterable(increments) ? [...increments] : Object.entries(increments);
    if (this.#incrementErrors === 'throw') {
      this.#sender.take(given);
      return true;
    }
    try {
      this.#sender.take(given);
      return true;
    } catch (error) {
      this.#report(error, given);
      return false;
    }
  }

  #report(cause: unknown, increments: readonly Increment[]): void {
    const known = cause instanceof CounterClientError ? cause : undefined;
    const message = cause instanceof Error ? cause.message : String(cause);
    const refused = [{ increments, counted: 'no', token: '' }] as const;
    const fields = { retryable: known?.retryable ?? false, refused, cause };
    const error = new CounterClientError(known?.code ?? 'invalid-increment', message, fields);
    this.#reports.refused(this.#reports.failed(error));
  }

  /**
   * Sends without waiting for the interval. Resolves once everything that was passed in before is acknowledged. If
   * batches were refused for good, waits for the rest, then rejects with a {@link CounterClientError}, whose `refused`
   * has the batches that no earlier flush has reported. `signal` ends the wait (`aborted`), not the sending.
   */
  flush({ signal }: WaitOptions = {}): Promise<void> {
    return this.#sender.settled(signal, 'keep-sending');
  }

  /** Flushes, and takes no more increments. `signal` also ends the sending: batches without an answer are refused. */
  close({ signal }: WaitOptions = {}): Promise<void> {
    this.#sender.close();
    return this.#sender.settled(signal, 'abandon');
  }

  /**
   * The counter's exact sum on the server, or undefined if it was never counted. Increments that wait in this client
   * are not included. Makes one attempt. Rejects with {@link CounterClientError}, or TypeError or RangeError for a bad
   * key.
   */
  async get(key: string, { signal }: WaitOptions = {}): Promise<bigint | undefined> {
    checkKey(key, this.#keyBytesMax);
    const path = `/key_sum?name=${encodeURIComponent(key)}`;
    return this.#exchange.send({ method: 'GET', path }, (answer) => sumOf(answer, /^(-?\d+)$/), signal);
  }

  /**
   * The sums of many counters by key, undefined for one that was never counted. Up to 100 keys are read in one snapshot;
   * more take one request for each 100. Otherwise as {@link get}.
   */
  async getMany(keys: Iterable<string>, { signal }: WaitOptions = {}): Promise<Map<string, bigint | undefined>> {
    const asked = [...new Set(keys)];
    for (const key of asked) checkKey(key, this.#keyBytesMax);
    const sums = new Map<string, bigint | undefined>();
    for (let from = 0; from < asked.length; from += READ_KEYS_MAX) {
      const part = asked.slice(from, from + READ_KEYS_MAX);
      const [only] = part;
      if (part.length === 1 && only !== undefined) {
        sums.set(only, await this.get(only, { signal }));
        continue;
      }
      const query = part.map((key) => `key=${encodeURIComponent(key)}`).join('&');
      const read = await this.#exchange.send({ method: 'GET', path: `/counters?${query}` }, sumsOf, signal);
      for (const key of part) sums.set(key, read.get(key));
    }
    return sums;
  }

  /**
   * Deletes a counter on the server. Resolves to its last sum, or undefined if it did not exist. Increments that wait in this
   * client are not part of it: they count anew. Retried like a batch, under one idempotency key; `signal` ends that. Rejects
   * with {@link CounterClientError}: with `counted: 'unknown'` the counter may be deleted. Needs a token of scope `admin`.
   */
  async delete(key: string, { signal }: WaitOptions = {}): Promise<bigint | undefined> {
    checkKey(key, this.#keyBytesMax);
    const headers = { 'idempotency-key': randomIdempotencyKey() };
    const request = { method: 'DELETE', path: `/counters?key=${encodeURIComponent(key)}`, headers } as const;
    const lastSum = (answer: Answer): bigint | undefined => sumOf(answer, /"sum":\s*(-?\d+)/);
    const outcome = await this.#retries.until(() => this.#exchange.send(request, lastSum, signal), signal);
    if (outcome.failure === undefined) return outcome.result;
    const { failure, counted } = outcome;
    if (counted === failure.counted) throw failure;
    // An earlier attempt may have deleted it.
    const { code, message, status, retryable, retryAfterMs } = failure;
    throw new CounterClientError(code, message, { status, retryable, retryAfterMs, counted, cause: failure });
  }

  /** What the client holds now, and what it has met. */
  stats(): CounterClientStats {
    return {
      pending: this.#sender.pending,
      inFlight: this.#sender.inFlight,
      retries: this.#reports.retries,
      lastError: this.#reports.lastError,
    };
  }

  /** Closes the client, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function isIterable(given: Iterable<Increment> | Readonly<Record<string, number>>): given is Iterable<Increment> {
  return Symbol.iterator in given;
}

/** The sum that the group of `pattern` finds in an answer; undefined if the counter is unknown. */
function sumOf(answer: Answer, pattern: RegExp): bigint | undefined {
  const sum = answer.status === 200 ? pattern.exec(answer.text)?.[1] : undefined;
  if (sum !== undefined) return BigInt(sum);
  const failure = failureOf(answer);
  if (failure.code === 'unknown-counter') return undefined;
  throw failure;
}

/** The sums by key of an answer with counters. */
function sumsOf(answer: Answer): ReadonlyMap<string, bigint | undefined> {
  const sums = answer.status === 200 ? parsedSums(answer.text) : undefined;
  if (sums === undefined) throw failureOf(answer);
  return sums;
}

/** Undefined if the text is no document with counters. */
function parsedSums(text: string): Map<string, bigint | undefined> | undefined {
  try {
    // A sum may have more digits than a number keeps. A quote within a key is escaped, so this finds members only.
    const quoted = text.replace(/"sum":\s*(-?\d+)/g, '"sum":"$1"');
    const { counters } = JSON.parse(quoted) as { readonly counters?: unknown };
    if (!Array.isArray(counters)) return undefined;
    return new Map(
      counters.map((counter: { readonly key?: unknown; readonly sum?: unknown }) => [
        String(counter.key),
        typeof counter.sum === 'string' ? BigInt(counter.sum) : undefined,
      ]),
    );
  } catch {
    return undefined;
  }
}
