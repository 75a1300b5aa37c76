/**
 * The command line of the load tool. Main thread of a command.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { LOAD_TOKEN_VARIABLE } from '../../config/child-environment.js';
import { reasonOf, StartError } from '../../core/errors.js';
import { EXIT_USAGE } from '../command-exit.js';
import type { KeyDistribution } from './key-distribution.js';

/** The environment variable that holds the bearer token if no file does. */
export const TOKEN_VARIABLE = LOAD_TOKEN_VARIABLE;

/** What `--help` prints. */
export const loadHelp = `npm run load -- [OPTIONS]
summing-counters-load [OPTIONS]

Sends increments to a server, reads the sums back, and says whether every
acknowledged increment arrived.

  --url URL             the server, default http://127.0.0.1:3333
  --duration SECONDS    how long to send, default 10
  --rate N              requests a second over all connections;
                        default: as fast as the server answers
  --connections N       one request at a time on each, default 50
  --timeout SECONDS     longest wait for an answer, default 10

  --keys KIND           fixed: one key; uniform: every key equally often
                        (default); zipf: key n as often as 1 / n ^ exponent
  --key-count N         number of keys, default 1000, at most 1000000
  --zipf-exponent S     default 1
  --key-bytes N         length of each key, filled with zeros before its number
  --prefix TEXT         keys begin with it; default: a random one for each run
  --increments N        increments in each request, default 1, at most 10000
  --idempotency-keys    send an Idempotency-Key with each request, and send a
                        request without a clear answer again
  --seed N              choose the same keys as the run with this seed

  --token-file FILE     bearer token with the scopes write and read; default:
                        the environment variable ${TOKEN_VARIABLE}
  --wait SECONDS        how long the sums may take at the end, default 30
  --history FILE        write each attempt, its outcome, and the sums read, as
                        lines of JSON
  --delete              delete the keys if everything arrived (scope admin)
  --json                print the report as one JSON document
  --help

The first Ctrl-C stops the sending, then checks and reports. A second one ends
the command at once.

Exit codes: 0 every acknowledged increment arrived; 1 not so, not known, or
nothing was acknowledged; 64 wrong command line
`;

/** The options of a run. */
export interface LoadOptions {
  /** Without a slash at the end; paths of the server are appended. */
  readonly url: string;
  readonly durationSeconds: number;
  /** Requests a second; undefined: as fast as the server answers. */
  readonly rate: number | undefined;
  readonly connections: number;
  readonly timeoutSeconds: number;
  readonly distribution: KeyDistribution;
  readonly prefix: string;
  /** Whether the counters may exist before the run. */
  readonly isPrefixGiven: boolean;
  /** Digits after the prefix. */
  readonly keyDigits: number;
  readonly incrementsPerRequest: number;
  readonly idempotencyKeys: boolean;
  readonly seed: number;
  readonly token: string | undefined;
  readonly waitSeconds: number;
  /** The file that takes the history of the run. */
  readonly historyFile: string | undefined;
  readonly isDelete: boolean;
  readonly isJson: boolean;
}

const CONNECTIONS_MAX = 10_000;
const KEYS_MAX = 1_000_000;
const INCREMENTS_MAX = 10_000;
const RATE_MAX = 1_000_000;
const SECONDS_MAX = 1_000_000;
const EXPONENT_MAX = 10;
const SEED_MAX = 2 ** 32 - 1;
/** No server takes longer keys. */
const KEY_BYTES_MAX = 2048;

/**
 * Reads the command line; undefined if help is asked for. `environment` may hold the bearer token. Throws {@link StartError}
 * with exit code 64 and one sentence for the first problem.
 */
export function parseLoadOptions(
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): LoadOptions | undefined {
  const values = parsedArguments(argv);
  if (values.help === true) return undefined;
  const distribution = distributionOf(values);
  const { prefix, keyDigits } = keyFormOf(values, distribution);
  if (values.delete === true && values.prefix !== undefined)
    throw usageError('--delete does not go with --prefix, because it could delete counters that the run did not make.');
  return {
    url: urlOf(values.url),
    durationSeconds: decimal('--duration', values.duration, 10, SECONDS_MAX),
    rate: values.rate === undefined ? undefined : decimal('--rate', values.rate, 0, RATE_MAX),
    connections: whole('--connections', values.connections, 50, 1, CONNECTIONS_MAX),
    timeoutSeconds: whole('--timeout', values.timeout, 10, 1, SECONDS_MAX),
    distribution,
    prefix,
    isPrefixGiven: values.prefix !== undefined,
    keyDigits,
    incrementsPerRequest: whole('--increments', values.increments, 1, 1, INCREMENTS_MAX),
    idempotencyKeys: values['idempotency-keys'] === true,
    seed: whole('--seed', values.seed, randomBytes(4).readUInt32LE(), 0, SEED_MAX),
    token: tokenOf(values['token-file'], environment[TOKEN_VARIABLE]),
    waitSeconds: whole('--wait', values.wait, 30, 0, SECONDS_MAX),
    historyFile: values.history,
    isDelete: values.delete === true,
    isJson: values.json === true,
  };
}

