/**
 * One direction of a MessagePort pair: a posted message is available for `receive` at once, and for `listen` a moment
 * later, in order.
 */
import type { Life, Scheduler } from './scheduler.js';

export class Channel<T> {
  readonly #scheduler: Scheduler;
  readonly #receiver: Life;
  readonly #latency: () => number;
  #queue: T[] = [];
  #callback: ((message: T) => void) | undefined;
  #closed = false;

  constructor(scheduler: Scheduler, receiver: Life, latency: () => number) {
    this.#scheduler = scheduler;
    this.#receiver = receiver;
    this.#latency = latency;
  }

  post(message: T): void {
    if (this.#closed) return;
    this.#queue.push(message);
    this.#wake();
  }

  listen(callback: (message: T) => void): void {
    this.#callback = callback;
    for (let waiting = this.#queue.length; waiting > 0; waiting -= 1) this.#wake();
  }

  receive(): T | undefined {
    return this.#queue.shift();
  }

  close(): void {
    this.#closed = true;
    this.#callback = undefined;
    this.#queue = [];
  }

  #wake(): void {
    this.#scheduler.after(this.#latency(), this.#receiver, () => {
      if (this.#callback === undefined) return;
      const message = this.#queue.shift();
      if (message !== undefined) this.#callback(message);
    });
  }
}
