/**
 * The grammar of JSON numbers (RFC 8259, section 6), which is narrower than what Number() reads. Any thread.
 */

const PLUS = 0x2b;
const MINUS = 0x2d;
const POINT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const UPPER_E = 0x45;
const LOWER_E = 0x65;

/** The offset after the number that begins at `start`; where it lacks a digit, `~at` of the byte in its place. */
export function jsonNumberEnd(bytes: Uint8Array, start: number): number {
  const integerAt = bytes[start] === MINUS ? start + 1 : start;
  // Nothing of the integer follows a leading zero.
  let at = bytes[integerAt] === ZERO ? integerAt + 1 : digitsEnd(bytes, integerAt);
  if (at >= 0 && bytes[at] === POINT) at = digitsEnd(bytes, at + 1);
  if (at >= 0 && (bytes[at] === LOWER_E || bytes[at] === UPPER_E)) {
    const sign = bytes[at + 1];
    at = digitsEnd(bytes, sign === PLUS || sign === MINUS ? at + 2 : at + 1);
  }
  return at;
}

/** The offset after the digits at `start`, `~start` if there is none. */
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
