/** Waiting for a condition that nothing announces, and for what may never come. */
import { setTimeout as sleep } from 'node:timers/promises';

const PAUSE_MS = 10;

/** Asks until `ask` gives something else than undefined or false; rejects after `ms`, saying `what` did not happen. */
export async function eventually<T>(what: string, ask: () => Promise<T | undefined | false>, ms = 20_000): Promise<T> {
  for (const deadline = performance.now() + ms; performance.now() < deadline;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  throw new Error(`${what}: not within ${ms} ms`);
}

/** What `promise` comes to; throws where it has not by then, so that what waits for it can be cleared away. */
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
