/**
 * Scans the body of POST /increment: checks JSON and UTF-8, hashes the keys, and writes the increments into columns, in one
 * pass, without strings or objects. HTTP thread, one scanner a thread.
 *
 * Accepts the JSON of JSON.parse of the shape `{"key": number, ...}`, with additional rules for keys and amounts. A key stays
 * where it is in the body. Only a key with escapes is decoded, into a scratch buffer.
 *
 * Every `scan...` method takes the offset where its part starts and returns the offset behind it. Each has a short path for
 * common bodies (keys in ASCII without escapes, integers of up to 15 digits). Other bodies take a longer path from the place
 * where they differ.
 *
 * In NDJSON a newline ends the object and is not white space within it. `lineFeed` holds that only difference.
 */
import { AMOUNT_MAX, KEY_BYTES_LIMIT, type ParsedIncrements } from '../../core/increment.js';
import { finishKeyHash, hashKey, hashKeyByte, KEY_HASH_START } from '../../core/key-hash.js';
import { describeByte, refuse, refuseByte, refuseMember, refuseStart } from './body-refusal.js';
import {
  escapeBytes,
  escapedCodePoint,
  escapeProblem,
  jsonNumberEnd,
  utf8SequenceBytes,
  writeCodePoint,
} from './json-text.js';
import { IncrementColumns } from './parsed-increments.js';

const TAB = 0x09;
const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const SPACE = 0x20;
const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const POINT = 0x2e;
const ZERO = 0x30;
const COLON = 0x3a;
const UPPER_E = 0x45;
const BACKSLASH = 0x5c;
const LOWER_E = 0x65;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
/** Stands for the end of the body in place of a byte. */
const END = -1;

/** Most digits that arithmetic on doubles always computes exactly. */
const PLAIN_DIGITS_MAX = 15;
/** Most bytes that an escape may write beyond the longest key before the length is checked. */
const CODE_POINT_BYTES_MAX = 4;

const NDJSON = 'application/x-ndjson';

/** Whether the media type of a Content-Type is NDJSON, in any case and with any parameters. */
export function isNdjson(contentType: string): boolean {
  if (contentType.length < NDJSON.length) return false;
  const semicolon = contentType.indexOf(';');
  const mediaType = semicolon < 0 ? contentType : contentType.slice(0, semicolon);
  return mediaType.trim().toLowerCase() === NDJSON;
}

/** Scans bodies, one after the other, into its own columns. */
export class IncrementBodyScanner {
  private readonly keyBytesMax: number;
  private readonly rows = new IncrementColumns();
  private body: Uint8Array = this.rows.body;
  /** The fourth white space character: the line feed or, in NDJSON, a second space, because a line feed ends a line. */
  private lineFeed = LINE_FEED;
  /** The current key in the body, `[keyFrom, keyTo)` between its quotes, for errors. */
  private keyFrom = 0;
  private keyTo = 0;

  /** `keyBytesMax`: longest key in bytes of UTF-8, from 1 to {@link KEY_BYTES_LIMIT}. */
  constructor(limits: { readonly keyBytesMax: number }) {
    this.keyBytesMax = Math.min(limits.keyBytesMax, KEY_BYTES_LIMIT);
  }

  /**
   * Scans a whole body. The returned columns belong to the scanner and are valid until its next scan. A name that occurs twice
   * has two rows. Throws CounterError `invalid-request` with the byte offset (from 0) and any member in its detail.
   */
  scan(body: Uint8Array, ndjson: boolean): ParsedIncrements {
    this.rows.begin(body);
    this.body = body;
    this.lineFeed = ndjson ? SPACE : LINE_FEED;
    if (ndjson) this.scanLines();
    else this.scanDocument();
    return this.rows;
  }

  private scanDocument(): void {
    const start = this.skipSpace(0);
    if (this.byteAt(start) === END) refuse('The body is empty: there is nothing to count.');
    const at = this.skipSpace(this.scanObject(start));
    if (this.byteAt(at) !== END) refuseByte(this.body, at, 'only white space after the object');
  }

  private scanLines(): void {
    for (let at = 0; at < this.body.length; at += 1) {
      at = this.skipSpace(at);
      const first = this.byteAt(at);
      if (first === LINE_FEED || first === END) continue;
      at = this.skipSpace(this.scanObject(at));
      const last = this.byteAt(at);
      if (last !== LINE_FEED && last !== END) refuseByte(this.body, at, 'only white space after the object of a line');
    }
    if (this.rows.count === 0) refuse('The body has no line with an object: there is nothing to count.');
  }

