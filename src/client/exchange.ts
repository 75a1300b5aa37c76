/** One request over HTTP and its complete answer, without repeats. */
import { CounterClientError, networkError, type Counted } from './client-error.js';
import type { Reports } from './reports.js';

/** A request without what every request has. */
export interface Request {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** Path and query, behind the URL of the server. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** A complete answer. */
export interface Answer {
  /** Method and URL of the request, for messages. */
  readonly request: string;
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** Where requests go, and with which token. */
export interface ExchangeDeps {
  readonly url: string;
  readonly token: string | (() => string | Promise<string>) | undefined;
  readonly fetch: typeof globalThis.fetch | undefined;
  readonly requestTimeoutMs: number;
  readonly reports: Reports;
}

/** Sends requests. */
export class Exchange {
  readonly #url: string;
  readonly #token: () => string | Promise<string> | undefined;
  readonly #fetch: typeof globalThis.fetch;
  readonly #requestTimeoutMs: number;
  readonly #reports: Reports;

  /** Throws TypeError for a token that cannot be sent. In `fetch` it would look like a network failure. */
  constructor({ url, token, fetch, requestTimeoutMs, reports }: ExchangeDeps) {
    if (typeof token === 'string') authorizationOf(token);
    this.#url = url;
    this.#token = typeof token === 'function' ? token : () => token;
    // A browser's own fetch must be called as a method of the global object.
    this.#fetch = fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.#requestTimeoutMs = requestTimeoutMs;
    this.#reports = reports;
  }

  /**
   * Sends a request once, and reads its answer with `read`, which throws {@link failureOf} an answer that the request does
   * not ask for. Rejects with CounterClientError.
   */
  async send<Result>(
    request: Request,
    read: (answer: Answer) => Result,
    signal: AbortSignal | undefined,
  ): Promise<Result> {
    const { path, ...sent } = request;
    // A query may be long, and it holds keys only.
    const name = `${sent.method} ${this.#url}${path.replace(/\?.*$/s, '')}`;
    const answer = await this.#answerTo(name, this.#url + path, sent, signal);
    try {
      return read(answer);
    } catch (error) {
      throw this.#reports.failed(error instanceof CounterClientError ? error : networkError(name, error));
    }
  }

  /** Rejects with `network`, `timeout` or `aborted`. */
  async #answerTo(
    name: string,
    url: string,
    sent: Omit<Request, 'path'>,
    signal: AbortSignal | undefined,
  ): Promise<Answer> {
    const requestTimeoutMs = this.#requestTimeoutMs;
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
      const headers = { ...authorizationOf(await orAbort(this.#token(), controller.signal)), ...sent.headers };
      // A redirected POST may arrive as a GET, so a redirect is an unexpected answer.
      const init = { ...sent, headers, redirect: 'manual', cache: 'no-store', signal: controller.signal } as const;
      const send = this.#fetch;
      const response = await send(url, init);
      const { status } = response;
      // The status 202 is enough, even if the body is lost.
      const text = status === 202 ? await response.text().catch(() => '') : await response.text();
      return { request: name, status, headers: response.headers, text };
    } catch (error) {
      const reason: unknown = controller.signal.reason;
      throw this.#reports.failed(reason instanceof CounterClientError ? reason : networkError(name, error));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
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

/** The error of an unsuccessful answer: a problem document of the server, or the answer of a proxy. */
export function failureOf({ request, status, headers, text }: Answer): CounterClientError {
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
