/** The error of the client, and the batches that it reports. */

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

/** No complete answer came, or one that could not be read. `request` is its method and URL. */
export function networkError(request: string, cause: unknown): CounterClientError {
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

/** The error of a flush that several batches were refused in. */
export function mergedRefusals(first: CounterClientError, refusals: readonly CounterClientError[]): CounterClientError {
  const { code, status, retryable } = first;
  const refused = refusals.flatMap((error) => error.refused);
  const counted = refused.some((batch) => batch.counted === 'unknown') ? 'unknown' : 'no';
  const message = `Given up on ${refused.length} batches, first: ${first.message}`;
  return new CounterClientError(code, message, { status, retryable, counted, refused, cause: first });
}
