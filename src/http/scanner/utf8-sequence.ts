/**
 * UTF-8, one code point at a time: what the body scanner checks in keys and what it writes for escapes. Any thread.
 */

/**
 * Bytes (2, 3 or 4) of the sequence at `at`, whose first byte is 0x80 or above; 0 where it is malformed: an overlong
 * form, a surrogate, a code point above U+10FFFF, a stray or a missing continuation byte. The ranges are those of
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

/** Writes the code point, which is no surrogate, at `at` and returns the offset after it; needs room for 4 bytes. */
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

function inRange(bytes: Uint8Array, at: number, low: number, high: number): boolean {
  if (at >= bytes.length) return false;
  // In range by the line above.
  const byte = bytes[at] as number;
  return byte >= low && byte <= high;
}
