/**
 * The parameters of a request outside its body: counter keys and query parameters in the URL, the Idempotency-Key. HTTP thread.
 *
 * Decodes URLs strictly, because uWebSockets.js decodes queries leniently and in place. Paths follow RFC 3986, queries
 * application/x-www-form-urlencoded (WHATWG URL).
 */
import { CounterError } from '../core/errors.js';

const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

/** Decodes to UTF-8 bytes. In queries `+` is a space. Throws `invalid-request` for text that is not valid. */
export function decodePercent(text: string, plusIsSpace: boolean): Uint8Array {
  const bytes = new Uint8Array(text.length);
  let length = 0;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit === 0x25) {
      const value = hexByte(text.charCodeAt(at + 1), text.charCodeAt(at + 2));
      if (value < 0)
        throw new CounterError('invalid-request', `The URL has an invalid percent escape at character ${at}.`);
      bytes[length] = value;
      at += 2;
    } else if (unit > 0x7f) {
      throw new CounterError('invalid-request', `The URL has an unencoded character at ${at}; percent-encode it.`);
    } else {
      bytes[length] = plusIsSpace && unit === 0x2b ? 0x20 : unit;
    }
    length += 1;
  }
  const decoded = bytes.subarray(0, length);
  try {
    strictUtf8.decode(decoded);
  } catch (cause) {
    throw new CounterError('invalid-request', 'The URL is not valid UTF-8 after percent-decoding.', { cause });
  }
  return decoded;
}

/** The parameters of a query: the values of each name in their order. */
export type QueryParameters = ReadonlyMap<string, readonly Uint8Array[]>;

/** The parameters of a query. Throws `invalid-request` as {@link decodePercent} does. */
export function parseQuery(query: string): QueryParameters {
  const parameters = new Map<string, Uint8Array[]>();
  for (const part of query.split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const name = strictUtf8.decode(decodePercent(equals < 0 ? part : part.slice(0, equals), true));
    const value = decodePercent(equals < 0 ? '' : part.slice(equals + 1), true);
    const values = parameters.get(name);
    if (values === undefined) parameters.set(name, [value]);
    else values.push(value);
  }
  return parameters;
}

/**
 * The keys that a query names with `key`, from 1 to `most`, in order. Throws `invalid-request` for another number, or if one is
 * no counter key.
 */
export function keysOf(parameters: QueryParameters, most: number, keyBytesMax: number): readonly Uint8Array[] {
  const keys = parameters.get('key') ?? [];
  if (keys.length === 0) throw new CounterError('invalid-request', 'The query parameter key is missing.');
  if (keys.length > most) {
    const limit = most === 1 ? 'only one is' : `at most ${most} are`;
    throw new CounterError('invalid-request', `The query names ${keys.length} keys; ${limit} allowed.`);
  }
  return keys.map((key) => checkKey(key, keyBytesMax));
}

/** Returns a legal counter key, or throws `invalid-request`. `keyBytesMax` is MAX_KEY_BYTES. */
export function checkKey(key: Uint8Array, keyBytesMax: number): Uint8Array {
  if (key.length === 0) throw new CounterError('invalid-request', 'The counter key is empty.');
  if (key.length > keyBytesMax) {
    throw new CounterError(
      'invalid-request',
      `The counter key has ${key.length} bytes; at most ${keyBytesMax} are allowed.`,
    );
  }
  if (key.includes(0)) throw new CounterError('invalid-request', 'The counter key contains U+0000.');
  return key;
}

/** The error detail for a header that is not an idempotency key. */
export const IDEMPOTENCY_KEY_RULE = 'Idempotency-Key must be 1 to 255 visible ASCII characters.';

/** Whether a header that is not empty is an idempotency key. Quotes are part of the key. */
export function isIdempotencyKey(header: string): boolean {
  return IDEMPOTENCY_KEY.test(header);
}

/** Returns the idempotency key. Throws `invalid-request` if the header is not one. */
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
