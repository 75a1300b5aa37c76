/** Writes the log lines that come from the stats, once a second. Main thread. */
import type { Config } from '../config/config.js';
import { repeat, type Clock, type Timer } from '../core/clock.js';
import { boundSentences } from '../config/bound-sentences.js';
import type { Logger } from '../core/logger.js';
import { readIncrementAnswers, readRefusals } from '../http/request-stats.js';
import { conservation, oldestPendingAtMs } from '../shard-worker/protocol/stats.js';
import { RefusalLog } from './refusal-log.js';
import { SummaryLog } from './summary-log.js';

const LOOK_MS = 1_000;

/** The sources of the numbers. */
export interface RegularLogStats {
  readonly stats: SharedArrayBuffer;
  readonly requestStats: SharedArrayBuffer;
}

/** Writes refusals and summaries from {@link RegularLog.start} to {@link RegularLog.close}. */
export class RegularLog {
  readonly #config: Config;
  readonly #clock: Clock;
  readonly #stats: RegularLogStats;
  readonly #refusals: RefusalLog;
  readonly #summary: SummaryLog;
  #timer: Timer | undefined;

  constructor(config: Config, clock: Clock, logger: Logger, stats: RegularLogStats) {
    this.#config = config;
    this.#clock = clock;
    this.#stats = stats;
    this.#refusals = new RefusalLog(clock, logger, boundSentences(config));
    this.#summary = new SummaryLog(clock, logger, config.logSummarySeconds);
  }

  /** Starts to look. */
  start(): void {
    this.#timer = repeat(this.#clock, LOOK_MS, () => {
      this.#look();
    });
  }

  /** Looks a last time. */
  close(): void {
    if (this.#timer === undefined) return;
    this.#timer.cancel();
    this.#timer = undefined;
    this.#look();
    this.#refusals.close();
  }

  #look(): void {
    const { stats, requestStats } = this.#stats;
    const { shards } = this.#config;
    const { accepted, flushed, pending } = conservation(stats, shards);
    const { answers, accepted: acceptedRequests } = readIncrementAnswers(requestStats);
    const oldestAtMs = oldestPendingAtMs(stats, shards);
    const flushLagSeconds = oldestAtMs === undefined ? 0 : Math.max(0, (this.#clock.now() - oldestAtMs) / 1000);
    const refusals = answers - acceptedRequests;
    this.#refusals.look(readRefusals(requestStats));
    this.#summary.look({ accepted, flushed, pending, requests: answers, refusals, flushLagSeconds });
  }
}
