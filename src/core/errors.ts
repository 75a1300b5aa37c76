/**
 * The error catalogue: every error that users or operators see, with its stable code. Any thread.
 *
 * An error is thrown as a {@link CounterError}. It crosses a port as `code` and `detail`, because an Error object loses its
 * class there. It leaves the process as a problem document (RFC 9457).
 */

/** Whether the attempt that got the error was counted. */
export type Counted = 'no' | 'unknown';

interface CatalogueEntry {
  readonly status: number;
  readonly title: string;
  readonly retryable: boolean;
  readonly counted: Counted;
}

function entry(status: number, title: string, retryable = false, counted: Counted = 'no'): CatalogueEntry {
  return { status, title, retryable, counted };
}

/** Code → HTTP status, title, whether a retry can succeed, and whether the attempt was counted. */
export const errorCatalogue = {
  'invalid-request': entry(400, 'The request is malformed'),
  unauthorized: entry(401, 'A valid bearer token is required'),
  forbidden: entry(403, 'The token lacks the scope for this operation'),
  'not-found': entry(404, 'There is nothing at this path'),
  'unknown-counter': entry(404, 'The counter does not exist'),
  'method-not-allowed': entry(405, 'The method is not allowed here'),
  'body-too-large': entry(413, 'The body is larger than this server accepts'),
  'unsupported-encoding': entry(415, 'The content encoding is not supported'),
  'idempotency-mismatch': entry(422, 'The idempotency key was used with other content'),
  'outcome-unknown': entry(500, 'The outcome of the request is unknown', true, 'unknown'),
  'internal-error': entry(500, 'The server met an error of its own', false),
  overloaded: entry(503, 'The server is at one of its bounds', true),
  starting: entry(503, 'The server is starting', true),
  draining: entry(503, 'The server is shutting down', true),
  'journal-unavailable': entry(503, 'The journal cannot take increments', true),
  'database-unavailable': entry(503, 'The database cannot be reached', true),
  'roll-up-behind': entry(503, 'Earlier increments are not flushed yet', true),
} as const satisfies Record<string, CatalogueEntry>;

/** The stable name, in kebab case, of an error that a client can receive. */
export type ErrorCode = keyof typeof errorCatalogue;

/** All codes in the order of the catalogue. A code crosses a port as its index. */
export const errorCodes: readonly ErrorCode[] = Object.freeze(
  // Object.keys of a literal of known keys; the catalogue has no other members.
  Object.keys(errorCatalogue) as ErrorCode[],
);

/** An error of the catalogue. `detail` is a sentence for the client, without secrets. */
export class CounterError extends Error {
  override readonly name = 'CounterError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, detail: string, options?: ErrorOptions) {
    super(detail, options);
    this.code = code;
  }

  get detail(): string {
    return this.message;
  }
}

/**
 * A start that cannot succeed until an operator changes something: bad configuration, a database that refuses the
 * server, a data directory in use. `problems` holds one sentence for each problem. The process prints them and exits
 * with `exitCode`: 78 (EX_CONFIG of sysexits.h), or another code if the cause is not configuration.
 */
export class StartError extends Error {
  override readonly name = 'StartError';
  readonly problems: readonly string[];
  readonly exitCode: number;

  constructor(problems: readonly string[], options?: ErrorOptions & { readonly exitCode?: number }) {
    super(problems.join('\n'), options);
    this.problems = problems;
    this.exitCode = options?.exitCode ?? 78;
  }
}

/**
 * Why the journal refused or failed. docs/errors.md describes each code.
 *
 * - `journal-unavailable`, `journal-full`, `journal-fenced`: nothing of the group was kept.
 * - `journal-failed`: the group may have been kept; the journal cannot be used until it is recovered.
 * - All others: the journal cannot be used as it is, which ends the start or the shard.
 */
export type JournalErrorCode =
  | 'journal-unavailable'
  | 'journal-full'
  | 'journal-failed'
  | 'journal-corrupt'
  | 'journal-gap'
  | 'journal-format'
  | 'journal-foreign'
  | 'journal-copied'
  | 'checkpoint-missing'
  | 'journal-fenced';

/** A restart does not help with these. An operator must change something first. */
const JOURNAL_VERDICTS: readonly JournalErrorCode[] = [
  'journal-corrupt',
  'journal-gap',
  'journal-format',
  'journal-foreign',
  'journal-copied',
  'checkpoint-missing',
];

/** Whether an operator must change something before the journal can be used. */
export function isJournalVerdict(code: JournalErrorCode): boolean {
  return JOURNAL_VERDICTS.includes(code);
}

/** A failure of the journal, with the stable code in the log. */
export class JournalError extends Error {
  override readonly name = 'JournalError';
  readonly code: JournalErrorCode;

  constructor(code: JournalErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  /** Whether the journal kept nothing of the group, so that the caller may answer "not counted". */
  get nothingKept(): boolean {
    return this.code === 'journal-unavailable' || this.code === 'journal-full' || this.code === 'journal-fenced';
  }
}

/** An error's message. A host with several addresses fails with one error for each, under an empty message. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join('; ');
  return error instanceof Error ? error.message : String(error);
}

/** Most causes of an error that are followed, because a chain may be a circle. */
const CAUSES_MAX = 8;

/** An error and its causes, outermost first. */
export function causesOf(error: unknown): readonly unknown[] {
  const chain = [error];
  while (chain.length <= CAUSES_MAX) {
    const last = chain.at(-1);
    if (!(last instanceof Error) || last.cause === undefined || last.cause === null) break;
    chain.push(last.cause);
  }
  return chain;
}

/** The messages of an error and its causes, outermost first, without those that an earlier message contains. */
export function reasonsOf(error: unknown): string {
  let reasons = '';
  for (const reason of causesOf(error).map(reasonOf)) {
    if (reasons.includes(reason)) continue;
    reasons = reasons === '' ? reason : `${reasons.replace(/\.$/, '')}: ${reason}`;
  }
  return reasons;
}

/**
 * The `code` of a system error (`ENOSPC`, `EIO`, …), or undefined for anything else: a failed assertion, an `ERR_…` of
 * Node.js, a simulated crash. Callers must not handle those.
 */
export function systemErrorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return undefined;
  return /^E[A-Z0-9]+$/.test(error.code) ? error.code : undefined;
}
