/**
 * The keys of a shard that get the most increments now. Shard thread.
 *
 * A space-saving sketch (Metwally, Agrawal, El Abbadi, 2005) of a bounded number of keys, whose counts fade within seconds. It
 * is fed only while somebody asks, and with a few thousand increments a second: above that, every n-th counts n times. So
 * increments pay almost nothing for it.
 */
import type { HotKey } from '../protocol/control-messages.js';
import {
  idempotencyKeyEnd,
  incrementEnd,
  isIdempotent,
  keyBytesAt,
  keyStart,
  RECORD_HEADER_BYTES,
} from '../protocol/record-layout.js';

/** Keys that the sketch follows. */
const KEYS_MAX = 256;
/** Counts fade to about a third in this time. */
const FADE_MS = 3_000;
/** The sketch is fed for this long after a request. */
const ASKED_MS = 5_000;
/** About how many increments are sampled in a window, and most entries of records that are skipped to reach them. */
const WINDOW_MS = 100;
const SAMPLES = 400;
const ENTRIES_MAX = 20_000;

interface Followed {
  count: number;
  /** The part of the count that may belong to replaced keys. */
  excess: number;
}

/** See the file's head. */
export class HotKeys {
  readonly #now: () => number;
  readonly #random: () => number;
  readonly #followed = new Map<string, Followed>();
  #askedAtMs = Number.NEGATIVE_INFINITY;
  /** When the sketch began to be fed. */
  #sinceMs = 0;
  #windowAtMs = 0;
  /** Increments of this window, and how many of them were skipped or sampled. */
  #seen = 0;
  #passed = 0;
  /** On average every n-th increment of this window is sampled, at random distances, because bodies repeat. */
  #stride = 1;
  /** Increments to skip before the next sample. */
  #skip = 0;
  #samples = 0;
  /** The weight of a sample, which makes up for records that the last window had no time for. */
  #weight = 1;

  /** `now` is a monotonic clock in ms. */
  constructor(now: () => number, random: () => number) {
    this.#now = now;
    this.#random = random;
  }

  /** The keys with the most increments, most first. Keeps measuring for some seconds, for the next call. */
  hottest(most: number): readonly HotKey[] {
    const now = this.#now();
    if (now - this.#askedAtMs > ASKED_MS) this.#begin(now);
    this.#askedAtMs = now;
    this.#turnWindow(now);
    // The faded sum of a rate of 1 since the start.
    const unit = (FADE_MS / 1000) * (1 - Math.exp(-(now - this.#sinceMs) / FADE_MS));
    if (unit <= 0) return [];
    return Array.from(this.#followed, ([key, { count, excess }]) => ({
      key: Buffer.from(key, 'latin1').toString('utf8'),
      perSecond: (count - excess) / unit,
    }))
      .filter(({ perSecond }) => perSecond > 0.05)
      .sort((a, b) => b.perSecond - a.perSecond)
      .slice(0, most);
  }

  /** Samples the increments of a record. Does nothing while nobody asks. */
  feed(record: Uint8Array, increments: number): void {
    if (this.#askedAtMs === Number.NEGATIVE_INFINITY) return;
    const now = this.#now();
    if (now - this.#askedAtMs > ASKED_MS) {
      this.#askedAtMs = Number.NEGATIVE_INFINITY;
      return;
    }
    this.#turnWindow(now);
    this.#seen += increments;
    this.#sample(record);
  }

  #begin(now: number): void {
    this.#followed.clear();
    this.#sinceMs = now;
    this.#windowAtMs = now;
    this.#seen = this.#passed = this.#skip = this.#samples = 0;
    this.#stride = this.#weight = 1;
  }

  #turnWindow(now: number): void {
    const elapsed = now - this.#windowAtMs;
    if (elapsed < WINDOW_MS) return;
    const fade = Math.exp(-elapsed / FADE_MS);
    for (const [key, followed] of this.#followed) {
      followed.count *= fade;
      followed.excess *= fade;
      if (followed.count < 0.01) this.#followed.delete(key);
    }
    this.#weight = this.#passed === 0 ? 1 : this.#seen / this.#passed;
    this.#stride = Math.max(1, Math.ceil(this.#passed / SAMPLES));
    this.#windowAtMs = now;
    this.#seen = this.#passed = this.#samples = 0;
  }

  /** Counts every n-th increment of a record n times. */
  #sample(record: Uint8Array): void {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    let at = RECORD_HEADER_BYTES;
    while (at < record.length && this.#passed < ENTRIES_MAX) {
      if (isIdempotent(view, at)) {
        // Its increments follow.
        at = idempotencyKeyEnd(view, at);
        continue;
      }
      if (this.#skip <= 0) {
        const start = keyStart(at);
        // Latin-1 keeps the bytes apart, and costs less than UTF-8.
        const key = Buffer.from(record.buffer, record.byteOffset + start, keyBytesAt(view, at)).toString('latin1');
        this.#count(key, this.#stride * this.#weight);
        this.#samples += 1;
        // A window with far more than the last must not cost far more.
        if (this.#samples % (2 * SAMPLES) === 0) this.#stride *= 4;
        this.#skip = 1 + Math.floor(this.#random() * (2 * this.#stride - 1));
      }
      this.#skip -= 1;
      this.#passed += 1;
      at = incrementEnd(view, at);
    }
  }

  #count(key: string, weight: number): void {
    const followed = this.#followed.get(key);
    if (followed !== undefined) {
      followed.count += weight;
      return;
    }
    let excess = 0;
    if (this.#followed.size >= KEYS_MAX) excess = this.#replaceLeast();
    this.#followed.set(key, { count: excess + weight, excess });
  }

  /** Forgets the key with the least count, and returns the count. */
  #replaceLeast(): number {
    let least = Number.POSITIVE_INFINITY;
    let leastKey = '';
    for (const [key, { count }] of this.#followed) {
      if (count >= least) continue;
      least = count;
      leastKey = key;
    }
    this.#followed.delete(leastKey);
    return least;
  }
}
