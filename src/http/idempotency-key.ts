/**
 * The Idempotency-Key header: the token is taken as it is, quotes included. Front-end thread.
 */
import { CounterError } from '../core/errors.js';

const TOKEN = /^[\x21-\x7e]{1,255}$/;

/** What is said of a header that is not a token. */
export const TOKEN_RULE = 'Idempotency-Key must be 1 to 255 visible ASCII characters.';

/** Whether a header that is not empty is a token. */
export function isToken(header: string): boolean {
  return TOKEN.test(header);
}

/** Returns the token. Throws `invalid-request` where the header is not one. */
export function checkToken(header: string): string {
  if (!isToken(header)) throw new CounterError('invalid-request', TOKEN_RULE);
  return header;
}