  private scanObject(start: number): number {
    if (this.byteAt(start) !== OPEN_BRACE) refuseStart(this.body, start);
    let at = this.skipSpace(start + 1);
    if (this.byteAt(at) === CLOSE_BRACE) refuse(`The object at byte ${start} is empty: there is nothing to count.`);
    for (;;) {
      at = this.skipSpace(this.scanIncrement(at));
      const next = this.byteAt(at);
      if (next === CLOSE_BRACE) return at + 1;
      if (next !== COMMA) this.refuseIncrement(at, "',' or '}' after the amount");
      at = this.skipSpace(at + 1);
    }
  }

  private scanIncrement(start: number): number {
    const { rows } = this;
    if (rows.count === rows.capacity) rows.grow();
    if (this.byteAt(start) !== QUOTE) refuseByte(this.body, start, 'a key in double quotes');
    this.keyFrom = start + 1;
    let at = this.skipSpace(this.scanKey(start + 1));
    if (this.byteAt(at) !== COLON) this.refuseIncrement(at, "':' after the key");
    at = this.scanAmount(this.skipSpace(at + 1));
    rows.count += 1;
    return at;
  }

  /** A key after its opening quote. The short path: ASCII without escapes. */
  private scanKey(start: number): number {
    const { body } = this;
    let hash = KEY_HASH_START;
    let at = start;
    while (at < body.length) {
      // In range by the loop's condition.
      const byte = body[at] as number;
      if (byte === QUOTE) return this.endKey(start, at - start, finishKeyHash(hash), at);
      if (byte < SPACE || byte === BACKSLASH || byte > 0x7f) break;
      hash = hashKeyByte(hash, byte);
      at += 1;
    }
    return this.scanUnicodeKey(start, at, hash);
  }

  /** The rest of a key from its first byte that is not plain ASCII. `hashBefore` covers the bytes before `from`. */
  private scanUnicodeKey(start: number, from: number, hashBefore: number): number {
    const { body } = this;
    let hash = hashBefore;
    let at = from;
    for (;;) {
      const byte = this.byteAt(at);
      if (byte === QUOTE) return this.endKey(start, at - start, finishKeyHash(hash), at);
      if (byte === BACKSLASH) return this.scanEscapedKey(start, at);
      const next = at + this.keyCharacterBytes(byte, at);
      while (at < next) {
        // In range: the sequence is complete.
        hash = hashKeyByte(hash, body[at] as number);
        at += 1;
      }
    }
  }

  /** The rest of a key from its first escape at `from`. Decodes the key, then hashes it. */
  private scanEscapedKey(start: number, from: number): number {
    const { body, rows, keyBytesMax } = this;
    if (from - start > keyBytesMax) this.refuseKey(from, this.lengthRule());
    rows.reserveDecoded(keyBytesMax + CODE_POINT_BYTES_MAX);
    const { decoded } = rows;
    const decodedStart = rows.decodedBytes;
    let to = copyBytes(body, start, from, decoded, decodedStart);
    let at = from;
    while (to - decodedStart <= keyBytesMax) {
      const byte = this.byteAt(at);
      if (byte === QUOTE) {
        rows.decodedBytes = to;
        return this.endKey(~decodedStart, to - decodedStart, hashKey(decoded, decodedStart, to), at);
      }
      if (byte === BACKSLASH) {
        const codePoint = escapedCodePoint(body, at);
        if (codePoint < 0) this.refuseKey(at, `the key has ${escapeProblem(codePoint)}`);
        if (codePoint === 0) this.refuseKey(at, 'the key has U+0000, which is not allowed,');
        to = writeCodePoint(decoded, to, codePoint);
        at += escapeBytes(body, at, codePoint);
      } else {
        const next = at + this.keyCharacterBytes(byte, at);
        to = copyBytes(body, at, next, decoded, to);
        at = next;
      }
    }
    return this.refuseKey(at, this.lengthRule());
  }

