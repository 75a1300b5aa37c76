/**
 * The requests of a load. Main thread of a command.
 */
import { randomUUID } from 'node:crypto';
import { keyChoice } from './key-distribution.js';
import type { LoadOptions } from './load-options.js';

/** One request. All amounts are 1, so sums are counts. */
export interface IncrementRequest {
  /** The numbers of its keys; a key may occur more than once. */
  readonly keyNumbers: Uint32Array;
  readonly body: string;
  readonly idempotencyKey: string | undefined;
}

type RequestOptions = Pick<
  LoadOptions,
  'distribution' | 'seed' | 'prefix' | 'keyDigits' | 'incrementsPerRequest' | 'idempotencyKeys'
>;

/** Makes the requests of a run, one after the other. */
export class IncrementRequests {
  readonly #options: RequestOptions;
  readonly #chooseKey: () => number;

  constructor(options: RequestOptions) {
    this.#options = options;
    this.#chooseKey = keyChoice(options.distribution, options.seed);
  }

  next(): IncrementRequest {
    const keyNumbers = new Uint32Array(this.#options.incrementsPerRequest);
    const members: string[] = [];
    for (let index = 0; index < keyNumbers.length; index += 1) {
      const number = this.#chooseKey();
      keyNumbers[index] = number;
      members.push(`${JSON.stringify(this.keyOf(number))}:1`);
    }
    const idempotencyKey = this.#options.idempotencyKeys ? randomUUID() : undefined;
    return { keyNumbers, body: `{${members.join(',')}}`, idempotencyKey };
  }

  /** The key with a number. */
  keyOf(number: number): string {
    return `${this.#options.prefix}${String(number).padStart(this.#options.keyDigits, '0')}`;
  }
}
