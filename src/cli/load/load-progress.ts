/**
 * Shows the progress of a run on standard error: a bar on a terminal, else a line every few seconds. Main thread of a command.
 */
import type { WriteStream } from 'node:tty';
import { repeat, systemClock, type Timer } from '../../core/clock.js';
import { counted, milliseconds } from './load-report.js';
import type { Outcomes } from './outcomes.js';

const BAR_MS = 250;
const LINE_MS = 5000;
const BAR_WIDTH_MIN = 5;
const BAR_WIDTH_MAX = 40;
const COLUMNS_BY_DEFAULT = 80;

/** Shows the progress until it is stopped. */
export class LoadProgress {
  readonly #outcomes: Outcomes;
  readonly #durationSeconds: number;
  readonly #output: WriteStream;
  readonly #startedAt = performance.now();
  readonly #timer: Timer;
  #last = { at: this.#startedAt, requests: 0, increments: 0 };

  constructor(outcomes: Outcomes, durationSeconds: number, output: WriteStream) {
    this.#outcomes = outcomes;
    this.#durationSeconds = durationSeconds;
    this.#output = output;
    this.#timer = repeat(systemClock, output.isTTY ? BAR_MS : LINE_MS, () => this.#show());
  }

  /** Removes the bar. */
  stop(): void {
    this.#timer.cancel();
    if (this.#output.isTTY) this.#output.write('\r\x1b[K');
  }

  /** Replaces the bar, or prints a line. */
  say(text: string): void {
    this.stop();
    this.#output.write(`${text}\n`);
  }

  #show(): void {
    const now = performance.now();
    const elapsed = (now - this.#startedAt) / 1000;
    const figures = this.#figures(now);
    if (!this.#output.isTTY) {
      this.#output.write(`${elapsed.toFixed(0)} s of ${this.#durationSeconds} s: ${figures}\n`);
      return;
    }
    const columns = (this.#output.columns > 0 ? this.#output.columns : COLUMNS_BY_DEFAULT) - 1;
    const text = `] ${elapsed.toFixed(0)}/${this.#durationSeconds} s  ${figures}`;
    const width = Math.min(BAR_WIDTH_MAX, Math.max(BAR_WIDTH_MIN, columns - 1 - text.length));
    const filled = Math.min(width, Math.floor((elapsed / this.#durationSeconds) * width));
    this.#output.write(`\r${`[${'='.repeat(filled).padEnd(width)}${text}`.slice(0, columns)}\x1b[K`);
  }

  /** Rates since the last call, and the rest since the start. */
  #figures(now: number): string {
    const { acknowledgedRequests, acknowledgedIncrements, refusedRequests, lostConnections } = this.#outcomes;
    const seconds = (now - this.#last.at) / 1000;
    const requests = Math.round((acknowledgedRequests - this.#last.requests) / seconds);
    const increments = Math.round((acknowledgedIncrements - this.#last.increments) / seconds);
    this.#last = { at: now, requests: acknowledgedRequests, increments: acknowledgedIncrements };
    const unclear = this.#outcomes.unclearAttempts.reduce((sum, { count }) => sum + count, 0);
    const errors = Math.max(unclear, lostConnections);
    return [
      `${counted(requests)} req/s`,
      ...(acknowledgedIncrements === acknowledgedRequests ? [] : [`${counted(increments)} incr/s`]),
      `p50 ${milliseconds(this.#outcomes.latencyMs(50))} p99 ${milliseconds(this.#outcomes.latencyMs(99))} ms`,
      ...(refusedRequests === 0 ? [] : [`refused ${counted(refusedRequests)}`]),
      ...(errors === 0 ? [] : [`errors ${counted(errors)}`]),
    ].join('  ');
  }
}