  /** Writes the key whose closing quote is at `quote` into the row. */
  private endKey(keyStart: number, keyBytes: number, hash: number, quote: number): number {
    if (keyBytes === 0 || keyBytes > this.keyBytesMax) this.refuseKey(quote, this.lengthRule());
    const { rows } = this;
    const row = rows.count;
    rows.keyStart[row] = keyStart;
    rows.keyBytes[row] = keyBytes;
    rows.hash[row] = hash;
    this.keyTo = quote;
    return quote + 1;
  }

  /** Length of the unescaped character at `at`, whose first byte is `byte`. Refuses illegal bytes. */
  private keyCharacterBytes(byte: number, at: number): number {
    if (byte >= SPACE && byte < 0x80) return 1;
    if (byte === END) return this.refuseKey(at, 'the body ends within the key');
    if (byte < SPACE) return this.refuseKey(at, 'the key has an unescaped control character');
    const bytes = utf8SequenceBytes(this.body, at);
    return bytes === 0 ? this.refuseKey(at, 'the key is not valid UTF-8') : bytes;
  }

  /** An amount. The short path: an integer of up to 15 digits. */
  private scanAmount(start: number): number {
    const { body, rows } = this;
    const negative = this.byteAt(start) === MINUS;
    const digitsFrom = negative ? start + 1 : start;
    let value = 0;
    let at = digitsFrom;
    while (at < body.length) {
      // In range by the loop's condition.
      const byte = body[at] as number;
      if (!isDigit(byte)) break;
      value = value * 10 + (byte - ZERO);
      at += 1;
    }
    const digits = at - digitsFrom;
    const leadingZero = digits > 1 && body[digitsFrom] === ZERO;
    if (digits === 0 || digits > PLAIN_DIGITS_MAX || leadingZero || continuesNumber(this.byteAt(at))) {
      return this.scanOddAmount(start);
    }
    // Not `-value`, which turns 0 into -0.
    rows.amount[rows.count] = negative ? 0 - value : value;
    return at;
  }

  /** An amount of any form. Checks the grammar and converts with Number, in linear time. */
  private scanOddAmount(start: number): number {
    const { body, rows } = this;
    const end = jsonNumberEnd(body, start);
    if (end < 0) this.refuseIncrement(~end, 'the digit of a JSON number');
    const value = Number(Buffer.from(body.buffer, body.byteOffset + start, end - start).toString('latin1'));
    if (!Number.isInteger(value) || Math.abs(value) > AMOUNT_MAX) {
      this.refuseAmount(start, 'the amount is not an integer within ±(2^53−1)');
    }
    // Adding 0 turns -0 into 0.
    rows.amount[rows.count] = value + 0;
    return end;
  }

  private skipSpace(start: number): number {
    const { body, lineFeed } = this;
    let at = start;
    while (at < body.length) {
      // In range by the loop's condition.
      const byte = body[at] as number;
      if (byte !== SPACE && byte !== lineFeed && byte !== CARRIAGE_RETURN && byte !== TAB) break;
      at += 1;
    }
    return at;
  }

  /** The byte at `at`, or {@link END} after the last one. */
  private byteAt(at: number): number {
    // In range by the condition.
    return at < this.body.length ? (this.body[at] as number) : END;
  }

  private lengthRule(): string {
    return `the key must have 1 to ${this.keyBytesMax} bytes of UTF-8, wrong length`;
  }

  /** `at` is the offset of the bad byte. The error quotes the key up to it. */
  private refuseKey(at: number, problem: string): never {
    refuseMember(this.body, this.keyFrom, at, problem, at);
  }

  private refuseIncrement(at: number, expected: string): never {
    this.refuseAmount(at, `expected ${expected}, found ${describeByte(this.body, at)}`);
  }

  private refuseAmount(at: number, problem: string): never {
    refuseMember(this.body, this.keyFrom, this.keyTo, problem, at);
  }
}

function isDigit(byte: number): boolean {
  return byte >= ZERO && byte <= 0x39;
}

/** Whether the number continues, or is malformed, with this byte after its integer digits. */
function continuesNumber(byte: number): boolean {
  return byte === POINT || byte === LOWER_E || byte === UPPER_E;
}

/** Copies the few bytes `[from, end)` to `to` without creating a view. Returns the offset after them. */
function copyBytes(source: Uint8Array, from: number, end: number, target: Uint8Array, to: number): number {
  // In range by the caller's contract.
  for (let at = from; at < end; at += 1) target[to + at - from] = source[at] as number;
  return to + end - from;
}
