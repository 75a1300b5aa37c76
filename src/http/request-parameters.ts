/**
 * What a request says outside its body: percent-encoded text, query parameters, counter keys, and the Idempotency-Key.
 * Front-end thread.
 *
 * uWebSockets.js decodes queries leniently and in place, so the raw text is decoded here, strictly: RFC 3986 for paths,
 * application/x-www-form-urlencoded (WHATWG URL) for queries.
 */
import { CounterError } from '../core/errors.js';

const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

/** Decodes to UTF-8 bytes; `plusIsSpace` as in queries. Throws `invalid-request` for anything that is not valid. */
export function decodePercent(text: string, plusIsSpace: boolean): Uint8Array {
  const bytes = new Uint8Array(text.length);
  let length = 0;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit === 0x25) {
      const value = hexByte(text.charCodeAt(at + 1), text.charCodeAt(at + 2));
      if (value < 0) throw new CounterError('invalid-request', `The URL has a bad percent escape at character ${at}.`);
      bytes[length] = value;
      at += 2;
    } else if (unit > 0x7f) {
      throw new CounterError('invalid-request', `The URL has a character at ${at} that must be percent-encoded.`);
    } else {
      bytes[length] = plusIsSpace && unit === 0x2b ? 0x20 : unit;
    }
    length += 1;
  }
  const decoded = bytes.subarray(0, length);
  try {
    strictUtf8.decode(decoded);
  } catch (cause) {
    throw new CounterError('invalid-request', 'The URL does not decode to UTF-8.', { cause });
  }
  return decoded;
}

/** The parameters of a query in order; the first of a name wins. Throws `invalid-request` as {@link decodePercent}. */
export function parseQuery(query: string): ReadonlyMap<string, Uint8Array> {
  const parameters = new Map<string, Uint8Array>();
  for (const part of query.split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const name = strictUtf8.decode(decodePercent(equals < 0 ? part : part.slice(0, equals), true));
    const value = decodePercent(equals < 0 ? '' : part.slice(equals + 1), true);
    if (!parameters.has(name)) parameters.set(name, value);
  }
  return parameters;
}

/** Checks that bytes are a legal counter key; `keyBytesMax` is MAX_KEY_BYTES. Throws `invalid-request`. */
export function checkKey(key: Uint8Array, keyBytesMax: number): Uint8Array {
  if (key.length === 0) throw new CounterError('invalid-request', 'The counter key is empty.');
  if (key.length > keyBytesMax) {
    throw new CounterError('invalid-request', `The counter key has ${key.length} bytes; the most is ${keyBytesMax}.`);
  }
  if (key.includes(0)) throw new CounterError('invalid-request', 'The counter key contains U+0000.');
  return key;
}

/** What is said of a header that is not a token. */
export const IDEMPOTENCY_KEY_RULE = 'Idempotency-Key must be 1 to 255 visible ASCII characters.';

/** Whether a header that is not empty is a token. */
export function isIdempotencyKey(header: string): boolean {
  return IDEMPOTENCY_KEY.test(header);
}

/** Returns the token. Throws `invalid-request` where the header is not one. */
export function checkIdempotencyKey(header: string): string {
  if (!isIdempotencyKey(header)) throw new CounterError('invalid-request', IDEMPOTENCY_KEY_RULE);
  return header;
}

function hexByte(high: number, low: number): number {
  const a = hexDigit(high);
  const b = hexDigit(low);
  return a < 0 || b < 0 ? -1 : a * 16 + b;
}

function hexDigit(unit: number): number {
  if (unit >= 0x30 && unit <= 0x39) return unit - 0x30;
  const lower = unit | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
}
