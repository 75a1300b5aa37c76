/**
 * Requests with tokens that wait for a flush, each token once, its pairs summed by key. Shard thread.
 *
 * They are kept apart from the shard's other sums, because whether a request counts is decided in the flush, by the
 * claim of its token. `sums` holds the same pairs by key alone, for reads, and has the only copy of the keys: a pair is
 * the number of its key's entry there and what the request adds to it. Requests and pairs are numbers into columns, so
 * that a request costs no object.
 */
import { addSums, hashKey, type Sum } from '../../../core/increment.js';
import { DIGEST_BYTES, PAIR_HEADER_BYTES, PAIR_OFFSET, PENDING_KEY_OVERHEAD_BYTES } from '../../protocol/messages.js';
import { SummingMap } from '../summing-map.js';

/** A request as an object, for the rare cases that look at single ones. */
export interface TokenedRequest {
  readonly token: string;
  readonly digest: Uint8Array;
  readonly pairs: readonly TokenedPair[];
  /** Pairs as they were sent, before they were summed by key. */
  readonly increments: number;
}

/** One key of a request and what the request adds to it. */
export interface TokenedPair {
  /** Its number among the pairs of all requests here. */
  readonly number: number;
  readonly key: Uint8Array;
  readonly sum: Sum;
}

/** Bytes that a request costs besides its keys, as MAX_PENDING_BYTES counts it. */
const REQUEST_OVERHEAD_BYTES = 400;
const SMALLEST_DIGESTS_BYTES = 1024 * DIGEST_BYTES;

/** The pending requests of one map generation. Numbers are given in the order of arrival, from 0. */
export class TokenedRequests {
  readonly sums = new SummingMap();
  /** Each token; its entry number is the request's. */
  readonly tokens = new SummingMap();
  #digests = new Uint8Array(SMALLEST_DIGESTS_BYTES);
  /** By request: the number of the pair behind its last one, and its increments. */
  #pairsEnd: number[] = [];
  #incrementsOf: number[] = [];
  /** By pair: its key's entry in `sums`, and its sum. */
  #pairEntry: number[] = [];
  #pairSum: Sum[] = [];
  /** By entry in `sums`: the last pair with that key. */
  #lastPair: number[] = [];
  #increments = 0;
  #duplicates = 0;
  #bytes = 0;

  /** Number of requests. */
  get size(): number {
    return this.tokens.size;
  }

  /** Pairs of all requests, each of which counts as a pending key of its own. */
  get pairs(): number {
    return this.#pairEntry.length;
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
    return this.#bytes + this.tokens.crowdedBytes + this.sums.crowdedBytes;
  }

  /** All digests, {@link DIGEST_BYTES} a request in the order of their numbers; valid until the next {@link add}. */
  get digests(): Uint8Array {
    return this.#digests;
  }

  /** The number of a request's first pair. */
  pairsStart(request: number): number {
    return request === 0 ? 0 : this.pairsEnd(request - 1);
  }

  /** The number behind a request's last pair. */
  pairsEnd(request: number): number {
    // In range by the caller's contract, as below.
    return this.#pairsEnd[request] as number;
  }

  /** The entry of a pair's key in `sums`. */
  pairEntry(pair: number): number {
    return this.#pairEntry[pair] as number;
  }

  pairSum(pair: number): Sum {
    return this.#pairSum[pair] as Sum;
  }

  /** In the order of their first arrival. */
  *values(): IterableIterator<TokenedRequest> {
    for (let request = 0; request < this.size; request += 1) yield this.#object(request);
  }

  get(token: string): TokenedRequest | undefined {
    const bytes = Buffer.from(token, 'latin1');
    const request = this.tokens.find(hashKey(bytes, 0, bytes.length), bytes, 0, bytes.length);
    return request < 0 ? undefined : this.#object(request);
  }

