/**
 * The table of settings: the name, default, meaning and reader of each environment variable. Any thread.
 *
 * `--help` prints this table and `readConfig` follows it, so both know the same variables.
 */
import { availableParallelism } from 'node:os';
import { DESCRIPTORS_RESERVED, descriptorLimit } from './descriptor-limit.js';
import type { JournalKind } from './journal-kind.js';
import {
  absolutePath,
  bearerTokenFile,
  bearerTokenList,
  databaseUrl,
  databaseUrlFile,
  hostNameList,
  journalChoice,
  originList,
  plainText,
  readableFile,
  sizeInBytes,
  streamName,
  wholeNumber,
  type TextReader,
} from './setting-text.js';

const defaultJournal: JournalKind = 'file';

/** The trimmed text of a variable; undefined if it is unset or empty. */
export function givenText(env: NodeJS.ProcessEnv, variable: string): string | undefined {
  const text = env[variable]?.trim();
  return text === '' ? undefined : text;
}

/** One environment variable. */
export interface Setting {
  readonly variable: string;
  /** The default as text. Without one, the setting stays undefined. */
  readonly fallback?: string | ((env: NodeJS.ProcessEnv) => string);
  /** How `--help` shows a computed default. */
  readonly fallbackShown?: string;
  readonly meaning: string;
  readonly read: TextReader;
  /** The accepted values in `--help`, if the type does not tell them. */
  readonly accepts?: string;
  /** White space alone is a problem, not unset. */
  readonly refusesBlank?: true;
}

/** Largest MAX_CONNECTIONS. */
const CONNECTIONS_LIMIT = 1_000_000_000;

