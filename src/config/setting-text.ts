/**
 * Reads values from the texts of variables, for {@link ./config.js}. Any thread.
 *
 * Nothing here throws, so that one start can list all problems. A problem is the end of a sentence that begins with the
 * variable's name, without secrets.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { reasonOf, systemErrorCode } from '../core/errors.js';
import type { NatsConfig, SqsConfig } from './config.js';
import { readDatabaseUrl } from './database-url.js';
import { journalNamed, journalSettings } from './journal-kind.js';

/** A value, or the problem with the text. */
export type Reading = { readonly value: unknown } | { readonly problem: string };

/** Reads the text of one variable. The text is trimmed and not empty. */
export type TextReader = (text: string) => Reading;

/** The text itself. The type of the setting checks it. */
export const plainText: TextReader = (text) => ({ value: text });

/** A whole number in decimal digits. Anything else is NaN, which no setting's type accepts. */
export const wholeNumber: TextReader = (text) => ({ value: /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN });

const sizeUnits: Readonly<Record<string, number>> = { b: 1, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30, tib: 2 ** 40 };

/** Bytes: a whole number, with or without KiB, MiB, GiB or TiB (`64MiB`, `1 GiB`). Anything else is NaN. */
export const sizeInBytes: TextReader = (text) => {
  const match = /^(\d{1,15})\s*([kmgt]?i?b)?$/i.exec(text);
  const unit = sizeUnits[(match?.[2] ?? 'b').toLowerCase()];
  return { value: match === null || unit === undefined ? Number.NaN : Number(match[1]) * unit };
};

/** Bytes as text, in the largest unit that gives a whole number. */
export function sizeText(bytes: number): string {
  for (const unit of ['TiB', 'GiB', 'MiB', 'KiB']) {
    const unitBytes = sizeUnits[unit.toLowerCase()] ?? 1;
    if (bytes >= unitBytes && bytes % unitBytes === 0) return `${bytes / unitBytes} ${unit}`;
  }
  return bytes === 1 ? '1 byte' : `${bytes} bytes`;
}

/** A path, made absolute from the working directory. */
export const absolutePath: TextReader = (text) => ({ value: resolve(text) });

/** The path, made absolute, of a file that this process can read. */
export const readableFile: TextReader = (text) => {
  const path = resolve(text);
  const content = fileContent(path);
  return 'problem' in content ? content : { value: path };
};

/** A file's text, or why it cannot be read. */
export function fileContent(path: string): { readonly text: string } | { readonly problem: string } {
  try {
    return { text: readFileSync(path, 'utf8') };
  } catch (error) {
    const reason = systemErrorCode(error) ?? reasonOf(error);
    return { problem: `is "${path}", which must be a file that this process can read (${reason}).` };
  }
}

/**
 * A PostgreSQL URL, changed to the scheme `postgresql:`. `ecto:`, the scheme of the original application, means the
 * same. The text may hold a password, so no problem quotes it.
 */
export const databaseUrl: TextReader = (text) => {
  const read = readDatabaseUrl(text);
  return 'problem' in read ? read : { value: read.url };
};

/** The same from a file, which may end in a newline. No problem quotes its content. */
export const databaseUrlFile: TextReader = (path) => {
  const content = fileContent(resolve(path));
  if ('problem' in content) return content;
  const url = content.text.trim();
  const reading = url === '' ? { problem: 'is empty.' } : databaseUrl(url);
  return 'problem' in reading ? { problem: `names "${path}", whose content ${reading.problem}` } : reading;
};

/** The characters of a bearer token (RFC 6750, b64token). */
const bearerTokenPattern = /^[A-Za-z0-9._~+/-]+=*$/;
const bearerTokenScopes = ['write', 'read', 'admin'];

/** `SCOPE:TOKEN` entries, separated by commas or white space. A problem gives an entry's number, never its text. */
export const bearerTokenList: TextReader = (text) => {
  const entries = entriesOf(text);
  // A template with empty variables leaves only separators. That must not open the server.
  return entries.length === 0 ? { problem: 'must hold at least one SCOPE:TOKEN.' } : bearerTokenReading(entries);
};

/**
 * The same from a file, one entry on each line. A comment reaches from `#`, at the start of a line or after white space, to
 * the end of the line.
 */
