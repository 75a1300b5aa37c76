/**
 * Increments of numbered keys. Their acknowledged sums are known and can be compared with the table of a server.
 */

const PREFIX = 'bound:';
const REQUESTS_AT_A_TIME = 32;

/** Keys of one length, sent in order from 0 on. The amount of every increment is 1. */
export class NumberedKeys {
  readonly #url: string;
  readonly #keyBytes: number;
  /** Acknowledged increments after the first of each key, by number of the key. */
  readonly #again = new Map<number, number>();
  #taken = 0;

  /** `url` is the URL of POST /increment. */
  constructor(url: string, keyBytes: number) {
    this.#url = url;
    this.#keyBytes = keyBytes;
  }

  /** Number of acknowledged keys: those below this number. */
  get taken(): number {
    return this.#taken;
  }

  /** The key with a number. */
  key(number: number): string {
    return `${PREFIX}${String(number).padStart(this.#keyBytes - PREFIX.length, '0')}`;
  }

  /** The acknowledged sum of an acknowledged key. */
  sumOf(number: number): number {
    return 1 + (this.#again.get(number) ?? 0);
  }

  /** Sends `count` keys from `first`, which is at most the next new key. Rejects if they are refused. */
  async send(first: number, count: number): Promise<void> {
    const status = await this.#post(first, count);
    if (status !== 202) throw new Error(`${count} keys from ${this.key(first)} were answered ${status}`);
    for (let number = first; number < Math.min(first + count, this.#taken); number += 1) this.#addAgain(number);
    this.#taken = Math.max(this.#taken, first + count);
  }

  /** Sends new keys, `keysABody` at a time and at last one by one, until one is refused. */
  async sendUntilRefused(keysABody: number): Promise<void> {
    for (let count = keysABody; ;) {
      if ((await this.#post(this.#taken, count)) === 202) this.#taken += count;
      else if (count === 1) return;
      else count = 1;
    }
  }

  /** Sends `count` new keys one by one. Rejects if one of them is accepted. */
  async eachRefused(count: number): Promise<void> {
    await this.#each(count, (n) => this.#taken + n, 503);
  }

  /** Sends `count` acknowledged keys one by one, in a circle from `first`. Rejects if one of them is refused. */
  async eachTaken(first: number, count: number): Promise<void> {
    const numberOf = (n: number): number => first + (n % (this.#taken - first));
    await this.#each(count, numberOf, 202);
    for (let n = 0; n < count; n += 1) this.#addAgain(numberOf(n));
  }

  #addAgain(number: number): void {
    this.#again.set(number, (this.#again.get(number) ?? 0) + 1);
  }

  async #each(count: number, numberOf: (n: number) => number, expected: 202 | 503): Promise<void> {
    let next = 0;
    const client = async (): Promise<void> => {
      while (next < count) {
        const number = numberOf(next);
        next += 1;
        const status = await this.#post(number, 1);
        if (status !== expected) throw new Error(`at the bound ${this.key(number)} was answered ${status}`);
      }
    };
    await Promise.all(Array.from({ length: REQUESTS_AT_A_TIME }, client));
  }

  /** Resolves to 202, or to 503 if the server is at a limit. Rejects for any other answer. */
  async #post(first: number, count: number): Promise<202 | 503> {
    const increments = Array.from({ length: count }, (_, n) => `"${this.key(first + n)}":1`);
    const answer = await fetch(this.#url, { method: 'POST', body: `{${increments.join(',')}}` });
    const text = await answer.text();
    if (answer.status === 202) return 202;
    if (answer.status === 503 && text.includes('"code":"overloaded"')) return 503;
    throw new Error(`an increment was answered ${answer.status} ${text}`);
  }
}
