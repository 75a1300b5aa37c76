/**
 * Pieces of JSON text for the body scanner: escapes in strings (RFC 8259, section 7), numbers (section 6) and UTF-8
 * sequences. Any thread.
 */

const UNKNOWN_ESCAPE = -1;
const NO_HEX = -2;
const UNPAIRED_SURROGATE = -3;

const PLUS = 0x2b;
const MINUS = 0x2d;
const POINT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const UPPER_E = 0x45;
const BACKSLASH = 0x5c;
const LOWER_E = 0x65;
const LOWER_U = 0x75;

/** The code point of the escape whose backslash is at `at`. Negative: an error for {@link escapeProblem}. */
export function escapedCodePoint(bytes: Uint8Array, at: number): number {
  const letter = bytes[at + 1];
  if (letter !== LOWER_U) return simpleEscape(letter);
  const unit = hexUnit(bytes, at + 2);
  if (unit < 0xd800 || unit > 0xdfff) return unit;
  const leads = unit <= 0xdbff && bytes[at + 6] === BACKSLASH && bytes[at + 7] === LOWER_U;
  const low = leads ? hexUnit(bytes, at + 8) : UNPAIRED_SURROGATE;
  if (low < 0xdc00 || low > 0xdfff) return low === NO_HEX ? NO_HEX : UNPAIRED_SURROGATE;
  return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
}

/** Length in bytes of the escape at `at`, which stands for `codePoint`. */
export function escapeBytes(bytes: Uint8Array, at: number, codePoint: number): number {
  if (bytes[at + 1] !== LOWER_U) return 2;
  return codePoint > 0xffff ? 12 : 6;
}

/** The problem of an escape, from the negative result of {@link escapedCodePoint}. */
export function escapeProblem(problem: number): string {
  if (problem === UNKNOWN_ESCAPE) return 'an escape that JSON does not define';
  return problem === NO_HEX ? 'an escape without four hexadecimal digits' : 'an unpaired surrogate';
}

/** The offset after the number at `start`. If a digit is missing, `~at`, where `at` is the offset of the wrong byte. */
export function jsonNumberEnd(bytes: Uint8Array, start: number): number {
  const integerAt = bytes[start] === MINUS ? start + 1 : start;
  // A leading zero is the whole integer. JSON numbers are narrower than what Number() accepts.
  let at = bytes[integerAt] === ZERO ? integerAt + 1 : digitsEnd(bytes, integerAt);
  if (at >= 0 && bytes[at] === POINT) at = digitsEnd(bytes, at + 1);
  if (at >= 0 && (bytes[at] === LOWER_E || bytes[at] === UPPER_E)) {
    const sign = bytes[at + 1];
    at = digitsEnd(bytes, sign === PLUS || sign === MINUS ? at + 2 : at + 1);
  }
  return at;
}

/**
 * Length (2, 3 or 4) of the UTF-8 sequence at `at`, whose first byte is 0x80 or above. 0 if it is malformed: an
 * overlong form, a surrogate, a code point above U+10FFFF, a stray or a missing continuation byte. The ranges come from
 * table 3-7, "Well-Formed UTF-8 Byte Sequences", of the Unicode Standard.
 */
export function utf8SequenceBytes(bytes: Uint8Array, at: number): number {
  // In range by the caller's contract.
  const lead = bytes[at] as number;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return inRange(bytes, at + 1, 0x80, 0xbf) ? 2 : 0;
  if (lead < 0xf0) {
    const second = inRange(bytes, at + 1, lead === 0xe0 ? 0xa0 : 0x80, lead === 0xed ? 0x9f : 0xbf);
    return second && inRange(bytes, at + 2, 0x80, 0xbf) ? 3 : 0;
  }
  if (lead > 0xf4) return 0;
  const second = inRange(bytes, at + 1, lead === 0xf0 ? 0x90 : 0x80, lead === 0xf4 ? 0x8f : 0xbf);
  return second && inRange(bytes, at + 2, 0x80, 0xbf) && inRange(bytes, at + 3, 0x80, 0xbf) ? 4 : 0;
}

/** Writes a code point, not a surrogate, at `at`. Needs room for 4 bytes. Returns the offset after it. */
export function writeCodePoint(bytes: Uint8Array, at: number, codePoint: number): number {
  if (codePoint < 0x80) {
    bytes[at] = codePoint;
    return at + 1;
  }
  if (codePoint < 0x800) {
    bytes[at] = 0xc0 | (codePoint >> 6);
    bytes[at + 1] = 0x80 | (codePoint & 0x3f);
    return at + 2;
  }
  if (codePoint < 0x10000) {
    bytes[at] = 0xe0 | (codePoint >> 12);
    bytes[at + 1] = 0x80 | ((codePoint >> 6) & 0x3f);
    bytes[at + 2] = 0x80 | (codePoint & 0x3f);
    return at + 3;
  }
  bytes[at] = 0xf0 | (codePoint >> 18);
  bytes[at + 1] = 0x80 | ((codePoint >> 12) & 0x3f);
  bytes[at + 2] = 0x80 | ((codePoint >> 6) & 0x3f);
  bytes[at + 3] = 0x80 | (codePoint & 0x3f);
  return at + 4;
}

/** The value of the four hexadecimal digits at `at`, or NO_HEX. */
function hexUnit(bytes: Uint8Array, at: number): number {
  let unit = 0;
  for (let digit = at; digit < at + 4; digit += 1) {
    const value = hexValue(bytes[digit]);
    if (value < 0) return NO_HEX;
    unit = unit * 16 + value;
  }
  return unit;
}

/** The value of a hexadecimal digit of either case, or -1. */
function hexValue(byte: number | undefined): number {
  if (byte === undefined) return -1;
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1;
}

/** The code point of a backslash and this letter. */
function simpleEscape(letter: number | undefined): number {
  switch (letter) {
    case 0x22: // quote
    case BACKSLASH:
    case 0x2f: // slash
      return letter;
    case 0x62: // b
      return 0x08;
    case 0x66: // f
      return 0x0c;
    case 0x6e: // n
      return 0x0a;
    case 0x72: // r
      return 0x0d;
    case 0x74: // t
      return 0x09;
    default:
      return UNKNOWN_ESCAPE;
  }
}

/** The offset after the digits at `start`, or `~start` if there are none. */
function digitsEnd(bytes: Uint8Array, start: number): number {
  let at = start;
  while (at < bytes.length) {
    // In range by the loop's condition.
    const byte = bytes[at] as number;
    if (byte < ZERO || byte > NINE) break;
    at += 1;
  }
  return at === start ? ~start : at;
}

function inRange(bytes: Uint8Array, at: number, low: number, high: number): boolean {
  if (at >= bytes.length) return false;
  // In range by the line above.
  const byte = bytes[at] as number;
  return byte >= low && byte <= high;
}
