/**
 * A load's record of its own requests. From the final sums it tells for each request whether it was counted never, once
 * or more often.
 *
 * Request number i of a block adds 4^i to the block's key. Nobody else writes that key, so the base-4 digits of its sum
 * tell how often each request was counted. An acknowledged request must be counted exactly once, a refused one never,
 * one with unknown outcome at most once. A block has as many digits as fit into a safe integer.
 *
 * Requests also add to keys that all writers share. The sums of those must lie between the acknowledged and the
 * attempted amounts.
 */
import type { Random } from './random.js';

/** How a request ended, as far as its sender knows. */
export type Outcome = 'acknowledged' | 'refused' | 'unknown';

/** A request to send, and a callback for its outcome. */
export interface TrackedRequest {
  /** The JSON body. */
  readonly body: string;
  /** Its Idempotency-Key, for some: the request is repeated until it is answered, and must still be counted once. */
  readonly idempotencyKey: string | undefined;
  settle(outcome: Outcome): void;
}

const DIGITS_PER_BLOCK = 26;
const NOT_COUNTED = 0;
const UNKNOWN = 1;
const COUNTED = 2;

interface Block {
  readonly key: string;
  /** By digit; requests in flight are unknown. */
  readonly states: Uint8Array;
  used: number;
}

interface SharedKey {
  readonly key: string;
  acknowledged: bigint;
  /** Sums of the positive and negative amounts whose outcome is unknown or still open. */
  openAbove: bigint;
  openBelow: bigint;
}

/** A range in which a sum must lie. */
export interface Bounds {
  readonly least: bigint;
  readonly most: bigint;
}

const SHARED_KEYS = 16;
const VIOLATIONS_SHOWN = 20;

/** The requests of a whole run. */
export class OutcomeLedger {
  readonly #random: Random;
  readonly #blocks: Block[] = [];
  readonly #hot: readonly SharedKey[] = sharedKeys('hot');
  readonly #mixed: readonly SharedKey[] = sharedKeys('mixed');
  acknowledged = 0;
  refused = 0;
  unknown = 0;
  open = 0;
  #requests = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  /** A source of requests for one sender; its name is part of its keys. */
  writer(name: string): () => TrackedRequest {
    let first: Block | undefined;
    let second: Block | undefined;
    return () => {
      first = this.#roomIn(first, `${name}/a`);
      const parts = [this.#take(first)];
      if (this.#random.integer(10) < 4) {
        second = this.#roomIn(second, `${name}/b`);
        parts.push(this.#take(second));
      }
      const isIdempotent = this.#random.integer(5) === 0;
      // A read includes a repetition whose original an earlier process counted, until its flush recognises it.
      if (!isIdempotent && this.#random.integer(2) === 0) parts.push(this.#share(this.#hot, this.#random.integer(10)));
      if (this.#random.integer(8) === 0) parts.push(this.#share(this.#mixed, this.#random.integer(2001) - 1000));
      this.open += 1;
      this.#requests += 1;
      return {
        idempotencyKey: isIdempotent ? `${name}/${this.#requests}` : undefined,
        body: `{${parts.map(({ member }) => member).join(',')}}`,
        settle: (outcome) => {
          this.open -= 1;
          this[outcome] += 1;
          for (const part of parts) part.settle(outcome);
        },
      };
    };
  }

  /** A key to read during the run: its amounts are never below 0. */
  readableKey(): string {
    return `hot/${this.#random.integer(SHARED_KEYS)}`;
  }

  /** The range of a readable key's sum, now. */
  boundsOf(key: string): Bounds {
    const shared = this.#hot.find((candidate) => candidate.key === key);
    if (shared === undefined) throw new Error(`${key} is not a readable key`);
    return bounds(shared);
  }

  /** The violations in the sums of a finished run; empty if every request was counted correctly. */
  violations(sums: ReadonlyMap<string, bigint>): string[] {
    const found: string[] = [];
    const known = new Set<string>();
    for (const block of this.#blocks) {
      known.add(block.key);
      found.push(...violationsOfBlock(block, sums.get(block.key) ?? 0n));
    }
    for (const shared of [...this.#hot, ...this.#mixed]) {
      known.add(shared.key);
      const { least, most } = bounds(shared);
      const sum = sums.get(shared.key) ?? 0n;
      if (sum < least || sum > most) found.push(`${shared.key} is ${sum}, but must be from ${least} to ${most}`);
    }
    for (const key of sums.keys()) if (!known.has(key)) found.push(`${key} was never sent`);
    const hidden = found.length - VIOLATIONS_SHOWN;
    return hidden > 0 ? [...found.slice(0, VIOLATIONS_SHOWN), `and ${hidden} more`] : found;
  }

  #roomIn(block: Block | undefined, name: string): Block {
    if (block !== undefined && block.used < DIGITS_PER_BLOCK) return block;
    const made = { key: `${name}/${this.#blocks.length}`, states: new Uint8Array(DIGITS_PER_BLOCK), used: 0 };
    this.#blocks.push(made);
    return made;
  }

  #take(block: Block): { readonly member: string; settle(outcome: Outcome): void } {
    const digit = block.used;
    block.used += 1;
    block.states[digit] = UNKNOWN;
    return {
      member: `"${block.key}":${4 ** digit}`,
      settle(outcome) {
        if (outcome !== 'unknown') block.states[digit] = outcome === 'acknowledged' ? COUNTED : NOT_COUNTED;
      },
    };
  }

  #share(keys: readonly SharedKey[], amount: number): { readonly member: string; settle(outcome: Outcome): void } {
    // In range: there are as many as SHARED_KEYS.
    const shared = keys[this.#random.integer(SHARED_KEYS)] as SharedKey;
    const exact = BigInt(amount);
    const side = amount > 0 ? 'openAbove' : 'openBelow';
    shared[side] += exact;
    return {
      member: `"${shared.key}":${amount}`,
      settle(outcome) {
        if (outcome === 'unknown') return;
        shared[side] -= exact;
        if (outcome === 'acknowledged') shared.acknowledged += exact;
      },
    };
  }
}

function sharedKeys(name: string): readonly SharedKey[] {
  return Array.from({ length: SHARED_KEYS }, (_, index) => {
    return { key: `${name}/${index}`, acknowledged: 0n, openAbove: 0n, openBelow: 0n };
  });
}

function bounds({ acknowledged, openAbove, openBelow }: SharedKey): Bounds {
  return { least: acknowledged + openBelow, most: acknowledged + openAbove };
}

function violationsOfBlock({ key, states }: Block, sum: bigint): string[] {
  const found: string[] = [];
  let rest = sum;
  for (const [digit, state] of states.entries()) {
    const count = Number(rest & 3n);
    rest >>= 2n;
    const allowed = state === COUNTED ? count === 1 : state === UNKNOWN ? count <= 1 : count === 0;
    if (!allowed) found.push(`request ${digit} of ${key}, ${stateNames[state] ?? '?'}, was counted ${count} times`);
  }
  if (rest !== 0n) found.push(`${key} is ${sum}, which no requests add up to`);
  return found;
}

const stateNames = ['refused or never sent', 'of unknown outcome', 'acknowledged'];
