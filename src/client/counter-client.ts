/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The client: sums increments by key and sends them in batches. A batch counts exactly once, no matter how often it is
 * sent. One file without imports that uses only Web APIs: it runs in Node 20 and later, Deno, Bun and browsers. The package
 * in `client/` is made from it.
 *
 * ```text
 * idle ──first key──► waiting ──interval, full batch or flush──► sending ──acknowledged or refused──► idle
 * ```
 *
 * One batch is in flight at a time, with its own Idempotency-Key. Its content is frozen when it leaves the buffer, and
 * all retries use the same key. Later increments wait for the next batch. Keys leave the buffer in the order in which
 * they entered it, so a flush only has to count keys.
 */

/** Whether a refused batch was counted: certainly not, or unknown. */
export type Counted = 'no' | 'unknown';

/** A counter's key and the amount to add, a safe integer. */
export type Increment = readonly [key: string, amount: number];

/** A batch that is not sent again. With `counted: 'no'` its increments may be passed in again, here or elsewhere. */
export interface RefusedBatch {
  readonly increments: readonly Increment[];
  readonly counted: Counted;
  /** The batch's Idempotency-Key; '' if the batch was never sent. */
  readonly token: string;
}

/** An attempt failed, and the client makes another one. */
export interface Retry {
  /** Why the attempt failed. */
  readonly error: CounterClientError;
  /** 1 after the first attempt. */
  readonly attempt: number;
  /** The wait before the next attempt. */
  readonly delayMs: number;
}

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

/** Settings of a client. Numbers are whole, from 1 to 2^31 − 1. */
export interface CounterClientOptions {
  /** URL of the server, `http:` or `https:`. Its path is kept before `/increment`. */
  readonly url: string | URL;
  /**
   * Bearer token: scope `write` to increment, `read` to get, `admin` to delete. A function is called for every attempt, so
   * that a token can be replaced while the client runs.
   */
  readonly token?: string | (() => string | Promise<string>) | undefined;
  /** Longest wait of an increment before it is sent, while no batch is in flight. Default 100. */
  readonly intervalMs?: number;
  /** Most keys of a batch. That many waiting keys are sent before the interval ends. Default 1,000. */
  readonly batchKeysMax?: number;
  /** Most bytes of a body, unless one key alone is longer. Below the server's MAX_BODY_BYTES. Default 512 KiB. */
  readonly batchBytesMax?: number;
  /** Most keys held: waiting, in flight, and refused but not yet reported. Default 100,000. */
  readonly bufferKeysMax?: number;
  /** The server's MAX_KEY_BYTES. The client refuses longer keys, so that they do not delay others. Default 512. */
  readonly keyBytesMax?: number;
  /** Longest wait for an answer. Should be above the server's ACK_TIMEOUT_MS. Default 10,000. */
  readonly requestTimeoutMs?: number;
  /** After attempt n the client waits a random time from 0 to this × 2^(n−1). Default 100. */
  readonly retryBaseMs?: number;
  /** Limit of that wait. The time of Retry-After is added. Default 10,000. */
  readonly retryDelayMsMax?: number;
  /** How long a batch is retried. Must be well below the server's IDEMPOTENCY_WINDOW_HOURS. Default 12 hours. */
  readonly retryForMsMax?: number;
  /** How long a batch is retried that the server refuses with 401 or 403, as while a token is replaced. 0: not. Default 60,000. */
  readonly authRetryMs?: number;
  /**
   * What `increment` does with what it cannot take: an illegal key or amount, a full buffer, a closed client. `throw`, or
   * `report`: it returns false, and `onError` gets the error. Default `throw`.
   */
  readonly incrementErrors?: 'throw' | 'report' | undefined;
  /** Replaces the global `fetch`. It must end when its signal aborts. */
  readonly fetch?: typeof globalThis.fetch;
  /** Called once for each batch that is refused for good. If it throws, that is an unhandled rejection. */
  readonly onError?: ((error: CounterClientError) => void) | undefined;
  /** Called for each failed attempt that is repeated. If it throws, that is an unhandled rejection. */
  readonly onRetry?: ((retry: Retry) => void) | undefined;
}

/** Ends a wait early. */
export interface WaitOptions {
  readonly signal?: AbortSignal | undefined;
}

