/**
 * Time and order of a simulated world: one queue of events, run one by one, each to the end of its microtasks. Nothing
 * in a history waits for anything real, so a history is a function of its seed.
 */
import type { Clock, Timer } from '#product/core/clock.js';

/** The process or thread has ended: its remaining calls fail with this and have no effect. */
export class SimulatedCrash extends Error {
  override readonly name = 'SimulatedCrash';
}

/** The life of a process or thread; events of an ended life do not run. A thread's life ends with its process's. */
export class Life {
  readonly #parent: Life | undefined;
  readonly #uncaught: (error: unknown) => void;
  #ended = false;
  /** What has come for it since it was frozen. */
  #parked: (() => void)[] | undefined;

  /** `uncaught` gets errors that nobody catches in this life's callbacks. */
  constructor(uncaught: (error: unknown) => void, parent?: Life) {
    this.#uncaught = uncaught;
    this.#parent = parent;
  }

  get isOver(): boolean {
    return this.#ended || this.#parent?.isOver === true;
  }

  end(): void {
    this.#ended = true;
  }

  /** SIGSTOP: its events wait until it is thawed. */
  freeze(): void {
    this.#parked ??= [];
  }

  /** SIGCONT. What has waited happens now, in order. */
  thaw(scheduler: Scheduler): void {
    const parked = this.#parked ?? [];
    this.#parked = undefined;
    for (const callback of parked) scheduler.after(0, this, callback);
  }

  get isFrozen(): boolean {
    return this.#frozen !== undefined;
  }

  /** Keeps a callback until it is thawed; false: it is not frozen. */
  park(callback: () => void): boolean {
    const parked = this.#frozen;
    parked?.push(callback);
    return parked !== undefined;
  }

  get #frozen(): (() => void)[] | undefined {
    return this.#parked ?? (this.#parent === undefined ? undefined : this.#parent.#frozen);
  }

  run(callback: () => void): void {
    if (this.isOver) return;
    try {
      callback();
    } catch (error) {
      if (!(error instanceof SimulatedCrash)) this.#uncaught(error);
    }
  }
}

interface Scheduled {
  readonly at: number;
  readonly order: number;
  readonly life: Life;
  callback: (() => void) | undefined;
}

/** Steps until the event loop gets a turn, for workers' messages and the like. */
const STEPS_A_TURN = 2000;

/** The queue. Times are in milliseconds since the world began. */
export class Scheduler {
  readonly #heap: Scheduled[] = [];
  #order = 0;
  #now = 0;
  /** Events run so far. */
  steps = 0;

  get now(): number {
    return this.#now;
  }

  /** Runs `callback` after `delayMs` unless `life` has ended by then. */
  after(delayMs: number, life: Life, callback: () => void): Timer {
    // In 64ths of a millisecond: sums of times are exact, and no timer is early by a rounding error.
    const at = this.#now + Math.ceil(Math.max(0, delayMs) * 64) / 64;
    const entry: Scheduled = { at, order: this.#order, life, callback };
    this.#order += 1;
    this.#push(entry);
    return { cancel: () => (entry.callback = undefined) };
  }

  /**
   * Runs events until `isDone`, which is called after each; then true, or false if no event is left or `untilMs` is
   * reached. `afterEach` runs when an event's microtasks have ended; an error that it throws ends the run.
   */
  run(isDone: () => boolean, untilMs: number, afterEach: () => void): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const step = (): void => {
        try {
          afterEach();
          if (isDone()) {
            resolve(true);
            return;
          }
          const next = this.#pop(untilMs);
          if (next === undefined) {
            resolve(false);
            return;
          }
          this.#now = next.at;
          this.steps += 1;
          runOrPark(next);
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
          return;
        }
        // All microtasks run before the next tick; a turn of the event loop costs far more.
        if (this.steps % STEPS_A_TURN === 0) setImmediate(step);
        else queueMicrotask(() => process.nextTick(step));
      };
      step();
    });
  }

  #push(entry: Scheduled): void {
    const heap = this.#heap;
    let at = heap.push(entry) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Scheduled;
      if (!isBefore(entry, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = entry;
  }

  #pop(untilMs: number): Scheduled | undefined {
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined || first.at > untilMs) return undefined;
      const last = this.#heap.pop() as Scheduled;
      if (last !== first) this.#sink(last);
      if (first.callback !== undefined && !first.life.isOver) return first;
    }
  }

  #sink(entry: Scheduled): void {
    const heap = this.#heap;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Scheduled, heap[child] as Scheduled)) child += 1;
      const below = heap[child] as Scheduled;
      if (!isBefore(below, entry)) break;
      heap[at] = below;
      at = child;
    }
    heap[at] = entry;
  }
}

/** A timer that is cancelled while it waits for its frozen life does not run. */
function runOrPark(entry: Scheduled): void {
  const { life } = entry;
  if (life.isFrozen) {
    life.park(() => life.run(() => entry.callback?.()));
  } else if (entry.callback !== undefined) {
    life.run(entry.callback);
  }
}

function isBefore(a: Scheduled, b: Scheduled): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** The start of the world, in ms since 1970. */
const BEGINNING = Date.UTC(2026, 0, 1);

/** The clock of one life: its timers end with it. */
export function clockOf(scheduler: Scheduler, life: Life, beforeSchedule: () => void = () => undefined): Clock {
  return {
    now: () => BEGINNING + Math.floor(scheduler.now),
    monotonic: () => scheduler.now,
    uptime: () => scheduler.now,
    schedule(delayMs, callback) {
      beforeSchedule();
      return scheduler.after(delayMs, life, callback);
    },
  };
}