const table = {
  host: { variable: 'HOST', fallback: '127.0.0.1', meaning: 'address or host name to listen on', read: plainText },
  port: { variable: 'PORT', fallback: '3333', meaning: 'port to listen on; 0: any free port', read: wholeNumber },
  databaseUrl: {
    variable: 'DATABASE_URL',
    fallbackShown: 'none',
    meaning:
      'PostgreSQL 13 or later, as postgres://, postgresql:// or ecto://, also with a list of hosts; the server opens at most 2 × SHARDS + 2 ' +
      'connections, with a journal that servers share 3 × SHARDS + 2 (PgBouncer: session mode). None: an embedded PostgreSQL in DATA_DIR, reachable only from this machine',
    read: databaseUrl,
  },
  databaseUrlFile: {
    variable: 'DATABASE_URL_FILE',
    meaning: 'file that holds the URL of the database, instead of DATABASE_URL',
    read: databaseUrlFile,
  },
  dataDir: {
    variable: 'DATA_DIR',
    fallback: './data',
    meaning: 'directory of the node id, the journal and the embedded database',
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
    meaning: 'threads that serve HTTP on the port',
    read: wholeNumber,
  },
  role: {
    variable: 'ROLE',
    fallback: 'serve',
    meaning:
      'serve, ingest (takes increments and journals them only) or roll-up (flushes what other servers have journaled); ' +
      'the last two need JOURNAL=postgres, nats://HOST:PORT or sqs:QUEUE_URL; with sqs:QUEUE_URL only they are possible',
    read: plainText,
  },
  journal: {
    variable: 'JOURNAL',
    fallback: defaultJournal,
    accepts: 'memory | file | postgres | nats://… | sqs:https://…',
    meaning:
      'journal that keeps increments until they are summed; nats://HOST:PORT,HOST:PORT has the servers of a cluster, tls:// ' +
      'requires TLS, and USER:PASSWORD@ or TOKEN@ may stand before the first server; sqs:QUEUE_URL is a FIFO queue, whose ' +
      "credentials come from the AWS SDK's usual sources (AWS_ACCESS_KEY_ID, AWS_REGION, files, roles)",
    read: journalChoice,
  },
  natsStream: {
    variable: 'NATS_STREAM',
    fallback: 'summing-counters',
    meaning: 'nats journal: stream of JetStream, and prefix of its subjects; it is made if it does not exist',
    read: streamName,
  },
  natsReplicas: {
    variable: 'NATS_REPLICAS',
    fallback: '1',
    meaning: 'nats journal: replicas of the stream; with 3, the loss of one server or its disk loses nothing',
    read: wholeNumber,
  },
  natsUser: { variable: 'NATS_USER', meaning: 'nats journal: user, instead of one in JOURNAL', read: plainText },
  natsPassword: {
    variable: 'NATS_PASSWORD',
    meaning: 'nats journal: password, instead of one in JOURNAL',
    read: plainText,
  },
  natsToken: { variable: 'NATS_TOKEN', meaning: 'nats journal: token, instead of one in JOURNAL', read: plainText },
  natsCredsFile: {
    variable: 'NATS_CREDS_FILE',
    meaning: 'nats journal: file of credentials (a JWT and its seed)',
    read: readableFile,
  },
  natsCaFile: {
    variable: 'NATS_TLS_CA_FILE',
    meaning: 'nats journal: file of the authorities of the servers in PEM form; if set, TLS is required',
    read: readableFile,
  },
  natsCertFile: {
    variable: 'NATS_TLS_CERT_FILE',
    meaning: "nats journal: file of the client's certificate in PEM form",
    read: readableFile,
  },
  natsKeyFile: {
    variable: 'NATS_TLS_KEY_FILE',
    meaning: "nats journal: file of the client's private key in PEM form",
    read: readableFile,
  },
  journalSync: {
    variable: 'JOURNAL_SYNC',
    fallback: 'always',
    meaning:
      'file journal: always = sync before 202; everysec = a power loss or a failed sync can lose up to one second ' +
      'of acknowledged increments, a crash of the process none',
    read: plainText,
  },
  journalBytesMax: {
    variable: 'JOURNAL_MAX_BYTES',
    fallback: '1 GiB',
    meaning:
      'size of the journal of each shard: records not yet committed, and in a file journal committed records not yet removed',
    read: sizeInBytes,
  },
  journalKeepSeconds: {
    variable: 'JOURNAL_KEEP_SECONDS',
    fallback: (env) =>
      (givenText(env, 'DATABASE_URL') ?? givenText(env, 'DATABASE_URL_FILE')) === undefined ? '0' : '60',
    fallbackShown: '0 embedded, else 60',
    meaning: 'how long committed records stay in the journal, in case the database fails over, or for an audit',
    read: wholeNumber,
  },
  flushIntervalMs: {
    variable: 'FLUSH_INTERVAL_MS',
    fallback: '1000',
    meaning: 'time between flushes to PostgreSQL; each wait is a random 90-100 % of it',
    read: wholeNumber,
  },
  flushKeysMax: {
    variable: 'FLUSH_MAX_KEYS',
    fallback: '10000',
    meaning:
      'pending keys at which a shard flushes early; it also does so at a third of its share of MAX_PENDING_KEYS or ' +
      'MAX_PENDING_BYTES, and after records of a quarter of JOURNAL_MAX_BYTES',
    read: wholeNumber,
  },
  pendingKeysMax: {
    variable: 'MAX_PENDING_KEYS',
    fallback: '1000000',
    meaning:
      'keys of the whole server that are acknowledged and not yet committed; each increment of an idempotent request ' +
      'counts as a key of its own',
    read: wholeNumber,
  },
  pendingBytesMax: {
    variable: 'MAX_PENDING_BYTES',
    fallback: '256 MiB',
    meaning: 'memory of the whole server for increments that are acknowledged and not yet committed',
    read: sizeInBytes,
  },
  bodyBytesMax: {
    variable: 'MAX_BODY_BYTES',
    fallback: '1 MiB',
    fallbackShown: '1 MiB, less where nats or sqs hold less',
    meaning:
      'size of the largest request body; with the nats or sqs journal its record must fit a message of the broker or the queue',
    read: sizeInBytes,
  },
  keyBytesMax: {
    variable: 'MAX_KEY_BYTES',
    fallback: '512',
    meaning: 'size of the largest key in UTF-8',
    read: sizeInBytes,
  },
  connectionsMax: {
    variable: 'MAX_CONNECTIONS',
    fallback: () => String(Math.max(1, Math.min(CONNECTIONS_LIMIT, descriptorLimit() - DESCRIPTORS_RESERVED))),
    fallbackShown: 'limit of open files - 100',
    meaning: 'about the most HTTP connections of the whole server; further ones are closed',
    read: wholeNumber,
  },
  watchersMax: {
    variable: 'MAX_WATCHERS',
    fallback: '1000',
    meaning: 'most event streams (GET /watch and dashboards) of the whole server; each is a connection, too',
    read: wholeNumber,
  },
  ackTimeoutMs: {
    variable: 'ACK_TIMEOUT_MS',
    fallback: '5000',
    meaning: 'how long a request waits for its shards before it is answered outcome-unknown',
    read: wholeNumber,
  },
  idempotencyWindowHours: {
    variable: 'IDEMPOTENCY_WINDOW_HOURS',
    fallback: '24',
    meaning: 'how long the server remembers an Idempotency-Key, so that repetitions count once',
    read: wholeNumber,
  },
  idempotencyRowsMax: {
    variable: 'IDEMPOTENCY_MAX_ROWS',
    fallback: '100000000',
    meaning: 'most remembered idempotency keys; at the limit, new idempotent requests get 503; no key is pruned early',
    read: wholeNumber,
  },
  streamExpiryDays: {
    variable: 'STREAM_EXPIRY_DAYS',
    fallback: '7',
    meaning:
      'after this long without contact from its node, a stream no longer holds up the pruning of idempotency keys; 0: never',
    read: wholeNumber,
  },
  shutdownTimeoutMs: {
    variable: 'SHUTDOWN_TIMEOUT_MS',
    fallback: '30000',
    meaning: 'longest stop; after it the server exits with code 1, and pending increments stay in the journal',
    read: wholeNumber,
  },
  drainDelayMs: {
    variable: 'DRAIN_DELAY_MS',
    fallback: '0',
    meaning: 'how long the server still accepts increments after SIGTERM, while /readyz answers 503',
    read: wholeNumber,
  },
  authTokens: {
    variable: 'AUTH_TOKENS',
    refusesBlank: true,
    meaning: 'bearer tokens as SCOPE:TOKEN, separated by commas or white space; scopes: write, read, admin',
    read: bearerTokenList,
  },
  authTokensFile: {
    variable: 'AUTH_TOKENS_FILE',
    meaning: 'file of bearer tokens, one SCOPE:TOKEN on each line; # begins a comment; read again on SIGHUP',
    read: bearerTokenFile,
  },
  allowedHosts: {
    variable: 'ALLOWED_HOSTS',
    meaning: 'without AUTH_TOKENS and with a loopback HOST: further names that a Host header may have; * allows any',
    read: hostNameList,
  },
  corsOrigins: {
    variable: 'CORS_ORIGINS',
    meaning:
      'origins of web pages that may call from a browser, such as https://example.org, separated by commas; * allows any',
    read: originList,
  },
  tlsCertFile: {
    variable: 'TLS_CERT_FILE',
    meaning: 'file of the certificate chain in PEM form; if set, the port accepts only TLS; read again on SIGHUP',
    read: readableFile,
  },
  tlsKeyFile: {
    variable: 'TLS_KEY_FILE',
    meaning: 'file of the private key in PEM form; read again on SIGHUP',
    read: readableFile,
  },
  adoptCounters: {
    variable: 'ADOPT_COUNTERS',
    fallback: '0',
    meaning: '1: adopt a table counters with more columns than that of the original application',
    read: wholeNumber,
  },
  logLevel: {
    variable: 'LOG_LEVEL',
    fallback: 'info',
    meaning: 'least severe level that is logged',
    read: plainText,
  },
  logSummarySeconds: {
    variable: 'LOG_SUMMARY_SECONDS',
    fallback: '60',
    meaning: 'time between lines of the log that sum up what was counted; 0: none',
    read: wholeNumber,
  },
} as const satisfies Record<string, Setting>;

/** The name of a setting in the code. */
export type SettingKey = keyof typeof table;

/** All settings. The type `Config` holds their limits. */
export const settings: Readonly<Record<SettingKey, Setting>> = table;

/** In the order of `--help`. */
// The table is a literal: Object.keys returns exactly the members of its type.
export const settingKeys = Object.keys(table) as readonly SettingKey[];
