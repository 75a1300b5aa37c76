/**
 * Decides when an open batch is large enough to be posted. HTTP thread.
 *
 * A batch costs as much as dozens of requests, so requests gather. But a client that waits for an answer sends nothing, so it
 * is useless to wait for more requests than there are clients. The pace learns how many requests are in flight, and posts when
 * most of them have gathered. The others keep this thread busy while the shard makes the batch durable. An answer that finds
 * more requests raises the number. A probe, a batch that waits for all of them, can lower it.
 */

/** Longest wait of a request for others, in ms since the last batch. After a quiet time a request does not wait. */
const INTERVAL_MS = 1;

/** A batch is posted when it holds this part of the requests in flight. */
const PART = 0.75;

/** One in this many batches is a probe, too few to show in the 99th percentile of latency. */
const PROBE_BATCHES = 128;

/**
 * How long a probe waits, in ms. Longer than {@link INTERVAL_MS}, because a busy thread needs time to read all
 * requests.
 */
const PROBE_MS = 2;

/** The pace of the batches of one HTTP server to one shard. Times are ms on a monotonic clock. */
export class BatchPace {
  /** Requests in flight at a time; infinite until known. */
  #underWay = Number.POSITIVE_INFINITY;
  #postedAtMs = Number.NEGATIVE_INFINITY;
  #batches = 0;
  #answered = 0;
  #wasProbe = false;

  /**
   * The second batch, and every 128th after it. The first batch is no probe: it follows a quiet time and holds one
   * request.
   */
  get #isProbe(): boolean {
    return this.#batches % PROBE_BATCHES === 1;
  }

  /** Whether `requests` are enough for a batch. */
  isEnough(requests: number): boolean {
    return !this.#isProbe && requests >= PART * this.#underWay;
  }

  /** How much longer a batch of `requests` should wait, in ms; 0: post it now. */
  restMs(requests: number, nowMs: number): number {
    if (this.isEnough(requests)) return 0;
    return Math.max(0, (this.#isProbe ? PROBE_MS : INTERVAL_MS) - (nowMs - this.#postedAtMs));
  }

  /** Notes that a batch was posted. */
  posted(nowMs: number): void {
    this.#wasProbe = this.#isProbe;
    this.#postedAtMs = nowMs;
    this.#batches += 1;
  }

  /** Notes that a batch of `requests` was answered. */
  answered(requests: number): void {
    this.#answered += requests;
  }

  /** Notes that every batch is answered and `open` requests have gathered meanwhile. */
  settled(open: number): void {
    const underWay = this.#answered + open;
    this.#answered = 0;
    this.#underWay = this.#wasProbe ? underWay : Math.max(this.#underWay, underWay);
  }
}
