/**
 * A start as a list of steps, each with what undoes it. Main thread.
 *
 * ```text
 * running ──all have run──► done ──undo()──► undone
 *    └──a step fails, abort() or undo()──► aborted ──undo()──► undone
 * ```
 */

import { once } from 'node:events';
import type { Logger } from '../core/logger.js';

/** One step of a start. */
export interface StartStep {
  /** What the step starts, for the log. */
  readonly name: string;
  /**
   * Rejects where the step fails. Once `signal` is aborted nobody waits for it, and the process is about to end: it
   * should begin nothing more.
   */
  readonly run: (signal: AbortSignal) => Promise<void> | void;
  /** Undoes the step, be it done, failed half way, or still running after an abort. */
  readonly undo?: () => Promise<void> | void;
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
   * Runs the steps. Resolves to true once all have run, to false where an abort came first. Rejects with what a step
   * rejected with, and begins no further one; what was done stays to be undone.
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
      // After an abort it is of no interest how the step ended.
      if (!signal.aborted) throw error;
    }
    return !signal.aborted;
  }

  /** Begins no further step, and tells the one that runs. */
  abort(): void {
    this.#controller.abort();
  }

  /**
   * Undoes, in reverse, every step that has begun. Each is undone whatever becomes of the others. Resolves to false where
   * one could not be; a second call settles with the first one.
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
