/**
 * The keys of the flush benchmark: 24 bytes, in an order unrelated to their sort order, like the keys in the map of a
 * shard. Each writer has keys of its own, like a shard.
 */

const KEY_BYTES = 24;
/** 2^32 divided by the golden ratio: its multiples spread evenly over 32 bits. */
const SCATTER = 2_654_435_761;
const PLACES = 2 ** 21;
const DIGITS = Buffer.from('0123456789abcdef');

/** The keys of one writer, in turn. */
export class RowSource {
  readonly writer: number;
  readonly #circle: number;
  readonly #key = Buffer.alloc(KEY_BYTES, '0');
  #position = 0;

  /** Without `circle`, all keys are new. With it, that many keys are used in turn, so later uses are updates. */
  constructor(writer: number, circle = Number.MAX_SAFE_INTEGER) {
    this.writer = writer;
    this.#circle = circle;
  }

  /** Number of keys that were taken. */
  get position(): number {
    return this.#position;
  }

  /** Visits the next `rows` keys. A key is valid during its visit. */
  forEach(rows: number, visit: (key: Buffer) => void): void {
    for (let row = 0; row < rows; row += 1) {
      const n = this.#position % this.#circle;
      this.#position += 1;
      visit(this.#make(n));
    }
  }

  /** Visits the next `rows` keys in ascending order, two million at most. */
  forEachSorted(rows: number, visit: (key: Buffer) => void): void {
    const first = this.#position;
    const order = new Float64Array(rows);
    // The first digits decide the order. The index of a key among these rows fits in the bits below them.
    for (let row = 0; row < rows; row += 1) order[row] = scattered((first + row) % this.#circle) * PLACES + row;
    for (const value of order.sort()) visit(this.#make((first + (value % PLACES)) % this.#circle));
    this.#position = first + rows;
  }

  /** Takes `rows` keys without making them. Returns the first of their numbers. */
  takeRange(rows: number): number {
    const first = this.#position;
    this.#position += rows;
    return first;
  }

  #make(n: number): Buffer {
    const key = this.#key;
    key[8] = 0x3a;
    key[9] = 0x30 + this.writer;
    writeDigits(key, 0, 8, scattered(n), 16);
    writeDigits(key, 10, KEY_BYTES, n, 10);
    return key;
  }
}

function scattered(n: number): number {
  return (n * SCATTER) % 2 ** 32;
}

function writeDigits(key: Buffer, from: number, to: number, value: number, base: number): void {
  let rest = value;
  for (let at = to - 1; at >= from; at -= 1) {
    const quotient = Math.floor(rest / base);
    // The remainder is always an index of the digits.
    key[at] = DIGITS[rest - quotient * base] as number;
    rest = quotient;
  }
}
