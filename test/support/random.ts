/**
 * Random numbers for tests, reproducible from the environment's SEED; a test that uses them prints its seed.
 */
import { randomInt } from 'node:crypto';

/** A generator and the seed that it was made from. */
export interface Random {
  readonly seed: number;
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform integer in [0, below). */
  integer(below: number): number;
}

/** mulberry32 (Tommy Ettinger): small, fast and good enough to choose test data. Prints the seed. */
export function seededRandom(label: string): Random {
  const seed = Number(process.env['SEED'] ?? randomInt(2 ** 32));
  console.log(`# ${label}: SEED=${seed}`);
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return { seed, next, integer: (below) => Math.floor(next() * below) };
}
