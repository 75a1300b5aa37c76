/**
 * The table of settings: for each environment variable its default, its meaning and how its text is read. `--help`
 * prints this table and `readConfig` follows it, so that neither can know a variable that the other does not. Any thread.
 */
import { availableParallelism } from 'node:os';
import {
  absolutePath,
  bearerTokenFile,
  bearerTokenList,
  databaseUrl,
  implementedChoice,
  plainText,
  readableFile,
  sizeInBytes,
  wholeNumber,
  type TextReader,
} from './setting-text.js';

/** The journals that this version implements, and the one that an operator gets without asking. */
export const implementedJournals = ['memory', 'file'] as const;
const defaultJournal: (typeof implementedJournals)[number] = 'file';

/** What the environment says about a variable, trimmed; empty is unset. */
export function givenText(env: NodeJS.ProcessEnv, variable: string): string | undefined {
  const text = env[variable]?.trim();
  return text === '' ? undefined : text;
}

/** One environment variable. */
export interface Setting {
  readonly variable: string;
  /** What holds where the variable is unset or empty, as an operator would write it; none: nothing holds. */
  readonly fallback?: string | ((env: NodeJS.ProcessEnv) => string);
  /** How `--help` says a default that depends. */
  readonly fallbackShown?: string;
  readonly meaning: string;
  readonly read: TextReader;
}

/** Every setting, by its name in the code; bounds stand in the type `Config`. */
export const settings = {
  host: { variable: 'HOST', fallback: '127.0.0.1', meaning: 'address to listen on', read: plainText },
  port: { variable: 'PORT', fallback: '3333', meaning: 'port to listen on; 0 takes any free one', read: wholeNumber },
  databaseUrl: {
    variable: 'DATABASE_URL',
    fallbackShown: 'none',
    meaning:
      'PostgreSQL 13 or later, as postgres://, postgresql:// or ecto://; a node opens 2 × SHARDS + 2 connections at ' +
      'most (PgBouncer: session mode). None: an embedded PostgreSQL in DATA_DIR, reachable from this machine only',
    read: databaseUrl,
  },
  dataDir: {
    variable: 'DATA_DIR',
    fallback: './data',
    meaning: 'node id, journal, embedded database',
    read: absolutePath,
  },
  shards: {
    variable: 'SHARDS',
    fallback: () => String(Math.max(1, Math.min(4, availableParallelism() - 1))),
    fallbackShown: 'cores - 1, from 1 to 4',
    meaning: 'shard worker threads',
    read: wholeNumber,
  },
  httpThreads: {
    variable: 'HTTP_THREADS',
    fallback: '1',
    meaning: 'front ends that share the port',
    read: wholeNumber,
  },
  role: {
    variable: 'ROLE',
    fallback: 'serve',
    meaning: 'what this node does',
    read: implementedChoice(['serve'], /^(ingest|roll-up)$/),
  },
  journal: {
    variable: 'JOURNAL',
    fallback: defaultJournal,
    meaning: 'where increments are safe before they are summed',
    read: implementedChoice(implementedJournals, /^(postgres$|nats:|sqs:)/),
  },
  journalSync: {
    variable: 'JOURNAL_SYNC',
    fallback: 'always',
    meaning:
      'file journal: always = synced before 202; everysec = at most one second of acknowledged increments is at ' +
      'risk on power loss, none on process crash',
    read: plainText,
  },
  journalBytesMax: {
    variable: 'JOURNAL_MAX_BYTES',
    fallback: '1 GiB',
    meaning: 'a shard: bytes not yet committed and not yet removed',
    read: sizeInBytes,
  },
  journalKeepSeconds: {
    variable: 'JOURNAL_KEEP_SECONDS',
    fallback: (env) => (givenText(env, 'DATABASE_URL') === undefined ? '0' : '60'),
    fallbackShown: '0 embedded, else 60',
    meaning: 'what is committed stays in the journal this long, for a database that fails over',
    read: wholeNumber,
  },
  flushIntervalMs: {
    variable: 'FLUSH_INTERVAL_MS',
    fallback: '1000',
    meaning: 'time between flushes to PostgreSQL; each wait is 90-100 % of it',
    read: wholeNumber,
  },
  flushKeysMax: {
    variable: 'FLUSH_MAX_KEYS',
    fallback: '10000',
    meaning: 'a shard that holds this many pending keys flushes early',
    read: wholeNumber,
  },
  pendingKeysMax: {
    variable: 'MAX_PENDING_KEYS',
    fallback: '1000000',
    meaning:
      'a node: keys acknowledged and not yet committed; a pair with an idempotency key counts as a key of its own',
    read: wholeNumber,
  },
  pendingBytesMax: {
    variable: 'MAX_PENDING_BYTES',
    fallback: '256 MiB',
    meaning: 'a node: memory of what is acknowledged and not yet committed',
    read: sizeInBytes,
  },
  bodyBytesMax: {
    variable: 'MAX_BODY_BYTES',
    fallback: '1 MiB',
    meaning: 'largest request body',
    read: sizeInBytes,
  },
  keyBytesMax: { variable: 'MAX_KEY_BYTES', fallback: '512', meaning: 'largest key, in UTF-8', read: sizeInBytes },
  ackTimeoutMs: {
    variable: 'ACK_TIMEOUT_MS',
    fallback: '5000',
    meaning: 'a request without an answer from its shards after this long is answered outcome-unknown',
    read: wholeNumber,
  },
  idempotencyWindowHours: {
    variable: 'IDEMPOTENCY_WINDOW_HOURS',
    fallback: '24',
    meaning: 'how long an Idempotency-Key makes repetitions count once',
    read: wholeNumber,
  },
  idempotencyRowsMax: {
    variable: 'IDEMPOTENCY_MAX_ROWS',
    fallback: '100000000',
    meaning: 'remembered idempotency keys; beyond it requests that carry one are answered 503; never pruned early',
    read: wholeNumber,
  },
  shutdownTimeoutMs: {
    variable: 'SHUTDOWN_TIMEOUT_MS',
    fallback: '30000',
    meaning: 'a stop that takes longer ends with exit code 1; what is pending stays in the journal',
    read: wholeNumber,
  },
  drainDelayMs: {
    variable: 'DRAIN_DELAY_MS',
    fallback: '0',
    meaning: 'how long after SIGTERM increments are still accepted while /readyz says 503',
    read: wholeNumber,
  },
  authTokens: {
    variable: 'AUTH_TOKENS',
    meaning: 'SCOPE:TOKEN pairs separated by commas or white space; scopes are write, read and admin',
    read: bearerTokenList,
  },
  authTokensFile: {
    variable: 'AUTH_TOKENS_FILE',
    meaning: 'a file of SCOPE:TOKEN pairs, one a line, # begins a comment',
    read: bearerTokenFile,
  },
  tlsCertFile: {
    variable: 'TLS_CERT_FILE',
    meaning: 'certificate chain in PEM form; with it the port speaks TLS only',
    read: readableFile,
  },
  tlsKeyFile: { variable: 'TLS_KEY_FILE', meaning: 'its private key in PEM form', read: readableFile },
  logLevel: { variable: 'LOG_LEVEL', fallback: 'info', meaning: 'pino level', read: plainText },
} as const satisfies Record<string, Setting>;
