/**
 * Looks at a broker or a queue again while the server runs: an operator, or a tool of the platform, can change its settings so that it
 * drops records. Main thread.
 */
import { repeat, type Clock, type Timer } from '../core/clock.js';
import { StartError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';

const LOOK_MS = 60_000;

/** Knows the problems of a broker or a queue from {@link JournalWatch.start} to {@link JournalWatch.close}. */
export class JournalWatch {
  readonly #clock: Clock;
  readonly #logger: Pick<Logger, 'info' | 'error'>;
  readonly #check: () => Promise<void> | undefined;
  #timer: Timer | undefined;
  #isLooking = false;
  #problem: string | undefined;

  /** `check` rejects with StartError where an operator must change something, and with other errors while it cannot tell. */
  constructor(clock: Clock, logger: Pick<Logger, 'info' | 'error'>, check: () => Promise<void> | undefined) {
    this.#clock = clock;
    this.#logger = logger;
    this.#check = check;
  }

  /** What an operator must change, in sentences. A start would end with them. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Starts to look once a minute. */
  start(): void {
    this.#timer = repeat(this.#clock, LOOK_MS, () => void this.#look());
  }

  /** Looks no more. */
  close(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  async #look(): Promise<void> {
    // The one before may wait for an answer.
    if (this.#isLooking) return;
    this.#isLooking = true;
    try {
      await this.#check();
      this.#note(undefined);
    } catch (error) {
      // The shards log outages.
      if (error instanceof StartError) this.#note(error.problems.join(' '));
    } finally {
      this.#isLooking = false;
    }
  }

  #note(problem: string | undefined): void {
    if (problem === this.#problem || this.#timer === undefined) return;
    this.#problem = problem;
    if (problem === undefined)
      this.#logger.info({}, 'The broker or queue of the journal is as this server needs it again');
    else this.#logger.error({}, `The broker or queue of the journal is not as this server needs it: ${problem}`);
  }
}
