/** What a client of a walk knows of its request, and what must therefore be in the database. */

/** What one attempt came to: 202, 503, or no certain answer. */
export type Outcome = 'acknowledged' | 'refused' | 'unknown';

/** A statement whose reply proved that a request is in the database: when it was sent, and when the reply came. */
export interface Proof {
  readonly sentAt: number;
  readonly at: number;
}

/** A request of one increment to a key of its own. One with an idempotency key is sent any number of times. */
export class WalkRequest {
  /** The key, and the idempotency key if it has one. */
  readonly name: string;
  readonly isPlain: boolean;
  readonly firstSentAt: number;
  #inFlight = 0;
  #isUnknown = false;
  /** Since when it has been durable. */
  #acknowledgedSince: number | undefined;

  constructor(name: string, isPlain: boolean, firstSentAt: number) {
    this.name = name;
    this.isPlain = isPlain;
    this.firstSentAt = firstSentAt;
  }

  begin(): void {
    this.#inFlight += 1;
  }

  /** An attempt ends, `at` a time; what was acknowledged may have been so before. */
  settle(outcome: Outcome, at: number): void {
    this.#inFlight -= 1;
    if (outcome === 'unknown') this.#isUnknown = true;
    if (outcome === 'acknowledged') this.#acknowledgedSince = Math.min(this.#acknowledgedSince ?? at, at);
  }

  /** The database has lost what was committed from `at` on. */
  lost(at: number): void {
    if (this.#acknowledgedSince === undefined || this.#acknowledgedSince < at) return;
    this.#acknowledgedSince = undefined;
    this.#isUnknown = true;
  }

  /** It must be counted. */
  get isAcknowledged(): boolean {
    return this.#acknowledgedSince !== undefined;
  }

  /** It must not be counted: each attempt was answered so. */
  get isRefused(): boolean {
    return !this.isAcknowledged && this.#inFlight === 0 && !this.#isUnknown;
  }
}
