/**
 * A start as a list of steps, each with its undo. Main thread.
 *
 * ```text
 * running ──all steps done──────────────────► done ─────undo()──► undone
 *    └──step fails, or abort(), or undo()──► stopped ──undo()──► undone
 * ```
 */
import { once } from 'node:events';
import type { Logger } from '../core/logger.js';

/** One step of a start. */
export interface StartStep {
  /** What the step opens, for the log. */
  readonly name: string;
  /**
   * Throws or rejects if the step fails. Once `signal` is aborted, nobody waits for the step, and it should begin nothing more.
   */
  readonly run: (signal: AbortSignal) => Promise<void> | void;
  /** Undoes the step, which is done, has failed halfway or, after an abort, still runs. Undefined: nothing is to be undone. */
  readonly undo: (() => Promise<void> | void) | undefined;
}

/** Runs steps one after the other, and undoes them in reverse. */
export class StartSteps {
  readonly #steps: readonly StartStep[];
  readonly #logger: Logger;
  readonly #controller = new AbortController();
  readonly #aborted: Promise<unknown>;
  readonly #begun: StartStep[] = [];
  #undone: Promise<boolean> | undefined;

  constructor(steps: readonly StartStep[], logger: Logger) {
    this.#steps = steps;
    this.#logger = logger;
    this.#aborted = once(this.#controller.signal, 'abort');
  }

  /**
   * Runs the steps. Resolves to true once all are done, or to false if an abort comes first. Rejects with the error of the
   * first failed step. The caller then calls {@link undo}.
   */
  async run(): Promise<boolean> {
    const { signal } = this.#controller;
    try {
      for (const step of this.#steps) {
        if (signal.aborted) return false;
        this.#begun.push(step);
        await Promise.race([step.run(signal), this.#aborted]);
      }
    } catch (error) {
      // After an abort the result of the step does not matter.
      if (!signal.aborted) throw error;
    }
    return !signal.aborted;
  }

  /** Starts no further step, and aborts the signal of the current one. */
  abort(): void {
    this.#controller.abort();
  }

  /**
   * Aborts, and undoes all started steps in reverse. Logs a failure and continues; then resolves to false. A second call
   * returns the same promise.
   */
  undo(): Promise<boolean> {
    this.abort();
    this.#undone ??= this.#undo();
    return this.#undone;
  }

  async #undo(): Promise<boolean> {
    let isUndone = true;
    for (const { name, undo } of this.#begun.reverse()) {
      try {
        await undo?.();
      } catch (error) {
        isUndone = false;
        this.#logger.error({ err: error }, `Closing the ${name} failed; closing the rest`);
      }
    }
    return isUndone;
  }
}
