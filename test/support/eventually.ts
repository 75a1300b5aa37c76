/** Waiting for a condition that nothing announces. */

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
