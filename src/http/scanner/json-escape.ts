/**
 * Escapes in JSON strings (RFC 8259, section 7): what the body scanner finds behind a backslash. Any thread.
 */

const UNKNOWN_ESCAPE = -1;
const NO_HEX = -2;
const UNPAIRED_SURROGATE = -3;

const BACKSLASH = 0x5c;
const LOWER_U = 0x75;

/** The code point for which the escape stands whose backslash is at `at`; negative: see {@link escapeProblem}. */
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

/** Bytes of the escape at `at` that stands for `codePoint`. */
export function escapeBytes(bytes: Uint8Array, at: number, codePoint: number): number {
  if (bytes[at + 1] !== LOWER_U) return 2;
  return codePoint > 0xffff ? 12 : 6;
}

/** What is wrong with an escape, from what {@link escapedCodePoint} returned for it. */
export function escapeProblem(problem: number): string {
  if (problem === UNKNOWN_ESCAPE) return 'an escape that JSON does not know';
  return problem === NO_HEX ? 'an escape without four hexadecimal digits' : 'an unpaired surrogate';
}

/** The four hexadecimal digits at `at` as a number, or NO_HEX. */
function hexUnit(bytes: Uint8Array, at: number): number {
  let unit = 0;
  for (let digit = at; digit < at + 4; digit += 1) {
    const value = hexValue(bytes[digit]);
    if (value < 0) return NO_HEX;
    unit = unit * 16 + value;
  }
  return unit;
}

/** Value of a hexadecimal digit of either case, or -1. */
function hexValue(byte: number | undefined): number {
  if (byte === undefined) return -1;
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1;
}

/** What a backslash and this letter stand for. */
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
