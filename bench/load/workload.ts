/**
 * Workloads: the bodies that clients send. All amounts are 1, so that sums are counts.
 */
import { Mulberry32 } from '../../test/support/mulberry32.js';

/** A stream of request bodies. */
export interface Workload {
  /** Increments in each body. */
  readonly incrementsPerBody: number;
  readonly contentType: string;
  readonly bodies: FixedBodies | DistinctBodies;
  /** Set if every request carries its own Idempotency-Key, see {@link nthIdempotencyKey}. */
  readonly idempotencyKeyPrefix?: string;
}

/** Bodies that are sent in turn. */
interface FixedBodies {
  readonly kind: 'fixed';
  readonly texts: readonly string[];
}

/** Bodies with new keys, which the generator makes from a prefix of the run and a counter. */
interface DistinctBodies {
  readonly kind: 'distinct';
  /** Keys are `PREFIX:NNNNNNNNNN`. */
  readonly prefix: string;
}

const JSON_TYPE = 'application/json';
const ZIPF_SEED = 1;
const IDEMPOTENCY_KEY_PREFIX_LENGTH = 14;
/** 2^32 divided by the golden ratio: its multiples spread evenly over 32 bits. */
const SCATTER = 2_654_435_761;

/** One key a body, `keys` keys in turn. */
export function singleKeyWorkload(keys: number): Workload {
  return fixed(
    1,
    Array.from({ length: keys }, (_, n) => `{"key:${padded(n, keys)}": 1}`),
  );
}

/** `incrementsPerBody` different keys a body, over `keys` keys in turn. */
export function batchWorkload(incrementsPerBody: number, keys: number): Workload {
  return fixed(
    incrementsPerBody,
    batches(incrementsPerBody, keys).map((names) => `{${names.map((name) => `"${name}":1`).join(',')}}`),
  );
}

/** The same, as lines of one object each. */
export function ndjsonWorkload(incrementsPerBody: number, keys: number): Workload {
  return fixed(
    incrementsPerBody,
    batches(incrementsPerBody, keys).map((names) => names.map((name) => `{"${name}":1}\n`).join('')),
    'application/x-ndjson',
  );
}

/** One key a body, drawn from `keys` keys by Zipf's law with exponent `s`: `draws` bodies, the same in every run. */
export function zipfWorkload(keys: number, s: number, draws: number): Workload {
  const cumulative = new Float64Array(keys);
  let total = 0;
  for (let rank = 0; rank < keys; rank += 1) {
    total += 1 / (rank + 1) ** s;
    cumulative[rank] = total;
  }
  const random = new Mulberry32(ZIPF_SEED);
  const texts = Array.from({ length: draws }, () => {
    const rank = firstAbove(cumulative, (random.next() / 2 ** 32) * total);
    return `{"key:${padded(rank, keys)}": 1}`;
  });
  return fixed(1, texts);
}

/** A new key in every increment. `prefix` must be new each time. */
export function distinctWorkload(prefix: string): Workload {
  return { incrementsPerBody: 1, contentType: JSON_TYPE, bodies: { kind: 'distinct', prefix } };
}

/** The same bodies, each request with a fresh Idempotency-Key. `prefix`, up to 14 characters, must be new each time. */
export function idempotentWorkload(workload: Workload, prefix: string): Workload {
  return { ...workload, idempotencyKeyPrefix: prefix.padEnd(IDEMPOTENCY_KEY_PREFIX_LENGTH, '-') };
}

/**
 * The nth idempotency key of a generator's thread: 36 characters in an order unrelated to n, like UUIDs, because
 * ascending keys are cheaper for a B-tree. wrk-load.lua makes the same keys.
 */
export function nthIdempotencyKey(prefix: string, thread: number, n: number): string {
  const scattered = (n * SCATTER) % 2 ** 32;
  return `${scattered.toString(16).padStart(8, '0')}-${prefix}:${thread}:${String(n).padStart(10, '0')}`;
}

/** A body with the nth new key. The generators' own code requires the same length for every n. */
export function distinctBody(prefix: string, n: number): string {
  return `{"${prefix}:${String(n).padStart(10, '0')}": 1}`;
}

function fixed(incrementsPerBody: number, texts: readonly string[], contentType = JSON_TYPE): Workload {
  return { incrementsPerBody, contentType, bodies: { kind: 'fixed', texts } };
}

/** Enough bodies to touch every key. */
function batches(incrementsPerBody: number, keys: number): string[][] {
  if (incrementsPerBody > keys)
    throw new Error(`a body of ${incrementsPerBody} different keys needs at least as many keys`);
  return Array.from({ length: Math.ceil(keys / incrementsPerBody) }, (_, body) =>
    Array.from(
      { length: incrementsPerBody },
      (__, increment) => `key:${padded((body * incrementsPerBody + increment) % keys, keys)}`,
    ),
  );
}

function padded(n: number, keys: number): string {
  return String(n).padStart(String(keys - 1).length, '0');
}

function firstAbove(ascending: Float64Array, value: number): number {
  let low = 0;
  let high = ascending.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ascending[middle] ?? Infinity) > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
