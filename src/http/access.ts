/**
 * Who may do what: bearer tokens (RFC 6750) and their scopes. Front-end thread.
 *
 * Tokens are compared as SHA-256 digests, each in constant time and always all of them, so that the time of an answer
 * tells nothing about how near a guess came. A token is in memory only as its digest and is part of no message.
 */
import { hash, timingSafeEqual } from 'node:crypto';
import { isIPv4 } from 'node:net';
import type { BearerToken } from '../config/config.js';

/** What a token opens: `admin` is everything. */
export type Scope = BearerToken['scope'];

/** What an operation asks for: a scope, any valid token, or nothing at all. */
export type Access = Scope | 'any' | 'open';

interface KnownBearerToken {
  readonly digest: Buffer;
  readonly scope: Scope;
}

/** The scheme without regard to case, one or more spaces, a token without white space. */
const BEARER = /^bearer +(\S+) *$/i;

/** Tells who may do what. */
export class AccessControl {
  readonly #known: readonly KnownBearerToken[];

  private constructor(tokens: readonly BearerToken[]) {
    this.#known = tokens.map(({ scope, token }) => ({ digest: sha256(token), scope }));
  }

  /** The control that the configured tokens ask for; undefined where there are none and everything is open. */
  static of(tokens: readonly BearerToken[]): AccessControl | undefined {
    return tokens.length === 0 ? undefined : new AccessControl(tokens);
  }

  /**
   * The code with which a request is refused, or undefined. `authorization` is the header as it came, '' for none. A token
   * that was configured with several scopes has all of them.
   */
  refusal(authorization: string, access: Access): 'unauthorized' | 'forbidden' | undefined {
    if (access === 'open') return undefined;
    const token = BEARER.exec(authorization)?.[1];
    if (token === undefined) return 'unauthorized';
    const digest = sha256(token);
    let isKnown = false;
    let isGranted = false;
    for (const known of this.#known) {
      const isThis = timingSafeEqual(digest, known.digest);
      isKnown = isThis || isKnown;
      isGranted = (isThis && grants(known.scope, access)) || isGranted;
    }
    if (!isKnown) return 'unauthorized';
    return isGranted ? undefined : 'forbidden';
  }
}

/** Whether only this machine can reach a server that listens on `host`. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^::ffff:/, '');
  return name === 'localhost' || name === '::1' || (isIPv4(name) && name.startsWith('127.'));
}

function grants(scope: Scope, access: Exclude<Access, 'open'>): boolean {
  return scope === 'admin' || access === 'any' || scope === access;
}

function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer');
}
