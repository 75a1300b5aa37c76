/**
 * Different JSON notations of one value: characters of keys raw or as escapes, integers with fractions and exponents.
 */

/** Ways to write a character, from 0. */
export const CHARACTER_STYLES = 4;

/** The code point within a JSON string: raw if that is allowed, or as an escape. */
export function spellCharacter(codePoint: number, style: number): string {
  const character = String.fromCodePoint(codePoint);
  const short = shortEscapes.get(codePoint);
  if (style === 1 && short !== undefined) return short;
  const mustEscape = codePoint < 0x20 || character === '"' || character === '\\';
  if (style < 2 && !mustEscape) return character;
  let escapes = '';
  for (let unit = 0; unit < character.length; unit += 1) {
    const hex = character.charCodeAt(unit).toString(16).padStart(4, '0');
    escapes += `\\u${style === 2 ? hex.toUpperCase() : hex}`;
  }
  return escapes;
}

const shortEscapes = new Map([
  [0x22, '\\"'],
  [0x5c, '\\\\'],
  [0x2f, '\\/'],
  [0x08, '\\b'],
  [0x0c, '\\f'],
  [0x0a, '\\n'],
  [0x0d, '\\r'],
  [0x09, '\\t'],
]);

/** Ways to write an integer, from 0. */
export const AMOUNT_STYLES = 8;

/** The safe integer in one of its JSON notations. */
export function spellAmount(amount: number, style: number): string {
  const digits = String(amount);
  switch (style) {
    case 1:
      return `${digits}.0`;
    case 2:
      return `${digits}e0`;
    case 3:
      return amount === 0 ? '0E-2' : `${digits}00E-2`;
    case 4:
      return `${digits}.000e+00`;
    case 5:
      return amount === 0 ? '-0' : digits;
    case 6: {
      // Trailing zeros become the exponent: 12000 → 12e3.
      const zeros = /0*$/.exec(digits)?.[0].length ?? 0;
      return amount === 0 ? '0E9' : `${digits.slice(0, digits.length - zeros)}e${zeros}`;
    }
    case 7: {
      // All but the first digit become a fraction: -123 → -1.23e2.
      const sign = amount < 0 ? '-' : '';
      const [first = '', ...rest] = digits.slice(sign.length);
      return rest.length === 0 ? digits : `${sign}${first}.${rest.join('')}e${rest.length}`;
    }
    default:
      return digits;
  }
}

/** White space of JSON; without newlines for NDJSON. */
export const whiteSpaces = ['', '', '', ' ', '\t', '\r', ' \t \r'] as const;
/** White space of JSON that has newlines. */
export const whiteSpacesWithNewlines = [...whiteSpaces, '\n', '\r\n', '\n\n  '] as const;

/** Code points on both sides of each boundary of UTF-8, UTF-16 and JSON, without U+0000 and surrogates. */
export const boundaryCodePoints: readonly number[] = [
  0x01, 0x08, 0x09, 0x0a, 0x0c, 0x0d, 0x1f, 0x20, 0x22, 0x2f, 0x5c, 0x7b, 0x7d, 0x7e, 0x7f, 0x80, 0xff, 0x7ff, 0x800,
  0xfff, 0x1000, 0x2028, 0xcfff, 0xd000, 0xd7ff, 0xe000, 0xfeff, 0xfffd, 0xffff, 0x10000, 0x1f600, 0x3ffff, 0x40000,
  0xfffff, 0x100000, 0x10ffff,
];

/** Amounts on both sides of each boundary of the scanner. */
export const boundaryAmounts: readonly number[] = [
  0, 1, -1, 9, 10, 2147483647, 2147483648, -2147483648, -2147483649, 4294967295, 4294967296, 99999999999999,
  100000000000000, 999999999999999, -999999999999999, 1000000000000000, 9007199254740990, 9007199254740991,
  -9007199254740990, -9007199254740991,
];
