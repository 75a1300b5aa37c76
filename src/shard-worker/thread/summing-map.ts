/**
 * Exact sums by key: the map behind pending sums. Shard thread.
 *
 * An open-addressing hash table (linear probing, at most half full) over columns. A slot holds the hash of a key and its entry
 * number. An entry has its key's bytes in one arena, its sum, and the number of its increments. Keys stay bytes from the socket
 * to PostgreSQL, so an increment makes no string. A pending key of 24 bytes costs 24 + 36 bytes plus the slack of doubling
 * arrays. Entries are in the order of insertion.
 *
 * The hash has no secret, so a client can make keys that all have the same hash. A probe therefore ends after
 * {@link PROBES_MAX} slots. The few keys that found no free slot there overflow into a Map of strings, whose hash the engine
 * seeds. The attack is from Crosby and Wallach, "Denial of service via algorithmic complexity attacks", 2003.
 */
import { addSums, AMOUNT_MAX, type Sum } from '../../core/increment.js';
import { PENDING_KEY_OVERHEAD_BYTES } from '../protocol/record-layout.js';

const SMALLEST_CAPACITY = 1024;
const SMALLEST_ARENA_BYTES = 32 * 1024;

/** Most slots that a search visits. A million ordinary keys need fewer than 50. */
const PROBES_MAX = 64;
/** Bytes that a key without a slot costs besides its own, which are stored twice. */
const OVERFLOW_OVERHEAD_BYTES = 100;

/** Exact sums by key. */
export class SummingMap {
  #slots = new Uint32Array(2 * SMALLEST_CAPACITY);
  #mask = SMALLEST_CAPACITY - 1;
  #hash = new Uint32Array(SMALLEST_CAPACITY / 2);
  #keyStart = new Uint32Array(SMALLEST_CAPACITY / 2);
  #keyBytes = new Uint16Array(SMALLEST_CAPACITY / 2);
  #sum = new Float64Array(SMALLEST_CAPACITY / 2);
  #increments = new Float64Array(SMALLEST_CAPACITY / 2);
  #arena = new Uint8Array(SMALLEST_ARENA_BYTES);
  #arenaEnd = 0;
  #size = 0;
  #incrementsTotal = 0;
  /** Sums beyond the safe integers, by entry; their cell in the column is NaN. */
  readonly #bigSums = new Map<number, bigint>();
  /** Entry numbers of keys that have no slot, by their bytes as a latin1 string. */
  readonly #overflow = new Map<string, number>();
  #overflowBytes = 0;

  /** Number of distinct keys. */
  get size(): number {
    return this.#size;
  }

  /** Number of increments added since the last {@link clear}. */
  get increments(): number {
    return this.#incrementsTotal;
  }

  /** Bytes pending, as MAX_PENDING_BYTES counts them. */
  get pendingBytes(): number {
    return this.#arenaEnd + this.#size * PENDING_KEY_OVERHEAD_BYTES + this.#overflowBytes;
  }

  /** Bytes that keys without a slot cost in addition. */
  get overflowBytes(): number {
    return this.#overflowBytes;
  }

  /** Bytes of all keys. */
  get arenaBytes(): number {
    return this.#arenaEnd;
  }

  /** The bytes that {@link keyStart} points into; valid until the next {@link add}. */
  get arena(): Uint8Array {
    return this.#arena;
  }

  /** Adds `amount`, a safe integer, to the key in `bytes[start, start + length)`. True if the key is new here. */
  add(hash: number, bytes: Uint8Array, start: number, length: number, amount: number): boolean {
    this.#incrementsTotal += 1;
    const slots = this.#slots;
    let slot = hash & this.#mask;
    for (let probes = 0; probes < PROBES_MAX; probes += 1) {
      // Slot numbers are masked, so they are in range, and so are entry numbers read from slots.
      const next = slots[2 * slot + 1] as number;
      if (next === 0) {
        slots[2 * slot] = hash;
        slots[2 * slot + 1] = this.#size + 1;
        this.#append(hash, bytes, start, length, amount);
        return true;
      }
      if (slots[2 * slot] === hash && this.#equals(next - 1, bytes, start, length)) {
        this.#addTo(next - 1, amount);
        return false;
      }
      slot = (slot + 1) & this.#mask;
    }
    return this.#addOverflow(hash, bytes, start, length, amount);
  }

  /** The key's sum here, or undefined. */
  get(hash: number, bytes: Uint8Array, start: number, length: number): Sum | undefined {
    const entry = this.find(hash, bytes, start, length);
    return entry < 0 ? undefined : this.sum(entry);
  }

