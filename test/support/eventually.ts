/** Waiting for a condition that nothing announces, and for promises that may never settle. */
import { setTimeout as sleep } from 'node:timers/promises';

const PAUSE_MS = 10;
/** What nothing measures may take this long: other tests, and the builds of a small machine, run at the same time. */
export const PATIENCE_MS = 45_000;

/** Calls `ask` until it returns neither undefined nor false; rejects after `ms` with `what`. */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined | false>,
  ms = PATIENCE_MS,
): Promise<T> {
  for (const deadline = performance.now() + ms; performance.now() < deadline;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  throw new Error(`${what}: not within ${ms} ms`);
}

/** The result of `promise`; throws if it does not settle in time, so that a test can clean up. */
export async function within<T>(what: string, promise: Promise<T>, ms: number): Promise<T> {
  const settled = new AbortController();
  const late = async (): Promise<never> => {
    await sleep(ms, undefined, { signal: settled.signal });
    throw new Error(`${what}: not within ${ms} ms`);
  };
  try {
    return await Promise.race([promise, late()]);
  } finally {
    settled.abort();
  }
}