interface ErrorFields {
  readonly cause?: unknown;
  readonly status?: number | undefined;
  readonly retryable?: boolean;
  readonly counted?: Counted;
  readonly retryAfterMs?: number;
  readonly refused?: readonly RefusedBatch[];
}

/**
 * The error of this client. `code` comes from the server (`invalid-request`, `overloaded`, …) or from the client:
 * `buffer-full`, `closed`, `invalid-increment` (reported instead of thrown), `aborted`, `timeout`, `network` (no complete
 * answer), `unexpected-answer` (not the answer of a counter server). The message of a request begins with its method and
 * URL.
 */
export class CounterClientError extends Error {
  override readonly name = 'CounterClientError';
  readonly code: string;
  /** HTTP status, if there was an answer. */
  readonly status: number | undefined;
  /** True if the same call can succeed later. */
  readonly retryable: boolean;
  /** `no` if nothing of the request or the batches is counted or ever will be. */
  readonly counted: Counted;
  /** How long the server asks to wait. */
  readonly retryAfterMs: number;
  /** The batches that the client gave up with this error. */
  readonly refused: readonly RefusedBatch[];

  constructor(code: string, message: string, fields: ErrorFields = {}) {
    super(message, 'cause' in fields ? { cause: fields.cause } : undefined);
    this.code = code;
    this.status = fields.status;
    this.retryable = fields.retryable ?? false;
    this.counted = fields.counted ?? 'no';
    this.retryAfterMs = fields.retryAfterMs ?? 0;
    this.refused = fields.refused ?? [];
  }
}

/** A number while it is a safe integer. */
type Sum = number | bigint;
type State =
  | { readonly kind: 'idle' }
  | { readonly kind: 'waiting'; readonly timer: ReturnType<typeof setTimeout> }
  | { readonly kind: 'sending'; readonly keys: number };

/** A call of flush or close. It waits until `target` keys have left the buffer and are settled. */
interface Waiter {
  readonly target: number;
  readonly refusals: CounterClientError[];
  readonly settle: () => void;
}

interface Request {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

interface Answer {
  /** Method and URL of the request, for messages. */
  readonly request: string;
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

const AMOUNT_MAX = Number.MAX_SAFE_INTEGER;
const SETTING_MAX = 2 ** 31 - 1;
/** Most keys that the server reads in one request. */
const READ_KEYS_MAX = 100;
const utf8 = new TextEncoder();
const numbersByDefault = {
  intervalMs: 100,
  batchKeysMax: 1000,
  batchBytesMax: 512 * 1024,
  bufferKeysMax: 100_000,
  keyBytesMax: 512,
  requestTimeoutMs: 10_000,
  retryBaseMs: 100,
  retryDelayMsMax: 10_000,
  retryForMsMax: 12 * 60 * 60 * 1000,
  authRetryMs: 60_000,
} as const satisfies Partial<CounterClientOptions>;

/** Sends increments to a server, and reads and deletes counters. */
export class CounterClient {
  readonly #url: string;
  readonly #token: () => string | Promise<string> | undefined;
  readonly #settings: Readonly<Record<keyof typeof numbersByDefault, number>>;
  readonly #fetch: typeof globalThis.fetch;
  readonly #incrementErrors: 'throw' | 'report';
  readonly #onError: ((error: CounterClientError) => void) | undefined;
  readonly #onRetry: ((retry: Retry) => void) | undefined;
  readonly #buffer = new Map<string, Sum>();
  readonly #waiters = new Set<Waiter>();
  /** Aborted by the signal of a close. */
  readonly #abandonment = new AbortController();
  #state: State = { kind: 'idle' };
  #isClosed = false;
  /** Keys that have ever entered the buffer, and how many of them are acknowledged or refused. */
  #keysEntered = 0;
  #keysSettled = 0;
  /** Refusals that no flush has reported yet. With `onError`, which reports all of them, only the first. */
  #refusals: CounterClientError[] = [];
  #refusedKeys = 0;
  #retries = 0;
  #lastError: CounterClientError | undefined;

