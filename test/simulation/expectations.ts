/**
 * What clients know, and what must therefore be in the database: the pn-counter check, exact for every single increment.
 *
 * Each increment of a key has an amount of its own, 4^i: digit i of a sum in base 4 says how often that increment is in it. So
 * the check names each lost, doubled or resurrected increment.
 */
import { createHash } from 'node:crypto';
import { hashKey } from '#product/core/key-hash.js';
import { DIGEST_BYTES } from '#product/shard-worker/protocol/record-layout.js';
import type { ParsedIncrements, PendingReply, Sum } from '#product/core/increment.js';
import type { Refusal } from '#product/core/bounds.js';

/** Increments until a key is used up; a request in flight may take some more, and 4^25 is below 2^53. */
const DIGITS = 21;

/** The known outcome of one increment. `free`: never sent. */
export type Fate = 'free' | 'in flight' | 'acknowledged' | 'refused' | 'unknown';

/** A violation of a guarantee of the server. */
export class Violation extends Error {
  override readonly name = 'Violation';
}

/** One counter. */
export class ExpectedCounter {
  readonly key: string;
  readonly bytes: Uint8Array;
  readonly hash: number;
  readonly #sign: number;
  /** The request of each digit. */
  readonly requests: ClientRequest[] = [];

  constructor(key: string, sign: 1 | -1) {
    this.key = key;
    this.bytes = Buffer.from(key);
    this.hash = hashKey(this.bytes, 0, this.bytes.length);
    this.#sign = sign;
  }

  get isUsedUp(): boolean {
    return this.requests.length >= DIGITS;
  }

  get fates(): readonly Fate[] {
    return this.requests.map(({ fate }) => fate);
  }

  /** The digit of a new increment. */
  begin(request: ClientRequest): number {
    return this.requests.push(request) - 1;
  }

  amountOf(digit: number): number {
    return this.#sign * 4 ** digit;
  }

  /** The digit of an amount that was sent. */
  digitOf(amount: number): number {
    return Math.round(Math.log2(Math.abs(amount)) / 2);
  }

  /**
   * Throws if `sum` counts something twice, or something that was refused or never sent; with `known`, also if it lacks
   * an increment that is acknowledged there. A read may include a retry beside its original until it is flushed.
   */
  check(sum: Sum, where: string, known: readonly Fate[] | undefined, isRead = false): void {
    let rest = BigInt(sum) * BigInt(this.#sign);
    if (rest < 0n) throw new Violation(`${where}: ${this.key} is ${sum}, of the wrong sign`);
    for (let digit = 0; rest > 0n || digit < (known?.length ?? 0); digit += 1) {
      const times = Number(rest & 3n);
      rest >>= 2n;
      const request = this.requests[digit];
      const fate = request?.fate ?? 'free';
      const most = isRead && request?.idempotencyKey !== undefined ? request.attempts : 1;
      if (times > most) throw new Violation(`${where}: ${this.key}[${digit}] counts ${times} times (${fate})`);
      if (times > 0 && (fate === 'refused' || fate === 'free')) {
        throw new Violation(`${where}: ${this.key}[${digit}] counts, but it was ${fate}`);
      }
      if (times === 0 && known?.[digit] === 'acknowledged') {
        throw new Violation(`${where}: ${this.key}[${digit}] was acknowledged and is missing`);
      }
    }
  }
}

/** One increment of a request. */
export interface Part {
  readonly counter: ExpectedCounter;
  readonly digit: number;
}

/** A request that must be counted once: sent once or, with an idempotency key, any number of times. */
export class ClientRequest {
  readonly name: string;
  readonly idempotencyKey: string | undefined;
  readonly increments: readonly Part[];
  attempts = 0;
  #inFlight = 0;
  #acknowledged = false;
  #unknown = false;
  /** It was put aside, or lost by a journal that had acknowledged it. */
  #isUncertain = false;
  #firstSentAt: number | undefined;

  constructor(name: string, counters: readonly ExpectedCounter[], idempotencyKey: string | undefined) {
    this.name = name;
    this.idempotencyKey = idempotencyKey;
    this.increments = counters.map((counter) => ({ counter, digit: counter.begin(this) }));
  }

