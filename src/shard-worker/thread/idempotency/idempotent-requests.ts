/**
 * Idempotent requests that wait for a flush, each idempotency key once, with their increments summed by key. Shard thread.
 *
 * They are apart from other pending sums, because the flush decides whether a request counts: only if its idempotency key is
 * new. `totals` holds the same sums by key, for reads, and the only copy of the keys. A request sum is the entry of its key in
 * `totals` and an amount. Requests and request sums are numbers into columns, so a request costs no object.
 */
import type { DatabaseTime } from '../../../core/checkpoint.js';
import { addSums, type Sum } from '../../../core/increment.js';
import { hashKey } from '../../../core/key-hash.js';
import {
  amountAt,
  DIGEST_BYTES,
  digestStart,
  idempotencyKeyEnd,
  idempotencyKeyStart,
  idempotentRequestEnd,
  incrementEnd,
  keyBytesAt,
  keyHashAt,
  keyStart,
  PENDING_KEY_OVERHEAD_BYTES,
} from '../../protocol/record-layout.js';
import { SummingMap } from '../summing-map.js';

/** A request as an object, for the rare cases that need single requests. */
export interface IdempotentRequest {
  readonly idempotencyKey: string;
  readonly digest: Uint8Array;
  readonly requestSums: readonly RequestSum[];
  /** Number of increments as sent, before they were summed by key. */
  readonly increments: number;
  /** The time of the database that its record carries. */
  readonly time: DatabaseTime;
}

/** A request sum: one key of a request, and its amount. */
interface RequestSum {
  /** Its number among the sums of all requests here. */
  readonly number: number;
  readonly key: Uint8Array;
  readonly sum: Sum;
}

/** Bytes that a request costs besides its keys, as MAX_PENDING_BYTES counts them. */
const REQUEST_OVERHEAD_BYTES = 400;
const SMALLEST_DIGESTS_BYTES = 1024 * DIGEST_BYTES;

/** The pending requests of one map generation. Numbers are given in the order of arrival, from 0. */
export class IdempotentRequests {
  readonly totals = new SummingMap();
  /** Idempotency keys; the entry number of a key is the number of its request. */
  readonly idempotencyKeys = new SummingMap();
  #digests = new Uint8Array(SMALLEST_DIGESTS_BYTES);
  /** By request: the end of its sums (exclusive), and the number of its increments. */
  #sumsEnd: number[] = [];
  #incrementsOf: number[] = [];
  /** By request: the time of the database that its record carries. */
  #times: DatabaseTime[] = [];
  /** By request sum: the entry of its key in `totals`, and the sum. */
  #sumEntry: number[] = [];
  #sumAmount: Sum[] = [];
  /** By entry in `totals`: the last request sum of that key. */
  #lastSum: number[] = [];
  #increments = 0;
  #duplicates = 0;
  #bytes = 0;

  /** Number of requests. */
  get size(): number {
    return this.idempotencyKeys.size;
  }

  /** Number of request sums. Each counts as a pending key of its own. */
  get requestSums(): number {
    return this.#sumEntry.length;
  }

  /** Increments of all requests, duplicates included. */
  get increments(): number {
    return this.#increments;
  }

  /** Increments of requests whose idempotency key was here already. Only the first request counts. */
  get duplicates(): number {
    return this.#duplicates;
  }

  get pendingBytes(): number {
    return this.#bytes + this.idempotencyKeys.overflowBytes + this.totals.overflowBytes;
  }

  /** All digests, {@link DIGEST_BYTES} a request in order; valid until the next {@link add}. */
  get digests(): Uint8Array {
    return this.#digests;
  }

  /** The number of a request's first sum. */
  sumsStart(request: number): number {
    return request === 0 ? 0 : this.sumsEnd(request - 1);
  }

  /** The number after a request's last sum. */
  sumsEnd(request: number): number {
    // In range by the caller's contract, as below.
    return this.#sumsEnd[request] as number;
  }

  /** The entry of a request sum's key in `totals`. */
  sumEntry(requestSum: number): number {
    return this.#sumEntry[requestSum] as number;
  }

  sumAmount(requestSum: number): Sum {
    return this.#sumAmount[requestSum] as Sum;
  }

  /** Number of a request's increments as sent, before they were summed by key. */
  incrementsOf(request: number): number {
    return this.#incrementsOf[request] as number;
  }

  idempotencyKey(request: number): string {
    const { arena } = this.idempotencyKeys;
    const start = this.idempotencyKeys.keyStart(request);
    const bytes = arena.subarray(start, start + this.idempotencyKeys.keyBytes(request));
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
  }

  /** In the order of their first arrival. */
  *values(): IterableIterator<IdempotentRequest> {
    for (let request = 0; request < this.size; request += 1) yield this.#object(request);
  }

  get(idempotencyKey: string): IdempotentRequest | undefined {
    const bytes = Buffer.from(idempotencyKey, 'latin1');
    const request = this.idempotencyKeys.find(hashKey(bytes, 0, bytes.length), bytes, 0, bytes.length);
    return request < 0 ? undefined : this.#object(request);
  }