  /** Throws TypeError or RangeError for settings that cannot work. Opens no connection. */
  constructor(options: CounterClientOptions) {
    const url = new URL(options.url);
    if (!/^https?:$/.test(url.protocol) || url.username + url.password + url.search + url.hash !== '') {
      throw new TypeError('url must be http: or https:, without credentials, query and fragment');
    }
    this.#url = url.href.replace(/\/+$/, '');
    const { token } = options;
    // Throws for a token that cannot be sent. In `fetch` it would look like a network failure.
    if (typeof token === 'string') authorizationOf(token);
    this.#token = typeof token === 'function' ? token : () => token;
    this.#settings = { ...numbersByDefault };
    for (const name of Object.keys(numbersByDefault) as readonly (keyof typeof numbersByDefault)[]) {
      const value = options[name] ?? numbersByDefault[name];
      const least = name === 'authRetryMs' ? 0 : 1;
      if (!Number.isInteger(value) || value < least || value > SETTING_MAX) {
        throw new RangeError(`${name} must be a whole number from ${least} to ${SETTING_MAX}`);
      }
      this.#settings = { ...this.#settings, [name]: value };
    }
    if (this.#settings.batchKeysMax > this.#settings.bufferKeysMax) {
      throw new RangeError('batchKeysMax must not be above bufferKeysMax');
    }
    // A browser's own fetch must be called as a method of the global object.
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.#onError = options.onError;
    this.#onRetry = options.onRetry;
    this.#incrementErrors = options.incrementErrors ?? 'throw';
    if (!['throw', 'report'].includes(this.#incrementErrors))
      throw new TypeError('incrementErrors must be "throw" or "report"');
    if (this.#incrementErrors === 'report' && this.#onError === undefined)
      throw new TypeError('incrementErrors "report" needs onError');
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
      this.#take(given);
      return true;
    }
    try {
      this.#take(given);
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
    this.#lastError = error;
    if (this.#onError !== undefined) void Promise.resolve(error).then(this.#onError);
  }

  #take(taken: readonly Increment[]): void {
    if (this.#isClosed) throw new CounterClientError('closed', 'The client is closed; nothing was counted.');
    const strangers = new Set<string>();
    for (const [key, amount] of taken) {
      this.#checkKey(key);
      checkAmount(amount);
      if (!this.#buffer.has(key)) strangers.add(key);
    }
    const held = this.#buffer.size + this.#refusedKeys + (this.#state.kind === 'sending' ? this.#state.keys : 0);
    if (strangers.size > 0 && held + strangers.size > this.#settings.bufferKeysMax) {
      const detail = `${held} keys are held of at most ${this.#settings.bufferKeysMax}; nothing was counted.`;
      throw new CounterClientError('buffer-full', detail, { retryable: true });
    }
    for (const [key, amount] of taken) this.#buffer.set(key, add(this.#buffer.get(key) ?? 0, amount));
    this.#keysEntered += strangers.size;
    this.#schedule();
  }

  /**
   * Sends without waiting for the interval. Resolves once everything that was passed in before is acknowledged. If
   * batches were refused for good, waits for the rest, then rejects with a {@link CounterClientError}, whose `refused`
   * has the batches that no earlier flush has reported. `signal` ends the wait (`aborted`), not the sending.
   */
  flush({ signal }: WaitOptions = {}): Promise<void> {
    return this.#settled(signal, 'keep-sending');
  }

  /** Flushes, and takes no more increments. `signal` also ends the sending: batches without an answer are refused. */
  close({ signal }: WaitOptions = {}): Promise<void> {
    this.#isClosed = true;
    return this.#settled(signal, 'abandon');
  }

  /**
   * The counter's exact sum on the server, or undefined if it was never counted. Increments that wait in this client
   * are not included. Makes one attempt. Rejects with {@link CounterClientError}, or TypeError or RangeError for a bad
   * key.
   */
  async get(key: string, { signal }: WaitOptions = {}): Promise<bigint | undefined> {
    this.#checkKey(key);
    const answer = await this.#exchange(`/key_sum?name=${encodeURIComponent(key)}`, {}, signal);
    if (answer.status === 200 && /^-?\d+$/.test(answer.text)) return BigInt(answer.text);
    const failure = failureOf(answer);
    if (failure.code === 'unknown-counter') return undefined;
    throw this.#failed(failure);
  }

  /**
   * The sums of many counters by key, undefined for one that was never counted. Up to 100 keys are read in one snapshot;
   * more take one request for each 100. Otherwise as {@link get}.
   */
  async getMany(keys: Iterable<string>, { signal }: WaitOptions = {}): Promise<Map<string, bigint | undefined>> {
    const asked = [...new Set(keys)];
    for (const key of asked) this.#checkKey(key);
    const sums = new Map<string, bigint | undefined>();
    for (let from = 0; from < asked.length; from += READ_KEYS_MAX) {
      const part = asked.slice(from, from + READ_KEYS_MAX);
      const [only] = part;
      if (part.length === 1 && only !== undefined) {
        sums.set(only, await this.get(only, { signal }));
        continue;
      }
      const query = part.map((key) => `key=${encodeURIComponent(key)}`).join('&');
      const answer = await this.#exchange(`/counters?${query}`, {}, signal);
      const read = answer.status === 200 ? sumsOf(answer.text) : undefined;
      if (read === undefined) throw this.#failed(failureOf(answer));
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
    this.#checkKey(key);
    const headers = { 'idempotency-key': randomIdempotencyKey() };
    const failures = new Failures(this.#settings);
    for (;;) {
      const failure = await this.#exchange(
        `/counters?key=${encodeURIComponent(key)}`,
        { method: 'DELETE', headers },
        signal,
      )
        .then((answer) => {
          const sum = answer.status === 200 ? /"sum":\s*(-?\d+)/.exec(answer.text)?.[1] : undefined;
          return sum === undefined ? failureOf(answer) : BigInt(sum);
        })
        .catch((error: unknown) =>
          error instanceof CounterClientError ? error : networkError(`DELETE ${this.#url}`, error),
        );
      if (typeof failure === 'bigint') return failure;
      if (failure.code === 'unknown-counter') return undefined;
      const delayMs = failures.delayMsAfter(this.#failed(failure));
      if (delayMs === undefined) throw failure;
      this.#announce(failure, failures.attempts, delayMs);
      await pause(delayMs, signal);
    }
  }

  /** What the client holds now, and what it has met. */
  stats(): CounterClientStats {
    return {
      pending: this.#buffer.size,
      inFlight: this.#state.kind === 'sending' ? this.#state.keys : 0,
      retries: this.#retries,
      lastError: this.#lastError,
    };
  }

  /** Closes the client, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Keeps the error for {@link stats}. */
  #failed(error: CounterClientError): CounterClientError {
    this.#lastError = error;
    return error;
  }

  #announce(error: CounterClientError, attempt: number, delayMs: number): void {
    this.#retries += 1;
    if (this.#onRetry !== undefined) void Promise.resolve({ error, attempt, delayMs }).then(this.#onRetry);
  }

  #checkKey(key: string): void {
    if (typeof key !== 'string') throw new TypeError('a key must be a string');
    const { keyBytesMax } = this.#settings;
    if (key === '') throw new RangeError('a key must not be empty');
    if (key.includes('\0')) throw new RangeError('a key must not contain U+0000');
    if (/\p{Surrogate}/u.test(key)) throw new RangeError('a key must not contain an unpaired surrogate');
    if (key.length * 3 > keyBytesMax && utf8.encode(key).length > keyBytesMax) {
      throw new RangeError(`a key must have at most ${keyBytesMax} bytes of UTF-8`);
    }
  }

  async #settled(signal: AbortSignal | undefined, onAbort: 'keep-sending' | 'abandon'): Promise<void> {
    const refusals = this.#refusals;
    this.#refusals = [];
    this.#refusedKeys = 0;
    const isCutShort = await new Promise<boolean>((resolve) => {
      const end = (cutShort: boolean): void => {
        this.#waiters.delete(waiter);
        signal?.removeEventListener('abort', abort);
        resolve(cutShort);
      };
      const abort = (): void => {
        if (onAbort === 'keep-sending') end(true);
        else this.#abandonment.abort();
      };
      const waiter: Waiter = { target: this.#keysEntered, refusals, settle: () => end(false) };
      this.#waiters.add(waiter);
      this.#settleWaiters();
      if (!this.#waiters.has(waiter)) return;
      signal?.addEventListener('abort', abort);
      if (signal?.aborted === true) abort();
      this.#schedule();
    });
    const [first] = refusals;
    if (first !== undefined) throw refusals.length === 1 ? first : merged(first, refusals);
    if (!isCutShort) return;
    const cause: unknown = signal?.reason;
    throw new CounterClientError('aborted', 'The wait was ended.', { retryable: true, counted: 'unknown', cause });
  }

  #settleWaiters(): void {
    for (const waiter of this.#waiters) if (waiter.target <= this.#keysSettled) waiter.settle();
  }

  #isUrgent(): boolean {
    return this.#waiters.size > 0 || this.#buffer.size >= this.#settings.batchKeysMax;
  }

  #schedule(): void {
    const state = this.#state;
    if (state.kind === 'sending' || this.#buffer.size === 0) return;
    if (this.#isUrgent()) {
      if (state.kind === 'waiting') clearTimeout(state.timer);
      void this.#send();
    } else if (state.kind === 'idle') {
      const timer = setTimeout(() => void this.#send(), this.#settings.intervalMs);
      this.#state = { kind: 'waiting', timer };
    }
  }

  async #send(): Promise<void> {
    do {
      const { increments, keys } = this.#cutBatch();
      this.#state = { kind: 'sending', keys };
      await this.#deliver(increments);
      this.#keysSettled += keys;
      this.#settleWaiters();
    } while (this.#buffer.size > 0 && this.#isUrgent());
    this.#state = { kind: 'idle' };
    this.#schedule();
  }

  /** Takes the oldest keys. A sum too large for one amount is split: its key stays in its place with the rest. */
  #cutBatch(): { readonly increments: readonly Increment[]; readonly keys: number } {
    const increments: Increment[] = [];
    let keys = 0;
    let bytes = 2;
    for (const [key, sum] of this.#buffer) {
      const amount = typeof sum === 'number' ? sum : sum > 0n ? AMOUNT_MAX : -AMOUNT_MAX;
      bytes += utf8.encode(memberText([key, amount])).length + 1;
      if (increments.length === this.#settings.batchKeysMax) break;
      if (increments.length > 0 && bytes > this.#settings.batchBytesMax) break;
      increments.push([key, amount]);
      if (typeof sum === 'bigint') {
        this.#buffer.set(key, add(sum, -amount));
        continue;
      }
      this.#buffer.delete(key);
      keys += 1;
    }
    return { increments, keys };
  }

  /** Resolves once the batch is acknowledged or refused. Never rejects. */
  async #deliver(increments: readonly Increment[]): Promise<void> {
    const token = randomIdempotencyKey();
    const body = `{${increments.map(memberText).join(',')}}`;
    const failures = new Failures(this.#settings);
    let counted: Counted = 'no';
    for (;;) {
      const failure = await this.#attempt(token, body);
      if (failure === undefined) return;
      this.#failed(failure);
      if (failure.counted === 'unknown') counted = 'unknown';
      const isDivisible = failure.status === 413 || failure.code === 'invalid-request';
      // Halves are new batches with new keys, so no earlier attempt may have counted the whole.
      if (isDivisible && counted === 'no' && increments.length > 1) {
        const half = increments.length >> 1;
        await this.#deliver(increments.slice(0, half));
        return this.#deliver(increments.slice(half));
      }
      const delayMs = failures.delayMsAfter(failure);
      if (delayMs === undefined) {
        this.#refuse(failure, { increments, counted, token });
        return;
      }
      this.#announce(failure, failures.attempts, delayMs);
      await pause(delayMs, this.#abandonment.signal);
    }
  }

  /** Sends a batch once. Resolves to undefined if it is acknowledged. */
  async #attempt(token: string, body: string): Promise<CounterClientError | undefined> {
    const { signal } = this.#abandonment;
    if (signal.aborted) return new CounterClientError('aborted', 'The client was closed before it was sent.');
    try {
      const headers = { 'content-type': 'application/json', 'idempotency-key': token };
      const answer = await this.#exchange('/increment', { method: 'POST', headers, body }, signal);
      return answer.status === 202 ? undefined : failureOf(answer);
    } catch (error) {
      return error instanceof CounterClientError ? error : networkError(`POST ${this.#url}/increment`, error);
    }
  }

  #refuse(failure: CounterClientError, batch: RefusedBatch): void {
    const { code, status, retryable, retryAfterMs } = failure;
    const { counted, increments } = batch;
    const fields = { status, retryable, retryAfterMs, counted, refused: [batch], cause: failure };
    const error = new CounterClientError(code, `Given up on ${increments.length} keys: ${failure.message}`, fields);
    for (const { refusals } of this.#waiters) refusals.push(error);
    // Without `onError` only a flush reports the batch. Until then it counts against the buffer.
    if (this.#waiters.size === 0 && (this.#onError === undefined || this.#refusals.length === 0)) {
      this.#refusals.push(error);
      if (this.#onError === undefined) this.#refusedKeys += increments.length;
    }
    if (this.#onError !== undefined) void Promise.resolve(error).then(this.#onError);
  }

  /** Sends one request and reads the complete answer. Rejects with `network`, `timeout` or `aborted`. */
  async #exchange(path: string, given: Request, signal: AbortSignal | undefined): Promise<Answer> {
    const { requestTimeoutMs } = this.#settings;
    // A query may be long, and it holds keys only.
    const name = `${given.method ?? 'GET'} ${this.#url}${path.replace(/\?.*$/s, '')}`;
    const controller = new AbortController();
    const end = (code: string, detail: string, cause?: unknown): void =>
      controller.abort(
        new CounterClientError(code, `${name}: ${detail}`, {
          retryable: code === 'timeout',
          counted: 'unknown',
          cause,
        }),
      );
    const abort = (): void => end('aborted', 'The request was ended before its answer.', signal?.reason);
    const timer = setTimeout(() => end('timeout', `No answer within ${requestTimeoutMs} ms.`), requestTimeoutMs);
    signal?.addEventListener('abort', abort);
    if (signal?.aborted === true) abort();
    try {
      const headers = { ...authorizationOf(await orAbort(this.#token(), controller.signal)), ...given.headers };
      // A redirected POST may arrive as a GET, so a redirect is an unexpected answer.
      const request = { ...given, headers, redirect: 'manual', cache: 'no-store', signal: controller.signal } as const;
      const send = this.#fetch;
      const response = await send(this.#url + path, request);
      const { status } = response;
      // The status 202 is enough, even if the body is lost.
      const text = status === 202 ? await response.text().catch(() => '') : await response.text();
      return { request: name, status, headers: response.headers, text };
    } catch (error) {
      const reason: unknown = controller.signal.reason;
      throw this.#failed(reason instanceof CounterClientError ? reason : networkError(name, error));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
}

function isIterable(given: Iterable<Increment> | Readonly<Record<string, number>>): given is Iterable<Increment> {
  return Symbol.iterator in given;
}

function checkAmount(amount: number): void {
  if (typeof amount !== 'number') throw new TypeError('an amount must be a number');
  if (!Number.isSafeInteger(amount)) throw new RangeError('an amount must be an integer within ±(2^53 − 1)');
}

/** Exact; -0 becomes 0. */
function add(a: Sum, b: Sum): Sum {
  if (typeof a === 'number' && typeof b === 'number' && Number.isSafeInteger(a + b)) return a + b;
  const exact = BigInt(a) + BigInt(b);
  return exact <= AMOUNT_MAX && exact >= -AMOUNT_MAX ? Number(exact) : exact;
}

/** A member of the body. Not made from an object, where `__proto__` and the order of keys would matter. */
function memberText([key, amount]: Increment): string {
  return `${JSON.stringify(key)}:${amount}`;
}

/** 128 random bits. Pages loaded over plain HTTP lack `crypto.randomUUID`. */
function randomIdempotencyKey(): string {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Milliseconds since the call: the larger of two clocks, as one stops while the machine sleeps and one can be set. */
function stopwatch(): () => number {
  const wall = Date.now();
  const monotonic = performance.now();
  return () => Math.max(Date.now() - wall, performance.now() - monotonic);
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener('abort', end);
    if (signal?.aborted === true) end();
  });
}

function networkError(request: string, cause: unknown): CounterClientError {
  return new CounterClientError('network', `${request}: no answer: ${reasonOf(cause)}`, {
    retryable: true,
    counted: 'unknown',
    cause,
  });
}

/** The messages of an error and of its causes: `fetch failed` alone says nothing, its cause has the reason. */
function reasonOf(error: unknown): string {
  const reasons: string[] = [];
  for (let cause = error, depth = 0; cause !== undefined && cause !== null && depth < 5; depth += 1) {
    const { message, code, errors, cause: next } = Object(cause) as Partial<Record<string, unknown>>;
    if (typeof message === 'string' && message !== '') reasons.push(message);
    // A host with several addresses fails with an error for each, under an empty message.
    else if (Array.isArray(errors)) reasons.push(errors.map(reasonOf).join('; '));
    else if (typeof code === 'string') reasons.push(code);
    cause = next;
  }
  return reasons.join(': ') || String(error);
}

/** The value, unless the signal aborts first: then its reason is thrown. */
function orAbort<T>(value: T | Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    // The reason is an error of this client.
    const abort = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', abort);
    if (signal.aborted) abort();
    Promise.resolve(value)
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', abort));
  });
}

/** The header with a token. Throws for a token that cannot be sent. */
function authorizationOf(token: string | undefined): Readonly<Record<string, string>> {
  if (token === undefined) return {};
  const headers = { authorization: `Bearer ${token}` };
  new Headers(headers);
  return headers;
}

/** The sums by key of an answer with counters; undefined if it is none. */
function sumsOf(text: string): Map<string, bigint | undefined> | undefined {
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

/** Counts the failed attempts of one request and decides whether and when it is repeated. */
class Failures {
  readonly #settings: Readonly<Record<keyof typeof numbersByDefault, number>>;
  readonly #elapsedMs = stopwatch();
  /** When the first refusal of the token came, on that clock. */
  #refusedAtMs: number | undefined;
  attempts = 0;

  constructor(settings: Readonly<Record<keyof typeof numbersByDefault, number>>) {
    this.#settings = settings;
  }

  /** The wait before the next attempt; undefined if there is none. */
  delayMsAfter(failure: CounterClientError): number | undefined {
    const { retryBaseMs, retryDelayMsMax } = this.#settings;
    this.attempts += 1;
    const remainingMs = this.#remainingMs(failure);
    if (remainingMs <= 0) return undefined;
    const jitterMs = Math.random() * Math.min(retryDelayMsMax, retryBaseMs * 2 ** (this.attempts - 1));
    return Math.min(failure.retryAfterMs + jitterMs, remainingMs);
  }

  #remainingMs({ status, retryable }: CounterClientError): number {
    const { retryForMsMax, authRetryMs } = this.#settings;
    const now = this.#elapsedMs();
    const remainingMs = retryForMsMax - now;
    if (status !== 401 && status !== 403) {
      this.#refusedAtMs = undefined;
      return retryable ? remainingMs : 0;
    }
    this.#refusedAtMs ??= now;
    return Math.min(remainingMs, this.#refusedAtMs + authRetryMs - now);
  }
}

/** The error of an unsuccessful answer: a problem document of the server, or the answer of a proxy. */
function failureOf({ request, status, headers, text }: Answer): CounterClientError {
  const retryAfterMs = retryAfterOf(headers.get('retry-after'));
  const problem = problemOf(headers.get('content-type') ?? '', text);
  if (problem !== undefined) {
    const message = `${request}: ${status} ${problem.code}: ${problem.detail}`;
    return new CounterClientError(problem.code, message, { ...problem, status, retryAfterMs });
  }
  const retryable = [408, 425, 429].includes(status) || (status >= 500 && status !== 501 && status !== 505);
  // A proxy that refuses a body because of its size has not forwarded all of it.
  const counted = status === 413 ? 'no' : 'unknown';
  const detail = `${request}: status ${status}, which is not an answer of a counter server.`;
  return new CounterClientError('unexpected-answer', detail, { status, retryable, counted, retryAfterMs });
}

interface Problem {
  readonly code: string;
  readonly detail: string;
  readonly retryable: boolean;
  readonly counted: Counted;
}

function problemOf(contentType: string, text: string): Problem | undefined {
  if (!/^application\/problem\+json\b/i.test(contentType)) return undefined;
  try {
    // Every member is checked before it is used.
    const { code, detail, retryable, counted } = JSON.parse(text) as Partial<Record<string, unknown>>;
    if (typeof code !== 'string' || typeof retryable !== 'boolean') return undefined;
    return { code, detail: String(detail), retryable, counted: counted === 'no' ? 'no' : 'unknown' };
  } catch {
    return undefined;
  }
}

/** Seconds or a date (RFC 9110, 10.2.3) as ms from now. */
function retryAfterOf(value: string | null): number {
  if (value === null) return 0;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return ms > 0 ? ms : 0;
}

function merged(first: CounterClientError, refusals: readonly CounterClientError[]): CounterClientError {
  const { code, status, retryable } = first;
  const refused = refusals.flatMap((error) => error.refused);
  const counted = refused.some((batch) => batch.counted === 'unknown') ? 'unknown' : 'no';
  const message = `Given up on ${refused.length} batches, first: ${first.message}`;
  return new CounterClientError(code, message, { status, retryable, counted, refused, cause: first });
}
