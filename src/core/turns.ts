/**
 * Asynchronous tasks, one after the other. Any thread.
 */

/** A mutex for promises. A task begins when the previous one has settled. The caller limits how many wait. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs `task` after all tasks given before. Settles as `task` does. */
  run<T>(task: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(task, task);
    this.#last = turn.then(
      () => undefined,
      () => undefined,
    );
    return turn;
  }
}
