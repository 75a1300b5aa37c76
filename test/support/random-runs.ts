/**
 * Seeds and run counts of random tests: `SEED` replays a run, `RUNS` sets its length.
 */

/** The seed of this run: `SEED`, or a random one. An integer from 0 to 2^31−1. */
export function seedOfRun(): number {
  return wholeNumber('SEED') ?? Math.floor(Math.random() * 0x8000_0000);
}

/** `RUNS`, or `byDefault`. */
export function countOfRuns(byDefault: number): number {
  return wholeNumber('RUNS') ?? byDefault;
}

function wholeNumber(name: string): number | undefined {
  const text = process.env[name];
  if (text === undefined || text === '') return undefined;
  if (!/^\d{1,10}$/.test(text)) throw new Error(`${name} must be a whole number, is ${text}`);
  return Number(text);
}
