/**
 * SIGHUP: reads the bearer tokens and the TLS certificate again. Main thread.
 *
 * Applies everything that was read, or nothing. If anything is wrong, the old bearer tokens and certificate stay, and the
 * reason is logged. A certificate is replaced only if one of its files has changed, because that needs another listening
 * socket.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Config, ReloadedConfig } from '../config/config.js';
import { reasonOf, StartError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { Reloaded } from '../http/http-server.js';

/** The collaborators. */
export interface ReloadDeps {
  readonly config: Pick<Config, 'tls' | 'authTokens'>;
  readonly logger: Logger;
  /** Resolves to the problems by HTTP server; none if it was applied. */
  readonly apply: (reloaded: Reloaded) => Promise<readonly string[]>;
}

/** Reloads one after the other. Requests during a reload cause one further reload. */
export class Reload {
  readonly #deps: ReloadDeps;
  /** The digest of the files in use; undefined if HTTP servers may use different ones. */
  #tlsDigest: string | undefined;
  #state: 'idle' | 'reloading' | 'reloading, asked again' = 'idle';

  constructor(deps: ReloadDeps) {
    this.#deps = deps;
    this.#tlsDigest = digestOf(deps.config.tls);
  }

  /** Reloads what `read` returns. Never throws. */
  request(read: () => ReloadedConfig): void {
    if (this.#state !== 'idle') {
      this.#state = 'reloading, asked again';
      return;
    }
    this.#state = 'reloading';
    void this.#reload(read).then(() => {
      const isAskedAgain = this.#state === 'reloading, asked again';
      this.#state = 'idle';
      if (isAskedAgain) this.request(read);
    });
  }

  async #reload(read: () => ReloadedConfig): Promise<void> {
    const { logger, apply } = this.#deps;
    try {
      const { authTokens, tls } = read();
      const digest = digestOf(tls);
      const isCertificateChanged = tls !== undefined && digest !== this.#tlsDigest;
      const problems = await apply({ authTokens, isCertificateChanged });
      if (problems.length > 0) {
        // Some HTTP servers may have the new certificate.
        this.#tlsDigest = undefined;
        this.#sayKept(problems);
        return;
      }
      this.#tlsDigest = digest;
      const fields = { tokens: authTokens.length, ...(tls === undefined ? {} : certificateFields(tls.certFile)) };
      logger.info(fields, sentence(authTokens.length, tls !== undefined, isCertificateChanged));
    } catch (error) {
      if (error instanceof StartError) this.#sayKept(error.problems);
      else logger.error({ err: error }, 'SIGHUP: nothing was read again because of a bug');
    }
  }

  #sayKept(problems: readonly string[]): void {
    for (const problem of problems) {
      this.#deps.logger.error({}, `SIGHUP: ${problem} The old bearer tokens and certificate stay`);
    }
  }
}

function sentence(tokens: number, isTls: boolean, isCertificateChanged: boolean): string {
  const parts = [
    ...(tokens === 0 ? [] : [`${tokens} bearer ${tokens === 1 ? 'token is' : 'tokens are'} valid now`]),
    ...(isTls
      ? [isCertificateChanged ? 'new connections get the new certificate' : 'the certificate is the same']
      : []),
  ];
  return parts.length === 0
    ? 'SIGHUP: neither bearer tokens nor TLS are configured; nothing was read again'
    : `SIGHUP: ${parts.join('; ')}`;
}

/** Undefined without TLS, or if a file cannot be read. */
function digestOf(tls: Config['tls']): string | undefined {
  if (tls === undefined) return undefined;
  try {
    const hash = createHash('sha256');
    for (const file of [tls.certFile, tls.keyFile])
      hash.update(createHash('sha256').update(readFileSync(file)).digest());
    return hash.digest('hex');
  } catch {
    return undefined;
  }
}

/** Log fields of the first certificate of the chain, so that an operator sees which one is in use. */
function certificateFields(certFile: string): object {
  try {
    const { subject, validTo, fingerprint256 } = new X509Certificate(readFileSync(certFile));
    return { subject, validTo, fingerprint256 };
  } catch (error) {
    return { certificate: reasonOf(error) };
  }
}
