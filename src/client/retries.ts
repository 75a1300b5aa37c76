/** Repeats a request until it succeeds or there is no use. */
import { CounterClientError, type Counted } from './client-error.js';
import type { ClientNumbers } from './client-options.js';
import type { Reports } from './reports.js';

/** What became of a request: its result, or the last failure and whether any attempt may have been counted. */
export type Outcome<Result> =
  | { readonly failure: undefined; readonly result: Result }
  | { readonly failure: CounterClientError; readonly counted: Counted };

/** Makes the attempts of all requests that are repeated. */
export class Retries {
  readonly #numbers: ClientNumbers;
  readonly #reports: Reports;

  constructor(numbers: ClientNumbers, reports: Reports) {
    this.#numbers = numbers;
    this.#reports = reports;
  }

  /**
   * Calls `attempt` until it resolves, or rejects with a CounterClientError that ends it: one that `isFinal` says so of, or
   * one that is not retryable any more. An abort of `signal` ends a wait, so that the attempt can reject.
   */
  async until<Result>(
    attempt: () => Promise<Result>,
    signal: AbortSignal | undefined,
    isFinal: (failure: CounterClientError, counted: Counted) => boolean = () => false,
  ): Promise<Outcome<Result>> {
    const failures = new Failures(this.#numbers);
    let counted: Counted = 'no';
    for (;;) {
      try {
        return { failure: undefined, result: await attempt() };
      } catch (failure) {
        if (!(failure instanceof CounterClientError)) throw failure;
        if (failure.counted === 'unknown') counted = 'unknown';
        const delayMs = isFinal(failure, counted) ? undefined : failures.delayMsAfter(failure);
        if (delayMs === undefined) return { failure, counted };
        this.#reports.retried({ error: failure, attempt: failures.attempts, delayMs });
        await pause(delayMs, signal);
      }
    }
  }
}

/** Counts the failed attempts of one request and decides whether and when it is repeated. */
class Failures {
  readonly #numbers: ClientNumbers;
  readonly #elapsedMs = stopwatch();
  /** When the first refusal of the token came, on that clock. */
  #refusedAtMs: number | undefined;
  attempts = 0;

  constructor(numbers: ClientNumbers) {
    this.#numbers = numbers;
  }

  /** The wait before the next attempt; undefined if there is none. */
  delayMsAfter(failure: CounterClientError): number | undefined {
    const { retryBaseMs, retryDelayMsMax } = this.#numbers;
    this.attempts += 1;
    const remainingMs = this.#remainingMs(failure);
    if (remainingMs <= 0) return undefined;
    const jitterMs = Math.random() * Math.min(retryDelayMsMax, retryBaseMs * 2 ** (this.attempts - 1));
    return Math.min(failure.retryAfterMs + jitterMs, remainingMs);
  }

  #remainingMs({ status, retryable }: CounterClientError): number {
    const { retryForMsMax, authRetryMs } = this.#numbers;
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

/** The same for all attempts of a request. 128 random bits. Pages loaded over plain HTTP lack `crypto.randomUUID`. */
export function randomIdempotencyKey(): string {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
