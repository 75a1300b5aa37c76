/** What a nats-server needs to ask for access: JWTs of an operator, and certificates. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createAccount, createOperator, createUser, type KeyPair } from '@nats-io/nkeys';

const run = promisify(execFile);

/** A configuration of nats-server that wants a JWT, and files of credentials. */
export interface JwtAccess {
  readonly configuration: string;
  /** Of a user of the account that has JetStream. */
  readonly credentials: string;
  /** Of a user of an account that the server does not know. */
  readonly foreignCredentials: string;
}

/** Makes an operator, its system account, which JetStream needs, and an account with a user. */
export function makeJwtAccess(): JwtAccess {
  const [operator, system, account, stranger] = [createOperator(), createAccount(), createAccount(), createAccount()];
  const jetStream = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };
  const operatorJwt = jwt('operator', operator, operator, { system_account: system.getPublicKey() });
  const accounts = [
    [system, jwt('account', system, operator, { limits: accountLimits() })],
    [account, jwt('account', account, operator, { limits: { ...accountLimits(), ...jetStream } })],
  ] as const;
  const configuration = [
    `operator: "${operatorJwt}"`,
    `system_account: ${system.getPublicKey()}`,
    'resolver: MEMORY',
    `resolver_preload: { ${accounts.map(([pair, token]) => `${pair.getPublicKey()}: "${token}"`).join(', ')} }`,
  ].join('\n');
  return { configuration, credentials: credentialsOf(account), foreignCredentials: credentialsOf(stranger) };
}

function accountLimits(): Readonly<Record<string, unknown>> {
  return { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
}

/** The file of a new user of an account. */
function credentialsOf(account: KeyPair): string {
  const user = createUser();
  const token = jwt('user', user, account, { pub: {}, sub: {}, subs: -1, data: -1, payload: -1 });
  return [
    '-----BEGIN NATS USER JWT-----',
    token,
    '------END NATS USER JWT------',
    '',
    '-----BEGIN USER NKEY SEED-----',
    new TextDecoder().decode(user.getSeed()),
    '------END USER NKEY SEED------',
    '',
  ].join('\n');
}

function jwt(type: string, subject: KeyPair, issuer: KeyPair, claims: Readonly<Record<string, unknown>>): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const body = {
    jti: randomUUID(),
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    name: type,
    sub: subject.getPublicKey(),
    nats: { ...claims, type, version: 2 },
  };
  const signed = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part(body)}`;
  return `${signed}.${Buffer.from(issuer.sign(Buffer.from(signed))).toString('base64url')}`;
}

/** Paths of PEM files. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** Makes an authority in a directory, with certificates of it for `names`, each for 127.0.0.1. */
export async function makeCertificates(
  directory: string,
  names: readonly string[],
): Promise<{ readonly authority: string; readonly certificates: readonly Certificate[] }> {
  const elliptic = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const path = (name: string): Certificate => ({
    cert: join(directory, `${name}.pem`),
    key: join(directory, `${name}.key`),
  });
  const authority = path('authority');
  const asAuthority = ['-x509', ...elliptic, '-days', '2', '-subj', '/CN=authority'];
  await run('openssl', ['req', ...asAuthority, '-keyout', authority.key, '-out', authority.cert]);
  const extensions = join(directory, 'extensions');
  await writeFile(extensions, 'subjectAltName=IP:127.0.0.1\n');
  for (const name of names) {
    const { cert, key } = path(name);
    const request = join(directory, `${name}.csr`);
    await run('openssl', ['req', '-new', ...elliptic, '-subj', `/CN=${name}`, '-keyout', key, '-out', request]);
    const issuer = ['-CA', authority.cert, '-CAkey', authority.key, '-CAcreateserial', '-days', '2'];
    await run('openssl', ['x509', '-req', '-in', request, ...issuer, '-extfile', extensions, '-out', cert]);
  }
  return { authority: authority.cert, certificates: names.map(path) };
}
