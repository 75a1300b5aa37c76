/**
 * Requests with tokens that wait for a flush, each token once, its pairs summed by key. Shard thread.
 *
 * They are kept apart from the shard's other sums, because whether a request counts is decided in the flush, by the
 * claim of its token. `sums` holds the same pairs by key alone, for reads.
 */
import { hash } from 'node:crypto';
import type { Sum } from '../increment.js';
import { DIGEST_BYTES, PAIR_HEADER_BYTES, PAIR_OFFSET, PENDING_KEY_OVERHEAD_BYTES } from './messages.js';
import { SummingMap } from './summing-map.js';

/** A request as it is flushed. */
export interface TokenedRequest {
  readonly token: string;
  readonly digest: Uint8Array;
  readonly pairs: readonly TokenedPair[];
  /** Pairs as they were sent, before they were summed by key. */
  readonly increments: number;
}

/** One key of a request and what the request adds to it. */
export interface TokenedPair {
  readonly key: Uint8Array;
  readonly sum: Sum;
}

/** Bytes that a request costs besides its keys, as MAX_PENDING_BYTES counts it. */
const REQUEST_OVERHEAD_BYTES = 400;

/** The pending requests of one map generation. */
export class TokenedRequests {
  readonly sums = new SummingMap();
  readonly #requests = new Map<string, TokenedRequest>();
  #pairs = 0;
  #increments = 0;
  #duplicates = 0;
  #bytes = 0;

  /** Number of requests. */
  get size(): number {
    return this.#requests.size;
  }

  /** Pairs of all requests, each of which counts as a pending key of its own. */
  get pairs(): number {
    return this.#pairs;
  }

  /** Increments of all requests, duplicates included. */
  get increments(): number {
    return this.#increments;
  }

  /** Increments of requests whose token was here already: they count once, with the first. */
  get duplicates(): number {
    return this.#duplicates;
  }

  get pendingBytes(): number {
    return this.#bytes;
  }

  /** In the order of their first arrival. */
  values(): IterableIterator<TokenedRequest> {
    return this.#requests.values();
  }

  get(token: string): TokenedRequest | undefined {
    return this.#requests.get(token);
  }

  /**
   * Adds a request; one whose token is here is only counted as a duplicate. `bytes[start, end)` are the entries of its
   * pairs. Returns its increments.
   */
  add(token: string, digest: Uint8Array, bytes: Uint8Array, start: number, end: number): number {
    const { pairs, increments } = sumByKey(bytes, start, end);
    this.#increments += increments;
    if (this.#requests.has(token)) {
      this.#duplicates += increments;
      return increments;
    }
    this.#requests.set(token, { token, digest, pairs, increments });
    forEachPair(bytes, start, end, (keyHash, key, keyBytes, amount) => {
      this.sums.add(keyHash, bytes, key, keyBytes, amount);
    });
    this.#pairs += pairs.length;
    this.#bytes += REQUEST_OVERHEAD_BYTES + token.length;
    for (const { key } of pairs) this.#bytes += key.length + PENDING_KEY_OVERHEAD_BYTES;
    return increments;
  }

  /** Forgets everything. */
  clear(): void {
    this.sums.clear(this.sums.size);
    this.#requests.clear();
    this.#pairs = 0;
    this.#increments = 0;
    this.#duplicates = 0;
    this.#bytes = 0;
  }
}

/**
 * The digest of a request's content: of its keys in bytewise order, each with its sum. Two bodies that add the same to
 * the same keys have the same digest, however they are written.
 */
export function digestOf(bytes: Uint8Array, start: number, end: number): Uint8Array {
  const pairs = sumByKey(bytes, start, end).pairs.toSorted((a, b) => Buffer.compare(a.key, b.key));
  const parts: Uint8Array[] = [];
  for (const { key, sum } of pairs) parts.push(key, Buffer.from(`\0${sum}\0`));
  return hash('sha256', Buffer.concat(parts), 'buffer').subarray(0, DIGEST_BYTES);
}

type PairVisitor = (keyHash: number, key: number, keyBytes: number, amount: number) => void;

function forEachPair(bytes: Uint8Array, start: number, end: number, visit: PairVisitor): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = start;
  while (at < end) {
    const keyBytes = view.getUint16(at + PAIR_OFFSET.keyBytes, true);
    const keyHash = view.getUint32(at + PAIR_OFFSET.hash, true);
    const key = at + PAIR_HEADER_BYTES;
    visit(keyHash, key, keyBytes, view.getFloat64(at + PAIR_OFFSET.amount, true));
    at = key + keyBytes;
  }
}

/** Used again for each request of more than one pair. */
const scratch = new SummingMap();

function sumByKey(
  bytes: Uint8Array,
  start: number,
  end: number,
): { readonly pairs: readonly TokenedPair[]; readonly increments: number } {
  scratch.clear(0);
  forEachPair(bytes, start, end, (keyHash, key, keyBytes, amount) => {
    scratch.add(keyHash, bytes, key, keyBytes, amount);
  });
  const pairs: TokenedPair[] = [];
  for (let entry = 0; entry < scratch.size; entry += 1) {
    const from = scratch.keyStart(entry);
    pairs.push({ key: scratch.arena.slice(from, from + scratch.keyBytes(entry)), sum: scratch.sum(entry) });
  }
  return { pairs, increments: scratch.increments };
}
