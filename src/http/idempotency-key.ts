/**
 * The Idempotency-Key header: the token is taken as it is, quotes included. Front-end thread.
 */
import { CounterError } from '../core/errors.js';

const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

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
