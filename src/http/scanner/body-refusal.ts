/**
 * The errors of request bodies. HTTP thread.
 *
 * Bad input must not cost more than good input, so these errors have no stack trace and quote only the beginning of a key.
 */
import { CounterError } from '../../core/errors.js';

/** Most UTF-16 units of a key that an error quotes. */
const EXCERPT_UNITS_MAX = 64;

/** A UTF-16 unit has at most three bytes of UTF-8. One sequence more, so that the cut is after the excerpt. */
const EXCERPT_BYTES_MAX = EXCERPT_UNITS_MAX * 3 + 4;

/** Throws `invalid-request` with this detail. */
export function refuse(detail: string): never {
  const framesBefore = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  const error = new CounterError('invalid-request', detail);
  Error.stackTraceLimit = framesBefore;
  throw error;
}

/** Refuses the byte at `at`, where the grammar expects something else. */
export function refuseByte(body: Uint8Array, at: number, expected: string): never {
  refuse(`Expected ${expected} at byte ${at}, found ${describeByte(body, at)}.`);
}

/** Refuses the byte at `at`, where an object should begin. */
export function refuseStart(body: Uint8Array, at: number): never {
  if (at === 0 && body[0] === 0xef && body[1] === 0xbb && body[2] === 0xbf) {
    refuse('The body begins with a byte order mark, which JSON does not allow; send it without.');
  }
  refuseByte(body, at, "a JSON object, that is '{',");
}

/** Refuses the member whose name has the bytes `[keyFrom, keyTo)` between its quotes. */
export function refuseMember(body: Uint8Array, keyFrom: number, keyTo: number, problem: string, at: number): never {
  refuse(`Member ${excerpt(body, keyFrom, keyTo)}: ${problem} at byte ${at}.`);
}

/** The byte at `at`, in words. */
export function describeByte(body: Uint8Array, at: number): string {
  const byte = body[at];
  if (byte === undefined) return 'the end of the body';
  if (byte === 0x0a) return 'the end of the line';
  if (byte > 0x20 && byte < 0x7f) return `'${String.fromCharCode(byte)}'`;
  return `byte 0x${byte.toString(16).padStart(2, '0')}`;
}

/** The beginning of a key as in the body, in quotes. U+FFFD replaces bytes that are not UTF-8. */
function excerpt(body: Uint8Array, from: number, to: number): string {
  const bytes = Math.min(to - from, EXCERPT_BYTES_MAX);
  const text = Buffer.from(body.buffer, body.byteOffset + from, bytes).toString('utf8');
  if (text.length <= EXCERPT_UNITS_MAX) return `"${text}"`;
  const last = text.charCodeAt(EXCERPT_UNITS_MAX - 1);
  const cutsSurrogatePair = last >= 0xd800 && last <= 0xdbff;
  return `"${text.slice(0, cutsSurrogatePair ? EXCERPT_UNITS_MAX - 1 : EXCERPT_UNITS_MAX)}…"`;
}
