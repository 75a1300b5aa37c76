/**
 * Cross-origin requests of browsers (the CORS protocol of the Fetch standard). HTTP thread.
 *
 * A browser lets a page read an answer from another origin only if the answer names the page's origin. It asks first (a
 * preflight) if a request has headers of the application. Without `CORS_ORIGINS` no answer names any origin.
 */
import type { Config } from '../config/config.js';
import type { HttpReply } from './reply.js';
import { nativeText, type HttpRequest, type HttpResponse } from './uws.js';

const HEADER = {
  origin: nativeText('origin'),
  requestMethod: nativeText('access-control-request-method'),
} as const;

/** How long a browser may remember the answer to a preflight. */
const PREFLIGHT_SECONDS = 600;

const PREFLIGHT_HEADERS = [
  ['access-control-allow-methods', 'GET, HEAD, POST, DELETE'],
  ['access-control-allow-headers', 'authorization, content-type, idempotency-key'],
  ['access-control-max-age', String(PREFLIGHT_SECONDS)],
] as const;

/** The headers of an answer that a page may read in addition to the default ones. */
const EXPOSED = 'allow, idempotency-replayed, retry-after, www-authenticate';

/** The origins that may call from a browser. */
export class CrossOriginRule {
  readonly #origins: ReadonlySet<string>;
  readonly #allowsAny: boolean;

  private constructor(origins: readonly string[]) {
    this.#origins = new Set(origins);
    this.#allowsAny = origins.includes('*');
  }

  /** The rule for a server; undefined if no origin may call. */
  static of({ corsOrigins }: Pick<Config, 'corsOrigins'>): CrossOriginRule | undefined {
    return corsOrigins.length === 0 ? undefined : new CrossOriginRule(corsOrigins);
  }

  /** Whether a page of this origin may call; '': the request has no such header. */
  allows(origin: string): boolean {
    return origin !== '' && (this.#allowsAny || this.#origins.has(origin));
  }

  /** Adds the headers of this rule to any answer that `res` gets, because every answer begins with its status. */
  mark(res: HttpResponse, req: HttpRequest): void {
    const origin = req.getHeader(HEADER.origin);
    const isAllowed = this.allows(origin);
    if (!isAllowed && this.#allowsAny) return;
    const writeStatus = res.writeStatus.bind(res);
    res.writeStatus = (status) => {
      writeStatus(status);
      if (isAllowed) {
        res.writeHeader('access-control-allow-origin', this.#allowsAny ? '*' : origin);
        res.writeHeader('access-control-expose-headers', EXPOSED);
      }
      // A cache must not give one origin the answer for another.
      if (!this.#allowsAny) res.writeHeader('vary', 'origin');
      return res;
    };
  }

  /** The reply to a preflight of an allowed origin; undefined for any other request. Needs no bearer token. */
  preflightReply(req: HttpRequest): HttpReply | undefined {
    if (!this.allows(req.getHeader(HEADER.origin)) || req.getHeader(HEADER.requestMethod) === '') return undefined;
    return { status: 204, contentType: '', body: '', headers: PREFLIGHT_HEADERS };
  }
}
