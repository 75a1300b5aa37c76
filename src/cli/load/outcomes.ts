/** The outcomes of the requests of a load: acknowledged, refused with nothing counted, or unknown. Main thread of a command. */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { IncrementRequest } from './increment-requests.js';

/** The meaning of an answer for its attempt. */
export interface AnswerMeaning {
  readonly counted: 'yes' | 'no' | 'unknown';
  /** Status and code, such as `503 overloaded`. */
  readonly name: string;
  readonly detail: string;
}

/** Answers of one kind, or attempts without an answer. */
export interface AnswerCount {
  readonly name: string;
  /** Of the first one. */
  readonly detail: string;
  count: number;
}

/** Kinds of answers that are counted apart. */
const KINDS_MAX = 100;
const LATENCY_US_MAX = 3_600_000_000;
const DETAIL_LENGTH_MAX = 300;

/** The sums of a run. Memory does not grow with the number of requests. */
export class Outcomes {
  /** By number of the key: acknowledged increments, and those that may be counted. */
  readonly acknowledgedOf: Float64Array;
  readonly unknownOf: Float64Array;
  acknowledgedRequests = 0;
  refusedRequests = 0;
  unknownRequests = 0;
  acknowledgedIncrements = 0;
  unknownIncrements = 0;
  /** Requests that were resent with their idempotency key. */
  resentRequests = 0;
  /** Failed or lost connections, and the reason of the last one. */
  lostConnections = 0;
  lastConnectionError = '';
  /** `performance.now()` at the last acknowledgement. */
  lastAcknowledgedAt = 0;
  readonly #refusals = new Map<string, AnswerCount>();
  readonly #unclear = new Map<string, AnswerCount>();
  readonly #latencyUs: RecordableHistogram = createHistogram({ lowest: 1, highest: LATENCY_US_MAX, figures: 3 });

  constructor(keyCount: number) {
    this.acknowledgedOf = new Float64Array(keyCount);
    this.unknownOf = new Float64Array(keyCount);
  }

  acknowledge({ keyNumbers }: IncrementRequest, latencyMs: number, now: number): void {
    add(this.acknowledgedOf, keyNumbers);
    this.acknowledgedRequests += 1;
    this.acknowledgedIncrements += keyNumbers.length;
    this.lastAcknowledgedAt = now;
    this.#latencyUs.record(Math.min(LATENCY_US_MAX, Math.max(1, Math.round(latencyMs * 1000))));
  }

  /** Nothing of the request is or will be counted. */
  refuse(meaning: Pick<AnswerMeaning, 'name' | 'detail'>): void {
    this.refusedRequests += 1;
    countIn(this.#refusals, meaning);
  }

  /** An attempt had no answer, or one that does not tell whether it was counted. The request may be resent. */
  unclear(meaning: Pick<AnswerMeaning, 'name' | 'detail'>): void {
    countIn(this.#unclear, meaning);
  }

  /** It stays unknown whether the request was counted. */
  giveUp({ keyNumbers }: IncrementRequest): void {
    add(this.unknownOf, keyNumbers);
    this.unknownRequests += 1;
    this.unknownIncrements += keyNumbers.length;
  }

  /** Answers that refused a request, by kind, the most frequent first. */
  get refusals(): readonly AnswerCount[] {
    return mostFrequentFirst(this.#refusals);
  }

  /** Attempts without a clear answer, by kind, the most frequent first. */
  get unclearAttempts(): readonly AnswerCount[] {
    return mostFrequentFirst(this.#unclear);
  }

  /** Percentile of the latency of acknowledged requests in ms; 0 without any. `percent`: above 0, at most 100. */
  latencyMs(percent: number): number {
    return this.#latencyUs.count === 0 ? 0 : this.#latencyUs.percentile(percent) / 1000;
  }
}

/**
 * The meaning of an answer to POST /increment. Only a problem document proves that an attempt was not counted, because a proxy
 * may answer 502 or 503 for a request that it has passed on.
 */
export function meaningOf(status: number, body: string): AnswerMeaning {
  if (status === 202) return { counted: 'yes', name: '202', detail: '' };
  const problem = problemOf(body);
  if (problem === undefined)
    return { counted: 'unknown', name: String(status), detail: 'not an answer of a counter server' };
  return { ...problem, name: `${status} ${problem.code}` };
}

/** The members of a problem document; undefined for any other text. */
export function problemOf(
  body: string,
): { readonly code: string; readonly detail: string; readonly counted: 'no' | 'unknown' } | undefined {
  try {
    // Every member is checked before use. A value without members ends in the catch.
    const { code, detail, counted } = JSON.parse(body) as Partial<Record<string, unknown>>;
    if (typeof code !== 'string' || typeof detail !== 'string') return undefined;
    return {
      code: code.slice(0, DETAIL_LENGTH_MAX),
      detail: detail.slice(0, DETAIL_LENGTH_MAX),
      counted: counted === 'no' ? 'no' : 'unknown',
    };
  } catch {
    return undefined;
  }
}

function add(counts: Float64Array, keyNumbers: Uint32Array): void {
  for (const number of keyNumbers) counts[number] = (counts[number] ?? 0) + 1;
}

function countIn(counts: Map<string, AnswerCount>, { name, detail }: Pick<AnswerMeaning, 'name' | 'detail'>): void {
  const kind = counts.has(name) || counts.size < KINDS_MAX ? name : 'other';
  const known = counts.get(kind);
  if (known === undefined) counts.set(kind, { name: kind, detail, count: 1 });
  else known.count += 1;
}

function mostFrequentFirst(counts: ReadonlyMap<string, AnswerCount>): readonly AnswerCount[] {
  return [...counts.values()].sort((a, b) => b.count - a.count);
}