  get fate(): Fate {
    if (this.#acknowledged) return this.#isUncertain ? 'unknown' : 'acknowledged';
    if (this.#inFlight > 0) return 'in flight';
    return this.#unknown || this.#isUncertain ? 'unknown' : 'refused';
  }

  /** When its first attempt was sent. */
  get firstSentAt(): number | undefined {
    return this.#firstSentAt;
  }

  /** What identifies the content, as the shard computes it; see `request-digest.ts`. Keys are ASCII. */
  get digest(): Buffer {
    const sums = [...this.sums].sort(([a], [b]) => (a < b ? -1 : 1));
    const content = sums.map(([key, sum]) => `${key}\0${sum}\0`).join('');
    return createHash('sha256').update(content).digest().subarray(0, DIGEST_BYTES);
  }

  /** What it adds, by key. */
  get sums(): ReadonlyMap<string, bigint> {
    const sums = new Map<string, bigint>();
    for (const { counter, digit } of this.increments) {
      sums.set(counter.key, (sums.get(counter.key) ?? 0n) + BigInt(counter.amountOf(digit)));
    }
    return sums;
  }

  /** A new attempt, at a time of the world; `settled` is called with its outcome. */
  attempt(now: number, settled: (fate: Fate) => void): Attempt {
    this.#firstSentAt ??= now;
    this.attempts += 1;
    this.#inFlight += 1;
    return new Attempt(this, (fate) => {
      this.#inFlight -= 1;
      if (fate === 'acknowledged') this.#acknowledged = true;
      if (fate === 'unknown') this.#unknown = true;
      settled(fate);
    });
  }

  /** An attempt was put aside, since the database could not tell any more whether another one has counted. */
  putAside(): void {
    this.#isUncertain = true;
  }

  /** The journal has forgotten an attempt that it may have acknowledged: whatever its answers say, it may count or not. */
  mayBeLost(): void {
    this.#isUncertain = true;
  }

  /** It was acknowledged, but only with a durability that later events may exceed, such as a loss of power. */
  putAtRisk(): void {
    this.#acknowledged = false;
    this.#unknown = true;
  }
}

/** One attempt of a request, as the HTTP thread sees it. */
export class Attempt implements PendingReply {
  readonly request: ClientRequest;
  readonly #settled: (fate: Fate) => void;
  #done = false;

  constructor(request: ClientRequest, settled: (fate: Fate) => void) {
    this.request = request;
    this.#settled = settled;
  }

  get isSettled(): boolean {
    return this.#done;
  }

  settle(refusal: Refusal | undefined): void {
    if (this.#done) throw new Violation('A request was answered twice');
    if (refusal === 'idempotency-mismatch') throw new Violation('The same content was taken for other content');
    this.#end(refusal === undefined ? 'acknowledged' : refusal === 'outcome-unknown' ? 'unknown' : 'refused');
  }

  /** The connection closed without an answer. */
  abandon(): void {
    if (!this.#done) this.#end('unknown');
  }

  /** The increments as the body scanner would leave them. */
  columns(): ParsedIncrements {
    const { increments } = this.request;
    const bytes = increments.map(({ counter }) => counter.bytes);
    const starts = bytes.map((_, row) => bytes.slice(0, row).reduce((sum, key) => sum + key.length, 0));
    return {
      count: increments.length,
      body: Buffer.concat(bytes),
      decoded: new Uint8Array(0),
      keyStart: Int32Array.from(starts),
      keyBytes: Uint16Array.from(bytes, (key) => key.length),
      hash: Uint32Array.from(increments, ({ counter }) => counter.hash),
      amount: Float64Array.from(increments, ({ counter, digit }) => counter.amountOf(digit)),
    };
  }

  #end(fate: Fate): void {
    this.#done = true;
    this.#settled(fate);
  }
}

/** All counters of a history. */
export class Expectations {
  readonly counters = new Map<string, ExpectedCounter>();

  counter(key: string, sign: 1 | -1): ExpectedCounter {
    const existing = this.counters.get(key);
    if (existing !== undefined) return existing;
    const made = new ExpectedCounter(key, sign);
    this.counters.set(key, made);
    return made;
  }

  /**
   * Checks the database's sums of `keys`. If `complete`, nothing acknowledged may be missing except increments
   * `elsewhere`.
   */
  check(
    keys: Iterable<string>,
    sumOf: (key: string) => bigint,
    where: string,
    complete: boolean,
    elsewhere?: ReadonlySet<string>,
  ): void {
    for (const key of keys) {
      const counter = this.counters.get(key);
      if (counter === undefined) throw new Violation(`${where}: ${key} was never sent`);
      const fates = counter.fates.map((fate, digit) =>
        elsewhere?.has(`${key}[${digit}]`) === true ? 'unknown' : fate,
      );
      counter.check(sumOf(key), where, complete ? fates : undefined);
    }
  }
}
