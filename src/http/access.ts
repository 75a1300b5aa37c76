/**
 * Access control: bearer tokens (RFC 6750) and their scopes. HTTP thread.
 *
 * A bearer token is kept and compared as its SHA-256 digest and appears in no message. Each comparison takes constant time, and
 * each request is compared with all tokens, so the time of an answer reveals nothing about a guess.
 */
import { hash, timingSafeEqual } from 'node:crypto';
import { isIP, isIPv4 } from 'node:net';
import type { BearerToken, Config } from '../config/config.js';

/** The scope of a bearer token. `admin` permits everything. */
type Scope = BearerToken['scope'];

/**
 * What an operation requires: a scope, any valid bearer token, or nothing. The {@link HostRule} still protects a `page`;
 * nothing protects an `open` operation.
 */
export type Access = Scope | 'any' | 'page' | 'open';

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
   * The code that refuses a request, or undefined. `authorization` is the header as received, '' if there is none. A token that
   * is configured with several scopes has all of them.
   */
  refusal(authorization: string, access: Access): 'unauthorized' | 'forbidden' | undefined {
    if (access === 'open' || access === 'page') return undefined;
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

/**
 * The names that a Host header may have. Only its address protects a server without bearer tokens on a loopback address. A
 * foreign page can point a name of its own to 127.0.0.1 (DNS rebinding), and the Host header then has that name.
 */
export class HostRule {
  readonly #names: ReadonlySet<string>;
  /** The last allowed header. Nearly every request has the same. */
  #last = '';

  private constructor(names: ReadonlySet<string>) {
    this.#names = names;
  }

  /** The rule for a server; undefined with bearer tokens, beyond loopback, or if any name is allowed. */
  static of({
    host,
    authTokens,
    allowedHosts,
  }: Pick<Config, 'host' | 'authTokens' | 'allowedHosts'>): HostRule | undefined {
    if (authTokens.length > 0 || !isLoopback(host) || allowedHosts.includes('*')) return undefined;
    return new HostRule(new Set(['localhost', host.toLowerCase(), ...allowedHosts]));
  }

  /** Whether a request may have this Host header. '' is a request without one; browsers always send one. */
  allows(header: string): boolean {
    if (header === this.#last || header === '') return true;
    const [, address, name = ''] = /^(?:\[([0-9a-f:.]+)\]|([^:]*))(?::\d{1,5})?$/i.exec(header) ?? [];
    const isAllowed = isIP(address ?? name) !== 0 || this.#names.has(name.toLowerCase());
    if (isAllowed) this.#last = header;
    return isAllowed;
  }
}

/** Whether only this machine can reach a server that listens on `host`. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^::ffff:/, '');
  return name === 'localhost' || name === '::1' || (isIPv4(name) && name.startsWith('127.'));
}

function grants(scope: Scope, access: Exclude<Access, 'page' | 'open'>): boolean {
  return scope === 'admin' || access === 'any' || scope === access;
}

function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer');
}
