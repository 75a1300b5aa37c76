/**
 * Access control: bearer tokens (RFC 6750) and their scopes. HTTP thread.
 *
 * A token is kept and compared as its SHA-256 digest and never appears in a message. Each comparison takes constant
 * time, and every request is compared with all tokens, so the time of an answer reveals nothing about a guess.
 */
import { hash, timingSafeEqual } from 'node:crypto';
import { isIPv4 } from 'node:net';
import type { BearerToken } from '../config/config.js';

/** What a token permits. `admin` permits everything. */
export type Scope = BearerToken['scope'];

/** What an operation requires: a scope, any valid token, or nothing (`open`). */
export type Access = Scope | 'any' | 'open';

interface KnownBearerToken {
  readonly digest: Buffer;
  readonly scope: Scope;
}

/** The scheme in any case, one or more spaces, a token without white space. */
const BEARER = /^bearer +(\S+) *$/i;

/** Decides which requests are permitted. */
export class AccessControl {
  readonly #known: readonly KnownBearerToken[];

  private constructor(tokens: readonly BearerToken[]) {
    this.#known = tokens.map(({ scope, token }) => ({ digest: sha256(token), scope }));
  }

  /** The access control for the configured tokens; undefined without tokens, when everything is open. */
  static of(tokens: readonly BearerToken[]): AccessControl | undefined {
    return tokens.length === 0 ? undefined : new AccessControl(tokens);
  }

  /**
   * The code with which a request is refused, or undefined. `authorization` is the header as received, '' if there is
   * none. A token that is configured with several scopes has all of them.
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

/** True if only this machine can reach a server that listens on `host`. */
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
