/**
 * Time and timers behind an interface, so that tests and the simulation control them. Any thread.
 */
import { uptime } from 'node:os';
import { setTimeout as setTimeoutPromise } from 'node:timers/promises';

/** A timer. It may be cancelled more than once. */
export interface Timer {
  cancel(): void;
}

/** A source of time and timers. */
export interface Clock {
  /** Wall-clock time in milliseconds since 1970, as `Date.now()`. */
  now(): number;
  /** Monotonic time in milliseconds, for durations. On Linux it stands still while the machine is suspended. */
  monotonic(): number;
  /** Monotonic time in milliseconds, suspensions included, to 10 ms. It takes about 5 µs. */
  uptime(): number;
  /** Runs `callback` once after `delayMs`. The timer does not keep the process alive. */
  schedule(delayMs: number, callback: () => void): Timer;
}

/** The clock of the machine. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  uptime: () => uptime() * 1000,
  schedule(delayMs, callback) {
    const handle = setTimeout(callback, delayMs);
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
};

/** Resolves after `ms` on a clock. Does not keep the process alive until then. */
export function pauseOn(clock: Pick<Clock, 'schedule'>, ms: number): Promise<void> {
  return new Promise((resolve) => {
    clock.schedule(ms, resolve);
  });
}

/** The timers of the machine, which keep the process alive. */
const awaitedTimers: Pick<Clock, 'schedule'> = {
  schedule(delayMs, callback) {
    const handle = setTimeout(callback, delayMs);
    return { cancel: () => clearTimeout(handle) };
  },
};

/**
 * Resolves with the promise, which must not reject, or after `ms`. True if the promise settled. The default clock is that of
 * the machine; it keeps the process alive.
 */
export async function settledWithin(
  promise: Promise<unknown>,
  ms: number,
  clock: Pick<Clock, 'schedule'> = awaitedTimers,
): Promise<boolean> {
  let timer: Timer | undefined;
  const timeout = new Promise<false>((resolve) => (timer = clock.schedule(ms, () => resolve(false))));
  const isSettled = await Promise.race([promise.then(() => true), timeout]);
  timer?.cancel();
  return isSettled;
}

/** Resolves after `ms` on the clock of the machine, or as `signal` is aborted. Keeps the process alive until then. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  // It rejects only when aborted.
  return setTimeoutPromise(ms, undefined, { signal }).catch(() => undefined);
}

/** Calls `action` every `ms` on a clock until cancelled. */
export function repeat(clock: Pick<Clock, 'schedule'>, ms: number, action: () => void): Timer {
  const next = (): Timer =>
    clock.schedule(ms, () => {
      timer = next();
      action();
    });
  let timer = next();
  return { cancel: () => timer.cancel() };
}
