/** Whether a request is permitted, by Host header, bearer token and origin. HTTP thread. */
import type { Config } from '../config/config.js';
import { AccessControl, HostRule, type Access } from './access.js';
import { CrossOriginRule } from './cross-origin.js';
import { answer, problemReply, type HttpReply } from './reply.js';
import type { RouteStats } from './request-stats.js';
import { nativeText, type HttpRequest, type HttpResponse } from './uws.js';

/** Why a request is not permitted. */
export interface AccessRefusal {
  readonly code: 'unauthorized' | 'forbidden';
  readonly problem: HttpReply;
}

/** The name of the header, in a form that uWebSockets.js need not convert. */
const HOST_HEADER = nativeText('host');
const HOST_REFUSED =
  'The Host header names another host; use an IP address or localhost, or add the name to ALLOWED_HOSTS.';

/** The rules of one HTTP server. */
export class RequestAccess {
  /** Undefined without bearer tokens: everything is permitted. */
  #tokens: AccessControl | undefined;
  /** Undefined if any Host header is allowed. */
  readonly #hosts: HostRule | undefined;
  /** Undefined if no other origin may call from a browser. */
  readonly #crossOrigin: CrossOriginRule | undefined;

  constructor(config: Config) {
    this.#tokens = AccessControl.of(config.authTokens);
    this.#hosts = HostRule.of(config);
    this.#crossOrigin = CrossOriginRule.of(config);
  }

  /** Replaces the bearer tokens. */
  useTokens(authTokens: Config['authTokens']): void {
    this.#tokens = AccessControl.of(authTokens);
  }

  /** Whether an Authorization header still permits the operation. */
  isPermitted(authorization: string, access: Access): boolean {
    return this.#tokens?.refusal(authorization, access) === undefined;
  }

  /** The reply to a preflight of an allowed origin, which has no bearer token; undefined for any other request. */
  preflightReply(req: HttpRequest): HttpReply | undefined {
    return req.getMethod() === 'options' ? this.#crossOrigin?.preflightReply(req) : undefined;
  }

  /** As {@link refusal}, and answers a refused request; false if so. */
  admits(res: HttpResponse, req: HttpRequest, access: Access, stats: RouteStats): boolean {
    const refusal = this.refusal(res, req, access);
    if (refusal === undefined) return true;
    answer(res, refusal.problem, req.getMethod() === 'head', stats);
    return false;
  }

  /**
   * Prepares the answer for the origin, then checks Host and bearer token before anything else, so that a refused client learns
   * nothing.
   */
  refusal(res: HttpResponse, req: HttpRequest, access: Access): AccessRefusal | undefined {
    this.#crossOrigin?.mark(res, req);
    if (this.#hosts !== undefined && access !== 'open' && !this.#hosts.allows(req.getHeader(HOST_HEADER)))
      return { code: 'forbidden', problem: problemReply('forbidden', HOST_REFUSED) };
    if (this.#tokens === undefined) return undefined;
    const code = this.#tokens.refusal(req.getHeader('authorization'), access);
    if (code === undefined) return undefined;
    const problem =
      code === 'unauthorized'
        ? problemReply(code, 'The request has no valid bearer token; send Authorization: Bearer TOKEN.', [
            ['www-authenticate', 'Bearer'],
          ])
        : problemReply(code, 'The token lacks the scope of this operation; use a token with that scope.');
    return { code, problem };
  }
}
