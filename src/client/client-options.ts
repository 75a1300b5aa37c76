/** The options of a client: their defaults and bounds. */
import type { CounterClientError } from './client-error.js';

/** An attempt failed, and the client makes another one. */
export interface Retry {
  /** Why the attempt failed. */
  readonly error: CounterClientError;
  /** 1 after the first attempt. */
  readonly attempt: number;
  /** The wait before the next attempt. */
  readonly delayMs: number;
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

const SETTING_MAX = 2 ** 31 - 1;

const NUMBERS_BY_DEFAULT = {
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

/** The options that are numbers, each checked or its default. */
export type ClientNumbers = Readonly<Record<keyof typeof NUMBERS_BY_DEFAULT, number>>;

/** The URL without a slash at its end. Throws TypeError for one that cannot work. */
export function checkedUrl(given: string | URL): string {
  const url = new URL(given);
  if (!/^https?:$/.test(url.protocol) || url.username + url.password + url.search + url.hash !== '') {
    throw new TypeError('url must be http: or https:, without credentials, query and fragment');
  }
  return url.href.replace(/\/+$/, '');
}

/** Throws RangeError for a number out of its bounds. */
export function checkedNumbers(options: CounterClientOptions): ClientNumbers {
  const numbers: Record<keyof ClientNumbers, number> = { ...NUMBERS_BY_DEFAULT };
  // The members of an object literal.
  for (const name of Object.keys(NUMBERS_BY_DEFAULT) as readonly (keyof ClientNumbers)[]) {
    const value = options[name] ?? NUMBERS_BY_DEFAULT[name];
    const least = name === 'authRetryMs' ? 0 : 1;
    if (!Number.isInteger(value) || value < least || value > SETTING_MAX) {
      throw new RangeError(`${name} must be a whole number from ${least} to ${SETTING_MAX}`);
    }
    numbers[name] = value;
  }
  if (numbers.batchKeysMax > numbers.bufferKeysMax) {
    throw new RangeError('batchKeysMax must not be above bufferKeysMax');
  }
  return numbers;
}

/** Throws TypeError for a choice that cannot work. */
export function checkedIncrementErrors({
  incrementErrors = 'throw',
  onError,
}: CounterClientOptions): 'throw' | 'report' {
  if (!['throw', 'report'].includes(incrementErrors))
    throw new TypeError('incrementErrors must be "throw" or "report"');
  if (incrementErrors === 'report' && onError === undefined)
    throw new TypeError('incrementErrors "report" needs onError');
  return incrementErrors;
}
