/**
 * DATABASE_URL in the forms of libpq: one host, or a list of hosts with one primary. Any thread.
 *
 * ```text
 * postgres://USER:PASSWORD@A:5432,B:5433/DATABASE?target_session_attrs=read-write
 * postgres://USER:PASSWORD@/DATABASE?host=A,B&port=5432,5433
 * ```
 *
 * pg supports neither lists nor `target_session_attrs`, so a list becomes one URL for each host. No problem quotes the text,
 * which may hold a password.
 */

/**
 * What a session must be able to do: nothing, write, or write at a server that is not a standby. `primary` accepts a primary
 * with `default_transaction_read_only`, `read-write` does not.
 */
export type SessionRequirement = 'any' | 'read-write' | 'primary';

/** A valid DATABASE_URL. */
export interface DatabaseUrl {
  /** As given, with the scheme `postgresql:`. */
  readonly url: string;
  /** A URL for each host, in the given order, in pg's terms. */
  readonly hostUrls: readonly string[];
  /** `any` for one host, `read-write` for several, if not given. */
  readonly session: SessionRequirement;
}

/** Most hosts of a list. Each gets a part of the time for connecting. */
export const HOSTS_MAX = 16;

const EXPECTED = 'postgres://USER:PASSWORD@HOST:PORT/DATABASE (its value is not shown, it may hold a password)';
const INVALID = { problem: `is not a valid URL; percent-encode special characters in ${EXPECTED}.` };

/** Reads the text. `problem` is the end of a sentence that begins with the name of the variable. */
export function readDatabaseUrl(text: string): DatabaseUrl | { readonly problem: string } {
  const parts = partsOf(text);
  if (parts === undefined) {
    return { problem: `must begin with postgres://, postgresql:// or ecto://, as in ${EXPECTED}.` };
  }
  const { userinfo, named, path, parameters } = parts;
  const hosts = parameters.get('host');
  const places = named.split(',').map(placeOf);
  const hostNames = hosts?.split(',') ?? places.map(({ host }) => host);
  const ports = parameters.get('port')?.split(',') ?? places.map(({ port }) => port);
  if (ports.includes('0')) return { problem: `has the port 0, but a database listens on another port: ${EXPECTED}.` };
  if (!ports.every(isPort)) return INVALID;
  const session = sessionRequirement(parameters.get('target_session_attrs'), hostNames.length);
  if (typeof session !== 'string') return session;

  const url = urlOf(parts, parts.query);
  if (hostNames.length === 1 && hosts === undefined) {
    return URL.canParse(url) ? { url, hostUrls: [url], session } : INVALID;
  }
  if (hostNames.includes('')) return { problem: 'has a host without a name in its list.' };
  if (hostNames.length > HOSTS_MAX) return { problem: `has ${hostNames.length} hosts; ${HOSTS_MAX} are the most.` };
  if (ports.length !== 1 && ports.length !== hostNames.length) {
    const counts = `${hostNames.length} hosts and ${ports.length} ports`;
    return { problem: `has ${counts}; give one port for all hosts, or one for each.` };
  }
  const common = withoutParameters(parts.query, ['host', 'port', 'target_session_attrs']);
  const hostUrls = hostNames.map((host, index) => {
    const port = ports[ports.length === 1 ? 0 : index] ?? '';
    const query = [...common, `host=${encodeURIComponent(host)}`, ...(port === '' ? [] : [`port=${port}`])].join('&');
    // pg takes the host of the query. A URL with a user also needs a host before the path.
    return urlOf({ userinfo, named: 'list', path }, query);
  });
  return hostUrls.every((hostUrl) => URL.canParse(hostUrl)) ? { url, hostUrls, session } : INVALID;
}

/**
 * A valid URL for psql, whose libpq supports lists, and the password apart from it, because every user of the machine can read
 * a command line.
 */
export function psqlAddress(text: string): { readonly address: string; readonly password: string } {
  const parts = partsOf(text);
  const read = readDatabaseUrl(text);
  if (parts === undefined || 'problem' in read) throw new TypeError('The URL has not been checked');
  const [, user = '', encoded = ''] = /^([^:]*)(?::(.*))?@$/s.exec(parts.userinfo) ?? [];
  const query = withoutParameters(parts.query, ['password']);
  if (read.hostUrls.length > 1 && !parts.parameters.has('target_session_attrs')) {
    query.push(`target_session_attrs=${read.session}`);
  }
  const userinfo = user === '' ? '' : `${user}@`;
  const password = parts.parameters.get('password') ?? decoded(encoded) ?? encoded;
  return { address: urlOf({ ...parts, userinfo }, query.join('&')), password };
}

interface UrlParts {
  /** With the `@` behind it; '' without a user. */
  readonly userinfo: string;
  /** Hosts and ports before the path. */
  readonly named: string;
  readonly path: string;
}

/** A parameter without a value counts as missing. The last of several with one name counts, as in libpq and pg. */
function partsOf(
  text: string,
): (UrlParts & { readonly query: string; readonly parameters: ReadonlyMap<string, string> }) | undefined {
  const found = /^(?:postgres|postgresql|ecto):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?/i.exec(text);
  if (found === null) return undefined;
  const [, authority = '', path = '', query = ''] = found;
  const hostsAt = authority.lastIndexOf('@') + 1;
  const given = query.split('&').filter((parameter) => valueOf(parameter) !== '');
  const parameters = new Map(given.map((parameter) => [nameOf(parameter), valueOf(parameter)]));
  return { userinfo: authority.slice(0, hostsAt), named: authority.slice(hostsAt), path, query, parameters };
}

function urlOf({ userinfo, named, path }: UrlParts, query: string): string {
  return `postgresql://${userinfo}${named}${path}${query === '' ? '' : `?${query}`}`;
}

function withoutParameters(query: string, names: readonly string[]): string[] {
  return query.split('&').filter((parameter) => parameter !== '' && !names.includes(nameOf(parameter)));
}

function nameOf(parameter: string): string {
  const name = parameter.split('=', 1)[0] ?? '';
  return decoded(name) ?? name;
}

function valueOf(parameter: string): string {
  const value = parameter.includes('=') ? parameter.slice(parameter.indexOf('=') + 1) : '';
  return decoded(value) ?? value;
}

/** `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`. */
function placeOf(place: string): { readonly host: string; readonly port: string } {
  const [, address, name = '', port = ''] = /^(?:\[([^\]]*)\]|([^:]*))(?::(.*))?$/s.exec(place) ?? [];
  // Any other form has no valid port.
  if (address === undefined && name === '' && port === '' && place !== '') return { host: place, port: 'invalid' };
  return { host: address ?? decoded(name) ?? name, port };
}

function isPort(port: string): boolean {
  return port === '' || (/^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65_535);
}

function sessionRequirement(
  given: string | undefined,
  hosts: number,
): SessionRequirement | { readonly problem: string } {
  switch (given) {
    case undefined:
      return hosts > 1 ? 'read-write' : 'any';
    case 'any':
    case 'read-write':
    case 'primary':
      return given;
    case 'read-only':
    case 'standby':
    case 'prefer-standby':
      return {
        problem: `has target_session_attrs=${given}, but the server must write: use read-write, primary or any.`,
      };
    default:
      return { problem: 'has an unknown target_session_attrs: use read-write, primary or any.' };
  }
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
