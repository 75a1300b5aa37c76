/**
 * Reproducible random numbers for tests that draw a few of them: the seed is printed, and taken from SEED.
 */
import { Mulberry32 } from './mulberry32.js';
import { seedOfRun } from './random-runs.js';

/** A generator and its seed. */
export interface Random {
  readonly seed: number;
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform integer in [0, below). */
  integer(below: number): number;
}

/** A generator for one test; prints its seed under `label`. */
export function seededRandom(label: string): Random {
  const seed = seedOfRun();
  console.log(`# ${label}: SEED=${seed}`);
  const source = new Mulberry32(seed);
  return { seed, next: () => source.next() / 2 ** 32, integer: (below) => source.below(below) };
}
