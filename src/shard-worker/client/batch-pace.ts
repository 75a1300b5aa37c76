/**
 * Decides when a front end's open batch for a shard is worth its messages and its sync. Front-end thread.
 *
 * A batch costs what dozens of requests cost, so requests gather; but a client that waits for an answer sends nothing, so
 * to gather more than there are clients is to wait for nobody. The pace learns how many requests are under way when none
 * are held back, and posts when most of them have gathered: the few that are missing keep this thread busy while the
 * shard makes the batch durable. It learns of more from every answer that finds more under way, and of fewer from a batch
 * that waits for all of them now and then.
 */

/** Longest wait of a request for others, in ms, from the last batch on: a quiet time's request waits for none. */
const INTERVAL_MS = 1;

/** The part of the requests under way that makes a batch. */
const PART = 0.75;

/** One in so many batches is a probe: seldom enough to stay out of the 99th percentile of latency. */
const PROBE_BATCHES = 128;

/** A probe waits for so long whatever it holds, in ms: to take in all there is, a busy thread needs more than the other. */
const PROBE_MS = 2;

/** The pace of one front end's batches to one shard. Times are ms on a monotonic clock. */
export class BatchPace {
  /** Requests under way at a time, as learned last; nothing is known yet. */
  #underWay = Number.POSITIVE_INFINITY;
  #postedAtMs = Number.NEGATIVE_INFINITY;
  #batches = 0;
  #answered = 0;
  #wasProbe = false;

  /** Not the first batch of all: before it was a quiet time, and it holds one request. */
  get #isProbe(): boolean {
    return this.#batches % PROBE_BATCHES === 1;
  }

  /** Whether `requests` are worth a batch by their number. */
  isEnough(requests: number): boolean {
    return !this.#isProbe && requests >= PART * this.#underWay;
  }

  /** How long a batch of `requests` should still wait, in ms; 0: not at all. */
  restMs(requests: number, nowMs: number): number {
    if (this.isEnough(requests)) return 0;
    return Math.max(0, (this.#isProbe ? PROBE_MS : INTERVAL_MS) - (nowMs - this.#postedAtMs));
  }

  /** A batch was posted. */
  posted(nowMs: number): void {
    this.#wasProbe = this.#isProbe;
    this.#postedAtMs = nowMs;
    this.#batches += 1;
  }

  /** A batch of `requests` was answered. */
  answered(requests: number): void {
    this.#answered += requests;
  }

  /** All that was posted is answered; `open` requests have gathered meanwhile. */
  settled(open: number): void {
    const underWay = this.#answered + open;
    this.#answered = 0;
    this.#underWay = this.#wasProbe ? underWay : Math.max(this.#underWay, underWay);
  }
}
