/** Chooses the keys of a load. A seed gives the same choices in every run. Main thread of a command. */

/** How often each of `count` keys is chosen. Keys are numbered from 0; with zipf, key 0 is chosen most often. */
export type KeyDistribution =
  | { readonly kind: 'fixed'; readonly count: number }
  | { readonly kind: 'uniform'; readonly count: number }
  | { readonly kind: 'zipf'; readonly count: number; readonly exponent: number };

/** Returns a function that chooses the number of a key at each call. `seed` is a whole number from 0 to 2^32 − 1. */
export function keyChoice(distribution: KeyDistribution, seed: number): () => number {
  const random = seededRandom(seed);
  const { kind, count } = distribution;
  switch (kind) {
    case 'fixed':
      return () => 0;
    case 'uniform':
      return () => Math.floor(random() * count);
    case 'zipf': {
      const cumulative = zipfCumulative(count, distribution.exponent);
      const total = cumulative.at(-1) ?? 0;
      return () => firstAbove(cumulative, random() * total);
    }
  }
}

/** Element n is the sum of the weights 1 / (i + 1)^exponent of the keys 0 to n. */
function zipfCumulative(count: number, exponent: number): Float64Array {
  const cumulative = new Float64Array(count);
  let total = 0;
  for (let number = 0; number < count; number += 1) {
    total += 1 / (number + 1) ** exponent;
    cumulative[number] = total;
  }
  return cumulative;
}

/** The first index whose element is above `value`, or the last index. */
function firstAbove(ascending: Float64Array, value: number): number {
  let low = 0;
  let high = ascending.length - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ascending[middle] ?? Infinity) > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Numbers from 0 to below 1 in steps of 2^−32: sfc32 by Chris Doty-Humphrey (PractRand, public domain). */
function seededRandom(seed: number): () => number {
  let a = 0;
  let b = seed | 0;
  let c = 0;
  let counter = 1;
  const next = (): number => {
    const result = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + result;
    return (result >>> 0) / 2 ** 32;
  };
  // The first results depend on the seed alone; twelve rounds mix the state, as in PractRand.
  for (let round = 0; round < 12; round += 1) next();
  return next;
}
