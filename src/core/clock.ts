/**
 * Time as the rest of the code sees it, so that tests and the simulation can own it. Any thread.
 */

/** A timer that can be cancelled; cancelling twice is allowed. */
export interface Timer {
  cancel(): void;
}

/** A source of time and timers. */
export interface Clock {
  /** Wall-clock time in milliseconds since 1970, as `Date.now()`. */
  now(): number;
  /** Monotonic time in milliseconds, for durations. */
  monotonic(): number;
  /** Runs `callback` once after `delayMs`; the process is not kept alive by it. */
  schedule(delayMs: number, callback: () => void): Timer;
}

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  schedule(delayMs, callback) {
    const handle = setTimeout(callback, delayMs);
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
};

/** Settles after `ms` on the machine's own clock; keeps the process alive until then. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