export const bearerTokenFile: TextReader = (path) => {
  const content = fileContent(resolve(path));
  if ('problem' in content) return content;
  const entries = entriesOf(content.text.replaceAll(/(^|\s)#.*$/gm, '$1'));
  return entries.length === 0
    ? { problem: `is "${path}", which must hold at least one SCOPE:TOKEN.` }
    : bearerTokenReading(entries);
};

/** Entries that commas or white space separate. */
function entriesOf(text: string): readonly string[] {
  return text.split(/[\s,]+/).filter((entry) => entry !== '');
}

function bearerTokenReading(entries: readonly string[]): Reading {
  const tokens = [];
  for (const [index, entry] of entries.entries()) {
    const colon = entry.indexOf(':');
    const scope = entry.slice(0, Math.max(colon, 0));
    const token = entry.slice(colon + 1);
    if (!bearerTokenScopes.includes(scope)) {
      return {
        problem: `must be a list of SCOPE:TOKEN with the scope write, read or admin; entry ${index + 1} is not.`,
      };
    }
    if (!bearerTokenPattern.test(token)) {
      const allowed = 'letters, digits and -._~+/, with = at the end';
      return { problem: `must be a list of SCOPE:TOKEN with tokens of ${allowed}; entry ${index + 1} is not.` };
    }
    tokens.push({ scope, token });
  }
  return { value: tokens };
}

/** Host names separated by commas or white space, in lower case; `*` stands for any. */
export const hostNameList: TextReader = (text) => {
  const names = entriesOf(text.toLowerCase());
  const wrong = names.find((name) => name !== '*' && !/^[a-z0-9]([a-z0-9._-]{0,252})$/.test(name));
  return wrong === undefined
    ? { value: names }
    : { problem: `must be host names without port, or *, separated by commas; "${wrong}" is not.` };
};

/** Origins of web pages separated by commas or white space; `*` stands for any. */
export const originList: TextReader = (text) => {
  const origins = entriesOf(text);
  const wrong = origins.find((origin) => origin !== '*' && !isOrigin(origin));
  return wrong === undefined
    ? { value: origins }
    : {
        problem: `must be origins such as https://example.org, or *, separated by commas; "${withoutPassword(wrong)}" is not.`,
      };
};

/**
 * Whether the text is an origin as browsers send it: scheme, host in lower case, port unless it is the scheme's default; no
 * path.
 */
function isOrigin(text: string): boolean {
  return URL.canParse(text) && /^https?:/.test(text) && new URL(text).origin === text;
}

/** The result of {@link journalChoice}. */
export interface JournalReading {
  readonly kind: string;
  readonly nats?: Pick<NatsConfig, 'servers' | 'user' | 'password' | 'token'> & { readonly requiresTls: boolean };
  readonly sqs?: SqsConfig;
}

const NATS_PORT = 4222;
const serverPattern = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?$/;

/**
 * A kind of journal by its name, or the URL of a broker: `nats://` or `tls://`, servers separated by commas, with a user and a
 * password, or a token, before the first; or `sqs:` and the URL of a queue. No problem quotes a secret.
 */
export const journalChoice: TextReader = (text) => {
  if (journalNamed(text)?.setting === text) return { value: { kind: text } satisfies JournalReading };
  if (/^(nats|tls):/.test(text)) return natsReading(text);
  if (text.startsWith('sqs:')) return sqsReading(text);
  return { problem: `is "${withoutPassword(text)}", but must be ${journalSettings()}.` };
};

function sqsReading(text: string): Reading {
  const queueUrl = text.slice('sqs:'.length);
  const example = 'sqs:https://sqs.REGION.amazonaws.com/ACCOUNT/NAME.fifo';
  if (!/^https?:/.test(queueUrl) || !URL.canParse(queueUrl))
    return { problem: `is "${withoutPassword(text)}", but must be the URL of a queue, as in ${example}.` };
  const { hostname, pathname, username, password } = new URL(queueUrl);
  if (username !== '' || password !== '')
    return { problem: `holds a user or a password; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead.` };
  if (!pathname.endsWith('.fifo'))
    return { problem: `is "${text}", but must be a FIFO queue, whose name ends with .fifo, as in ${example}.` };
  const region = /(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\./.exec(hostname)?.[1];
  return { value: { kind: 'sqs', sqs: { queueUrl, region } } satisfies JournalReading };
}

function natsReading(text: string): Reading {
  const expected = 'nats://USER:PASSWORD@HOST:PORT,HOST:PORT (its value is not shown, it may hold a password)';
  const match = /^(nats|tls):\/\/(?:(.*)@)?([^@]+?)\/?$/.exec(text);
  if (match === null) return { problem: `is not a valid URL of a broker; it must be as in ${expected}.` };
  const [, scheme, access = '', hosts = ''] = match;
  const servers: string[] = [];
  for (const part of hosts.split(',')) {
    const server = serverPattern.exec(part.trim().replace(/^(nats|tls):\/\//, ''));
    const port = Number(server?.[2] ?? NATS_PORT);
    if (server === null || port === 0 || port > 65_535)
      return { problem: `has a server that is not HOST:PORT; it must be as in ${expected}.` };
    servers.push(`${server[1] ?? ''}:${port}`);
  }
  const colon = access.indexOf(':');
  try {
    const [user, password] =
      colon < 0 ? [] : [access.slice(0, colon), access.slice(colon + 1)].map((part) => decodeURIComponent(part));
    const token = colon < 0 && access !== '' ? decodeURIComponent(access) : undefined;
    const nats = { servers, requiresTls: scheme === 'tls', user, password, token };
    return { value: { kind: 'nats', nats } satisfies JournalReading };
  } catch {
    return { problem: `has a user or a password that is not percent-encoded, as in ${expected}.` };
  }
}

/** The name of a stream of JetStream, which is also a token of its subjects. */
export const streamName: TextReader = (text) =>
  /^[A-Za-z0-9_-]{1,64}$/.test(text)
    ? { value: text }
    : { problem: `is "${text}", but must be 1 to 64 letters, digits, - and _.` };

/** The text with the user and the password of a URL masked. */
function withoutPassword(text: string): string {
  return text.replace(/\/\/[^/@]*@/, '//***@');
}
