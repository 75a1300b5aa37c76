/** What the client tells the application: by its callbacks, and in its stats. */
import type { CounterClientError } from './client-error.js';
import type { CounterClientOptions, Retry } from './client-options.js';

/** A callback runs after the call that it reports. If it throws, that is an unhandled rejection. */
export class Reports {
  readonly #onError: CounterClientOptions['onError'];
  readonly #onRetry: CounterClientOptions['onRetry'];
  #retries = 0;
  #lastError: CounterClientError | undefined;

  constructor({ onError, onRetry }: Pick<CounterClientOptions, 'onError' | 'onRetry'>) {
    this.#onError = onError;
    this.#onRetry = onRetry;
  }

  /** Whether the application learns of every batch that is refused. */
  get reachesApplication(): boolean {
    return this.#onError !== undefined;
  }

  get retries(): number {
    return this.#retries;
  }

  get lastError(): CounterClientError | undefined {
    return this.#lastError;
  }

  /** Keeps the error of an attempt or a call. Returns it. */
  failed(error: CounterClientError): CounterClientError {
    this.#lastError = error;
    return error;
  }

  refused(error: CounterClientError): void {
    if (this.#onError !== undefined) void Promise.resolve(error).then(this.#onError);
  }

  retried(retry: Retry): void {
    this.#retries += 1;
    if (this.#onRetry !== undefined) void Promise.resolve(retry).then(this.#onRetry);
  }
}