  /** The key's entry number, or -1. */
  find(hash: number, bytes: Uint8Array, start: number, length: number): number {
    const slots = this.#slots;
    let slot = hash & this.#mask;
    for (let probes = 0; probes < PROBES_MAX; probes += 1) {
      const next = slots[2 * slot + 1] as number;
      if (next === 0) return -1;
      if (slots[2 * slot] === hash && this.#equals(next - 1, bytes, start, length)) return next - 1;
      slot = (slot + 1) & this.#mask;
    }
    return this.#overflow.get(latin1(bytes, start, length)) ?? -1;
  }

  /** Sum of an entry, 0 ≤ entry < size. */
  sum(entry: number): Sum {
    const sum = this.#sum[entry] as number;
    // NaN marks a sum that is in #bigSums; both are written together.
    return Number.isNaN(sum) ? (this.#bigSums.get(entry) as bigint) : sum;
  }

  /** Offset of an entry's key in {@link arena}. */
  keyStart(entry: number): number {
    return this.#keyStart[entry] as number;
  }

  /** Length of an entry's key in bytes. */
  keyBytes(entry: number): number {
    return this.#keyBytes[entry] as number;
  }

  /** The hash of an entry's key. */
  keyHash(entry: number): number {
    return this.#hash[entry] as number;
  }

  /** Number of increments that were added to an entry. */
  entryIncrements(entry: number): number {
    return this.#increments[entry] as number;
  }

  /** Removes everything. Keeps the memory unless it is far more than `expectedKeys` need. */
  clear(expectedKeys: number): void {
    if (this.#hash.length > 8 * Math.max(expectedKeys, SMALLEST_CAPACITY)) {
      this.#allocate(SMALLEST_CAPACITY);
    } else {
      this.#slots.fill(0);
    }
    if (this.#arena.length > 8 * Math.max(this.#arenaEnd, SMALLEST_ARENA_BYTES)) {
      this.#arena = new Uint8Array(SMALLEST_ARENA_BYTES);
    }
    this.#arenaEnd = 0;
    this.#size = 0;
    this.#incrementsTotal = 0;
    this.#bigSums.clear();
    this.#clearOverflow();
  }

  /** Adds to a key that has no slot and gets none. */
  #addOverflow(hash: number, bytes: Uint8Array, start: number, length: number, amount: number): boolean {
    const key = latin1(bytes, start, length);
    const entry = this.#overflow.get(key);
    if (entry !== undefined) {
      this.#addTo(entry, amount);
      return false;
    }
    this.#putOverflow(key, this.#size);
    this.#append(hash, bytes, start, length, amount);
    return true;
  }

  #addTo(entry: number, amount: number): void {
    const sum = (this.#sum[entry] as number) + amount;
    this.#increments[entry] = (this.#increments[entry] as number) + 1;
    if (sum <= AMOUNT_MAX && sum >= -AMOUNT_MAX) {
      this.#sum[entry] = sum;
      return;
    }
    const exact = addSums(this.sum(entry), amount);
    if (typeof exact === 'number') {
      this.#sum[entry] = exact;
      this.#bigSums.delete(entry);
    } else {
      this.#bigSums.set(entry, exact);
      this.#sum[entry] = Number.NaN;
    }
  }

  #equals(entry: number, bytes: Uint8Array, start: number, length: number): boolean {
    if (this.#keyBytes[entry] !== length) return false;
    const arena = this.#arena;
    const own = this.#keyStart[entry] as number;
    for (let at = 0; at < length; at += 1) {
      if (arena[own + at] !== bytes[start + at]) return false;
    }
    return true;
  }

  /** Makes the entry of a new key. Its slot, or its place in the overflow, already holds the entry number. */
  #append(hash: number, bytes: Uint8Array, start: number, length: number, amount: number): void {
    const entry = this.#size;
    if (this.#arenaEnd + length > this.#arena.length) this.#growArena(length);
    const arena = this.#arena;
    const own = this.#arenaEnd;
    for (let at = 0; at < length; at += 1) arena[own + at] = bytes[start + at] as number;
    this.#arenaEnd = own + length;
    this.#hash[entry] = hash;
    this.#keyStart[entry] = own;
    this.#keyBytes[entry] = length;
    this.#sum[entry] = amount;
    this.#increments[entry] = 1;
    this.#size = entry + 1;
    if (this.#size === this.#hash.length) this.#grow();
  }

  #growArena(length: number): void {
    const larger = new Uint8Array(Math.max(2 * this.#arena.length, this.#arenaEnd + length));
    larger.set(this.#arena.subarray(0, this.#arenaEnd));
    this.#arena = larger;
  }

  #grow(): void {
    const hash = this.#hash;
    const keyStart = this.#keyStart;
    const keyBytes = this.#keyBytes;
    const sum = this.#sum;
    const increments = this.#increments;
    this.#allocate(2 * (this.#mask + 1));
    this.#hash.set(hash);
    this.#keyStart.set(keyStart);
    this.#keyBytes.set(keyBytes);
    this.#sum.set(sum);
    this.#increments.set(increments);
    this.#clearOverflow();
    for (let entry = 0; entry < this.#size; entry += 1) this.#place(entry, hash[entry] as number);
  }

  /** Gives an entry a slot, or a place in the overflow. */
  #place(entry: number, hash: number): void {
    const slots = this.#slots;
    let slot = hash & this.#mask;
    for (let probes = 0; probes < PROBES_MAX; probes += 1) {
      if (slots[2 * slot + 1] === 0) {
        slots[2 * slot] = hash;
        slots[2 * slot + 1] = entry + 1;
        return;
      }
      slot = (slot + 1) & this.#mask;
    }
    const start = this.#keyStart[entry] as number;
    this.#putOverflow(latin1(this.#arena, start, this.#keyBytes[entry] as number), entry);
  }

  #putOverflow(key: string, entry: number): void {
    this.#overflow.set(key, entry);
    this.#overflowBytes += key.length + OVERFLOW_OVERHEAD_BYTES;
  }

  #clearOverflow(): void {
    this.#overflow.clear();
    this.#overflowBytes = 0;
  }

  #allocate(capacity: number): void {
    this.#slots = new Uint32Array(2 * capacity);
    this.#mask = capacity - 1;
    this.#hash = new Uint32Array(capacity / 2);
    this.#keyStart = new Uint32Array(capacity / 2);
    this.#keyBytes = new Uint16Array(capacity / 2);
    this.#sum = new Float64Array(capacity / 2);
    this.#increments = new Float64Array(capacity / 2);
  }
}

function latin1(bytes: Uint8Array, start: number, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, length).toString('latin1');
}