  /**
   * Adds the request whose entry is at `at` of `bytes`. If its idempotency key is here, it only counts as a duplicate. `view`
   * is a view of `bytes`; the record carries `time`. Returns the number of increments.
   */
  add(view: DataView, bytes: Uint8Array, at: number, time: DatabaseTime): number {
    const request = this.idempotencyKeys.size;
    const idempotencyKey = idempotencyKeyStart(at);
    const start = idempotencyKeyEnd(view, at);
    const end = idempotentRequestEnd(view, at);
    const idempotencyKeyBytes = start - idempotencyKey;
    const isNew = this.idempotencyKeys.add(
      hashKey(bytes, idempotencyKey, start),
      bytes,
      idempotencyKey,
      idempotencyKeyBytes,
      1,
    );
    const increments = isNew ? this.#addIncrements(view, bytes, start, end) : countIncrements(view, start, end);
    this.#increments += increments;
    if (!isNew) {
      this.#duplicates += increments;
      return increments;
    }
    this.#sumsEnd.push(this.#sumEntry.length);
    this.#incrementsOf.push(increments);
    this.#times.push(time);
    this.#keepDigest(request, bytes, digestStart(at));
    this.#bytes += REQUEST_OVERHEAD_BYTES + idempotencyKeyBytes;
    return increments;
  }

  /** Whether a request is older than `time`. */
  hasOlderThan(time: DatabaseTime): boolean {
    return this.#times.some((own) => own < time);
  }

  /** Removes the requests that are older than `time`, and returns them. */
  takeOlderThan(time: DatabaseTime): readonly IdempotentRequest[] {
    if (!this.hasOlderThan(time)) return [];
    const all = [...this.values()];
    const duplicates = this.#duplicates;
    this.clear();
    for (const request of all) if (request.time >= time) this.#addObject(request);
    // Duplicates are counted but not kept, so they stay with the remaining requests.
    this.#duplicates = duplicates;
    this.#increments += duplicates;
    return all.filter((request) => request.time < time);
  }

  #addObject({ idempotencyKey, digest, requestSums, increments, time }: IdempotentRequest): void {
    const key = Buffer.from(idempotencyKey, 'latin1');
    const request = this.size;
    this.idempotencyKeys.add(hashKey(key, 0, key.length), key, 0, key.length, 1);
    for (const { key: counter, sum } of requestSums) {
      const hash = hashKey(counter, 0, counter.length);
      for (const part of safeParts(sum)) this.totals.add(hash, counter, 0, counter.length, part);
      const entry = this.totals.find(hash, counter, 0, counter.length);
      this.#lastSum[entry] = this.#sumEntry.length;
      this.#sumEntry.push(entry);
      this.#sumAmount.push(sum);
      this.#bytes += counter.length + PENDING_KEY_OVERHEAD_BYTES;
    }
    this.#increments += increments;
    this.#sumsEnd.push(this.#sumEntry.length);
    this.#incrementsOf.push(increments);
    this.#times.push(time);
    this.#keepDigest(request, digest, 0);
    this.#bytes += REQUEST_OVERHEAD_BYTES + key.length;
  }

  /** Removes everything. */
  clear(): void {
    this.totals.clear(this.totals.size);
    this.idempotencyKeys.clear(this.idempotencyKeys.size);
    if (this.#digests.length > 8 * Math.max(SMALLEST_DIGESTS_BYTES, this.#sumsEnd.length * DIGEST_BYTES)) {
      this.#digests = new Uint8Array(SMALLEST_DIGESTS_BYTES);
    }
    this.#sumsEnd = [];
    this.#incrementsOf = [];
    this.#times = [];
    this.#sumEntry = [];
    this.#sumAmount = [];
    this.#lastSum = [];
    this.#increments = 0;
    this.#duplicates = 0;
    this.#bytes = 0;
  }

  /** Returns the number of increments. */
  #addIncrements(view: DataView, bytes: Uint8Array, start: number, end: number): number {
    const { totals } = this;
    const firstSum = this.#sumEntry.length;
    let increments = 0;
    let at = start;
    while (at < end) {
      const keyBytes = keyBytesAt(view, at);
      const keyHash = keyHashAt(view, at);
      const amount = amountAt(view, at);
      const key = keyStart(at);
      at = key + keyBytes;
      increments += 1;
      const isNew = totals.add(keyHash, bytes, key, keyBytes, amount);
      const entry = isNew ? totals.size - 1 : totals.find(keyHash, bytes, key, keyBytes);
      const lastSum = isNew ? -1 : (this.#lastSum[entry] as number);
      if (lastSum >= firstSum) {
        this.#sumAmount[lastSum] = addSums(this.sumAmount(lastSum), amount);
        continue;
      }
      this.#lastSum[entry] = this.#sumEntry.length;
      this.#sumEntry.push(entry);
      this.#sumAmount.push(amount);
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

  #object(request: number): IdempotentRequest {
    const { totals } = this;
    const requestSums: RequestSum[] = [];
    for (let number = this.sumsStart(request); number < this.sumsEnd(request); number += 1) {
      const entry = this.sumEntry(number);
      const key = totals.keyStart(entry);
      requestSums.push({
        number,
        key: totals.arena.slice(key, key + totals.keyBytes(entry)),
        sum: this.sumAmount(number),
      });
    }
    return {
      idempotencyKey: this.idempotencyKey(request),
      digest: this.#digests.slice(request * DIGEST_BYTES, (request + 1) * DIGEST_BYTES),
      requestSums,
      increments: this.incrementsOf(request),
      time: this.#times[request] as DatabaseTime,
    };
  }
}

function countIncrements(view: DataView, start: number, end: number): number {
  let count = 0;
  for (let at = start; at < end; at = incrementEnd(view, at)) count += 1;
  return count;
}

/** Safe integers that add up to a sum; at least one. */
function safeParts(sum: Sum): number[] {
  if (typeof sum === 'number') return [sum];
  const parts: number[] = [];
  const most = sum < 0n ? -BigInt(Number.MAX_SAFE_INTEGER) : BigInt(Number.MAX_SAFE_INTEGER);
  for (let rest = sum; rest !== 0n;) {
    const part = (sum < 0n ? rest < most : rest > most) ? most : rest;
    parts.push(Number(part));
    rest -= part;
  }
  return parts;
}
