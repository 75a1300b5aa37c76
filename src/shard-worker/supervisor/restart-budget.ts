/**
 * How often a shard may be started again before the process gives up. Main thread.
 *
 * A budget for each shard, not one for the node: a database that fails over and takes commits back makes every shard of a
 * node recover at the same moment, and a node has up to 64 of them.
 */
import type { Clock } from '../../core/clock.js';

/** Restarts within {@link RESTART_WINDOW_MS}; one more is too many. */
const RESTARTS_MAX = 5;
const RESTART_WINDOW_MS = 60_000;

/** The restarts of one shard. */
export class RestartBudget {
  readonly #clock: Pick<Clock, 'monotonic'>;
  #restarts: number[] = [];

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock;
  }

  /** Takes one restart; false where the budget is spent. */
  take(): boolean {
    const now = this.#clock.monotonic();
    this.#restarts = [...this.#restarts.filter((at) => at >= now - RESTART_WINDOW_MS), now];
    return this.#restarts.length <= RESTARTS_MAX;
  }
}