type Values = ReturnType<typeof parsedArguments>;

function parsedArguments(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        url: { type: 'string' },
        duration: { type: 'string' },
        rate: { type: 'string' },
        connections: { type: 'string' },
        timeout: { type: 'string' },
        keys: { type: 'string' },
        'key-count': { type: 'string' },
        'zipf-exponent': { type: 'string' },
        'key-bytes': { type: 'string' },
        prefix: { type: 'string' },
        increments: { type: 'string' },
        'idempotency-keys': { type: 'boolean' },
        seed: { type: 'string' },
        'token-file': { type: 'string' },
        wait: { type: 'string' },
        history: { type: 'string' },
        delete: { type: 'boolean' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    // Cuts the explanations of Node.js.
    const [problem = ''] = reasonOf(error).split(/\.?(?: To specify| This command|\n|$)/);
    throw usageError(`${problem}; see --help.`);
  }
}

function usageError(problem: string): StartError {
  return new StartError([problem], { exitCode: EXIT_USAGE });
}

function whole(name: string, text: string | undefined, byDefault: number, min: number, max: number): number {
  if (text === undefined) return byDefault;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max))
    throw usageError(`${name} takes a whole number from ${min} to ${max}, not "${text}".`);
  return value;
}

/** A number above 0. */
function decimal(name: string, text: string | undefined, byDefault: number, max: number): number {
  if (text === undefined) return byDefault;
  const value = /^\d{1,15}(\.\d{1,15})?$/.test(text) ? Number(text) : NaN;
  if (!(value > 0 && value <= max)) throw usageError(`${name} takes a number above 0, at most ${max}, not "${text}".`);
  return value;
}

function urlOf(text = 'http://127.0.0.1:3333'): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol))
    throw usageError('--url takes a URL that begins with http:// or https://.');
  if (url.username + url.password + url.search + url.hash !== '')
    throw usageError('--url takes a URL without credentials, query and fragment.');
  return url.href.replace(/\/+$/, '');
}

function distributionOf(values: Values): KeyDistribution {
  const kind = values.keys ?? 'uniform';
  if (kind !== 'zipf' && values['zipf-exponent'] !== undefined)
    throw usageError('--zipf-exponent goes with --keys zipf.');
  const count = whole('--key-count', values['key-count'], kind === 'fixed' ? 1 : 1000, 1, KEYS_MAX);
  switch (kind) {
    case 'fixed':
      if (count !== 1) throw usageError('--keys fixed is one key, so --key-count cannot be another number.');
      return { kind, count };
    case 'uniform':
      return { kind, count };
    case 'zipf':
      return { kind, count, exponent: decimal('--zipf-exponent', values['zipf-exponent'], 1, EXPONENT_MAX) };
    default:
      throw usageError(`--keys takes fixed, uniform or zipf, not "${kind}".`);
  }
}

function keyFormOf(values: Values, { count }: KeyDistribution): { prefix: string; keyDigits: number } {
  const prefix = values.prefix ?? `load:${randomBytes(6).toString('hex')}:`;
  if (prefix === '' || prefix.includes('\0') || /\p{Surrogate}/u.test(prefix))
    throw usageError('--prefix takes a text that is not empty and that a key may hold.');
  const prefixBytes = Buffer.byteLength(prefix);
  const digits = String(count - 1).length;
  const bytes = values['key-bytes'];
  if (prefixBytes + digits > KEY_BYTES_MAX)
    throw usageError(`--prefix is too long: a key has at most ${KEY_BYTES_MAX} bytes.`);
  const keyBytes = whole('--key-bytes', bytes, prefixBytes + digits, prefixBytes + digits, KEY_BYTES_MAX);
  return { prefix, keyDigits: keyBytes - prefixBytes };
}

/** No message contains the bearer token. */
function tokenOf(file: string | undefined, variable: string | undefined): string | undefined {
  const [source, text] =
    file === undefined ? [TOKEN_VARIABLE, variable ?? ''] : [`The file of --token-file`, readToken(file)];
  const token = text.trim();
  if (token === '' && file === undefined) return undefined;
  if (!/^[\x21-\x7e]+$/.test(token)) throw usageError(`${source} does not hold one bearer token.`);
  return token;
}

function readToken(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw usageError(`--token-file cannot be read: ${reasonOf(error)}.`);
  }
}