  /**
   * Adds a request; one whose token is here is only counted as a duplicate. `bytes` holds its token at
   * `[token, token + tokenBytes)`, its digest from `digest`, the entries of its pairs at `[start, end)`. Returns its
   * increments.
   */
  add(bytes: Uint8Array, token: number, tokenBytes: number, digest: number, start: number, end: number): number {
    const request = this.tokens.size;
    const isNew = this.tokens.add(hashKey(bytes, token, token + tokenBytes), bytes, token, tokenBytes, 1);
    const increments = isNew ? this.#addPairs(bytes, start, end) : countPairs(bytes, start, end);
    this.#increments += increments;
    if (!isNew) {
      this.#duplicates += increments;
      return increments;
    }
    this.#pairsEnd.push(this.#pairEntry.length);
    this.#incrementsOf.push(increments);
    this.#keepDigest(request, bytes, digest);
    this.#bytes += REQUEST_OVERHEAD_BYTES + tokenBytes;
    return increments;
  }

  /** Forgets everything. */
  clear(): void {
    this.sums.clear(this.sums.size);
    this.tokens.clear(this.tokens.size);
    if (this.#digests.length > 8 * Math.max(SMALLEST_DIGESTS_BYTES, this.#pairsEnd.length * DIGEST_BYTES)) {
      this.#digests = new Uint8Array(SMALLEST_DIGESTS_BYTES);
    }
    this.#pairsEnd = [];
    this.#incrementsOf = [];
    this.#pairEntry = [];
    this.#pairSum = [];
    this.#lastPair = [];
    this.#increments = 0;
    this.#duplicates = 0;
    this.#bytes = 0;
  }

  /** Returns the number of increments. */
  #addPairs(bytes: Uint8Array, start: number, end: number): number {
    const { sums } = this;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const firstPair = this.#pairEntry.length;
    let increments = 0;
    let at = start;
    while (at < end) {
      const keyBytes = view.getUint16(at + PAIR_OFFSET.keyBytes, true);
      const keyHash = view.getUint32(at + PAIR_OFFSET.hash, true);
      const amount = view.getFloat64(at + PAIR_OFFSET.amount, true);
      const key = at + PAIR_HEADER_BYTES;
      at = key + keyBytes;
      increments += 1;
      const isNew = sums.add(keyHash, bytes, key, keyBytes, amount);
      const entry = isNew ? sums.size - 1 : sums.find(keyHash, bytes, key, keyBytes);
      const lastPair = isNew ? -1 : (this.#lastPair[entry] as number);
      if (lastPair >= firstPair) {
        this.#pairSum[lastPair] = addSums(this.pairSum(lastPair), amount);
        continue;
      }
      this.#lastPair[entry] = this.#pairEntry.length;
      this.#pairEntry.push(entry);
      this.#pairSum.push(amount);
      this.#bytes += keyBytes + PENDING_KEY_OVERHEAD_BYTES;
    }
    return increments;
  }

  #keepDigest(request: number, bytes: Uint8Array, digest: number): void {
    const to = request * DIGEST_BYTES;
    if (to === this.#digests.length) {
      const larger = new Uint8Array(2 * to);
      larger.set(this.#digests);
      this.#digests = larger;
    }
    for (let at = 0; at < DIGEST_BYTES; at += 1) this.#digests[to + at] = bytes[digest + at] as number;
  }

  #object(request: number): TokenedRequest {
    const { tokens, sums } = this;
    const token = tokens.keyStart(request);
    const pairs: TokenedPair[] = [];
    for (let number = this.pairsStart(request); number < this.pairsEnd(request); number += 1) {
      const entry = this.pairEntry(number);
      const key = sums.keyStart(entry);
      pairs.push({ number, key: sums.arena.slice(key, key + sums.keyBytes(entry)), sum: this.pairSum(number) });
    }
    return {
      token: Buffer.from(tokens.arena.subarray(token, token + tokens.keyBytes(request))).toString('latin1'),
      digest: this.#digests.slice(request * DIGEST_BYTES, (request + 1) * DIGEST_BYTES),
      pairs,
      increments: this.#incrementsOf[request] as number,
    };
  }
}

function countPairs(bytes: Uint8Array, start: number, end: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let count = 0;
  for (let at = start; at < end; at += PAIR_HEADER_BYTES + view.getUint16(at + PAIR_OFFSET.keyBytes, true)) count += 1;
  return count;
}
