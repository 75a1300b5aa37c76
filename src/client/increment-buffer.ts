/** The sums by key that wait for a batch, oldest key first. */
import type { Increment } from './client-error.js';
import type { ClientNumbers } from './client-options.js';

/** A number while it is a safe integer. */
type Sum = number | bigint;

/** What leaves the buffer at once. `keys` counts the keys that left: one of a sum that was split stays. */
export interface Batch {
  readonly increments: readonly Increment[];
  readonly keys: number;
}

const AMOUNT_MAX = Number.MAX_SAFE_INTEGER;
const utf8 = new TextEncoder();

/** Keys leave the buffer in the order in which they entered it. */
export class IncrementBuffer {
  readonly #sums = new Map<string, Sum>();
  readonly #numbers: ClientNumbers;

  constructor(numbers: ClientNumbers) {
    this.#numbers = numbers;
  }

  /** Keys that wait. */
  get size(): number {
    return this.#sums.size;
  }

  /** How many keys enter the buffer with these increments. Throws TypeError or RangeError for an illegal key or amount. */
  newKeysOf(increments: readonly Increment[]): number {
    const strangers = new Set<string>();
    for (const [key, amount] of increments) {
      checkKey(key, this.#numbers.keyBytesMax);
      checkAmount(amount);
      if (!this.#sums.has(key)) strangers.add(key);
    }
    return strangers.size;
  }

  add(increments: readonly Increment[]): void {
    for (const [key, amount] of increments) this.#sums.set(key, sumOf(this.#sums.get(key) ?? 0, amount));
  }

  /** Takes the oldest keys. A sum too large for one amount is split: its key stays in its place with the rest. */
  cutBatch(): Batch {
    const increments: Increment[] = [];
    let keys = 0;
    let bytes = 2;
    for (const [key, sum] of this.#sums) {
      const amount = typeof sum === 'number' ? sum : sum > 0n ? AMOUNT_MAX : -AMOUNT_MAX;
      bytes += utf8.encode(memberText([key, amount])).length + 1;
      if (increments.length === this.#numbers.batchKeysMax) break;
      if (increments.length > 0 && bytes > this.#numbers.batchBytesMax) break;
      increments.push([key, amount]);
      if (typeof sum === 'bigint') {
        this.#sums.set(key, sumOf(sum, -amount));
        continue;
      }
      this.#sums.delete(key);
      keys += 1;
    }
    return { increments, keys };
  }
}

/** A batch as the body of a request. */
export function bodyOf(increments: readonly Increment[]): string {
  return `{${increments.map(memberText).join(',')}}`;
}

/** Throws TypeError or RangeError for a key that the server refuses. */
export function checkKey(key: string, keyBytesMax: number): void {
  if (typeof key !== 'string') throw new TypeError('a key must be a string');
  if (key === '') throw new RangeError('a key must not be empty');
  if (key.includes('\0')) throw new RangeError('a key must not contain U+0000');
  if (/\p{Surrogate}/u.test(key)) throw new RangeError('a key must not contain an unpaired surrogate');
  if (key.length * 3 > keyBytesMax && utf8.encode(key).length > keyBytesMax) {
    throw new RangeError(`a key must have at most ${keyBytesMax} bytes of UTF-8`);
  }
}

function checkAmount(amount: number): void {
  if (typeof amount !== 'number') throw new TypeError('an amount must be a number');
  if (!Number.isSafeInteger(amount)) throw new RangeError('an amount must be an integer within ±(2^53 − 1)');
}

/** Exact; -0 becomes 0. */
function sumOf(a: Sum, b: Sum): Sum {
  if (typeof a === 'number' && typeof b === 'number' && Number.isSafeInteger(a + b)) return a + b;
  const exact = BigInt(a) + BigInt(b);
  return exact <= AMOUNT_MAX && exact >= -AMOUNT_MAX ? Number(exact) : exact;
}

/** A member of the body. Not made from an object, where `__proto__` and the order of keys would matter. */
function memberText([key, amount]: Increment): string {
  return `${JSON.stringify(key)}:${amount}`;
}
