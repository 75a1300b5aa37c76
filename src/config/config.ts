/**
 * Environment → one frozen, validated Config. Nothing else reads settings from the environment. Any thread.
 *
 * The limits are in the type {@link Config} alone. typia checks them, and the sentences for the operator come from the
 * schema of the same type. `settings.ts` holds the name and the meaning of each variable.
 */
import { createSecureContext } from 'node:tls';
import typia, { type tags } from 'typia';
import { StartError } from '../core/errors.js';
import type { LogLevel } from '../core/logger.js';
import { DESCRIPTORS_RESERVED, descriptorLimit, ownDescriptors } from './descriptor-limit.js';
import { fileContent, sizeInBytes, sizeText, wholeNumber, type JournalReading } from './setting-text.js';
import { givenText, settings, type implementedJournals, type Setting } from './settings.js';
import { wrapped } from './wrapped-text.js';

type Integer<Min extends number, Max extends number> = number &
  tags.Type<'int64'> &
  tags.Minimum<Min> &
  tags.Maximum<Max>;

/** The kind of journal that keeps increments until they are summed. */
export type JournalKind = (typeof implementedJournals)[number];

/** Whether servers on other machines can read the journal, so that any of them flushes it. */
export function isSharedJournal(journal: JournalKind): boolean {
  return journal !== 'memory' && journal !== 'file';
}

/** Everything that an operator can set. Names end in units. `readConfig` checks the relations between limits. */
export interface Config {
  /** The address or host name to listen on. */
  readonly host: string & tags.Pattern<'^[A-Za-z0-9._:%-]{1,253}$'>;
  /** 0: any free port. */
  readonly port: Integer<0, 65535>;
  /** With the scheme `postgresql:`. Undefined: an embedded PostgreSQL in `dataDir`. */
  readonly databaseUrl: string | undefined;
  /** Absolute path. */
  readonly dataDir: string;
  readonly shards: Integer<1, 64>;
  readonly httpThreads: Integer<1, 64>;
  readonly role: 'serve' | 'ingest' | 'roll-up';
  readonly journal: JournalKind;
  /** How the broker of the nats journal is reached; undefined with another journal. Holds secrets. */
  readonly nats: NatsConfig | undefined;
  /** The stream of JetStream, and the prefix of its subjects. */
  readonly natsStream: string;
  /** Replicas that the stream is made with, and must have. */
  readonly natsReplicas: Integer<1, 5>;
  /** The queue of the sqs journal; undefined with another journal. */
  readonly sqs: SqsConfig | undefined;
  readonly journalSync: 'always' | 'everysec';
  /** For each shard. */
  readonly journalBytesMax: Integer<65_536, 17_592_186_044_416>;
  /** At most ten years, for an audit of the log in PostgreSQL. */
  readonly journalKeepSeconds: Integer<0, 315_360_000>;
  readonly flushIntervalMs: Integer<1, 3_600_000>;
  readonly flushKeysMax: Integer<1, 100_000_000>;
  /** For the whole server. */
  readonly pendingKeysMax: Integer<1, 100_000_000>;
  /** For the whole server. Less than FLUSH_BYTES_MAX, the limit of one flush. */
  readonly pendingBytesMax: Integer<1024, 943_718_400>;
  /** At most 16 MiB, so that the increments of any body fit one record. */
  readonly bodyBytesMax: Integer<16, 16_777_216>;
  /** False: with the nats or sqs journal bodies are limited to what fits a message, if that is less than {@link bodyBytesMax}. */
  readonly isBodyBytesMaxGiven: boolean;
  /** At most KEY_BYTES_LIMIT. */
  readonly keyBytesMax: Integer<1, 2048>;
  /** Open event streams of the whole server. */
  readonly watchersMax: Integer<1, 1_000_000>;
  /** For the whole server. */
  readonly connectionsMax: Integer<1, 1_000_000_000>;
  readonly ackTimeoutMs: Integer<10, 600_000>;
  readonly idempotencyWindowHours: Integer<1, 8760>;
  readonly idempotencyRowsMax: Integer<1, 1_000_000_000_000>;
  readonly streamExpiryDays: Integer<0, 3650>;
  readonly shutdownTimeoutMs: Integer<100, 3_600_000>;
  readonly drainDelayMs: Integer<0, 3_600_000>;
  readonly authTokens: readonly BearerToken[];
  /** Names besides `host`, localhost and addresses that a Host header may have where {@link authTokens} are none. */
  readonly allowedHosts: readonly string[];
  /** Origins of web pages that may call from a browser; `*` for any. */
  readonly corsOrigins: readonly string[];
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  /** 1: adopt a table `counters` with columns that the table of the original application has not. */
  readonly adoptCounters: Integer<0, 1>;
  readonly logLevel: LogLevel;
  readonly logSummarySeconds: Integer<0, 86_400>;
}

/** How a broker is reached. */
export interface NatsConfig {
  /** `HOST:PORT` of servers of one cluster. */
  readonly servers: readonly string[];
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly token: string | undefined;
  /** Absolute path of a file of credentials. */
  readonly credsFile: string | undefined;
  /** Undefined: TLS where the server wants it, by the system's authorities. */
  readonly tls:
    | {
        readonly caFile: string | undefined;
        readonly certFile: string | undefined;
        readonly keyFile: string | undefined;
      }
    | undefined;
}

/** Which queue, and where. */
export interface SqsConfig {
  readonly queueUrl: string;
  /** Undefined: the AWS SDK finds it, in the environment or its files. */
  readonly region: string | undefined;
}

/** A bearer token and the operations that it permits. */
export interface BearerToken {
  readonly scope: 'write' | 'read' | 'admin';
  readonly token: string;
}

/** `tls`, `authTokens` and `databaseUrl` come from two variables each, `nats` from several, `sqs` from that of the journal, every
 * other member from one. */
type SettingKey =
  | Exclude<keyof Config, 'tls' | 'nats' | 'sqs' | 'isBodyBytesMaxGiven'>
  | 'databaseUrlFile'
  | 'authTokensFile'
  | 'tlsCertFile'
  | 'tlsKeyFile'
  | NatsKey;
type NatsKey =
  'natsUser' | 'natsPassword' | 'natsToken' | 'natsCredsFile' | 'natsCaFile' | 'natsCertFile' | 'natsKeyFile';
const table: Readonly<Record<SettingKey, Setting>> = settings;
// The table is a literal: Object.keys returns exactly the members of its type.
const settingKeys = Object.keys(settings) as readonly (keyof typeof settings & SettingKey)[];

/** Most bytes of one flush, which is one statement: PostgreSQL refuses a message of 1 GiB. */
const FLUSH_BYTES_MAX = 1_000_000_000;
/**
 * How much larger an increment of an idempotent request can be in a flush than its pending bytes: it repeats the
 * idempotency key, up to 255 bytes, and lacks the 104 bytes of overhead. Any other increment is smaller in a flush.
 */
const IDEMPOTENT_INCREMENT_FLUSH_BYTES = 192;
/** Least pending bytes of an increment: its overhead and a key of one byte. */
const PENDING_INCREMENT_BYTES_MIN = 105;

/** Relations between limits. Checked only if each of the limits is valid on its own. */
const relations: readonly {
  readonly between: readonly SettingKey[];
  readonly problem: (config: Config) => string | undefined;
}[] = [
  {
    between: ['pendingKeysMax', 'shards'],
    problem: ({ pendingKeysMax, shards }) =>
      pendingKeysMax >= shards
        ? undefined
        : `MAX_PENDING_KEYS is ${pendingKeysMax}, but must be at least SHARDS, ${shards}.`,
  },
  {
    between: ['journal', 'databaseUrl'],
    problem: ({ journal, databaseUrl }) =>
      !isSharedJournal(journal) || databaseUrl !== undefined
        ? undefined
        : `JOURNAL is ${journal}, which needs a DATABASE_URL that other servers reach, too.`,
  },
  {
    between: ['natsUser', 'natsPassword', 'natsToken', 'natsCredsFile'],
    problem: ({ nats }) => {
      const ways = [nats?.user ?? nats?.password, nats?.token, nats?.credsFile].filter((way) => way !== undefined);
      return ways.length <= 1
        ? undefined
        : 'A user, a token and NATS_CREDS_FILE exclude each other; set one of them, in JOURNAL or by its own variable.';
    },
  },
  {
    between: ['natsCertFile', 'natsKeyFile'],
    problem: ({ nats }) =>
      (nats?.tls?.certFile === undefined) === (nats?.tls?.keyFile === undefined)
        ? undefined
        : 'NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE belong together; set both or neither.',
  },
  {
    between: ['role', 'journal', 'databaseUrl'],
    problem: ({ role, journal }) =>
      role === 'serve' || isSharedJournal(journal)
        ? undefined
        : `ROLE is ${role}, which needs a JOURNAL that other servers reach, too: postgres, nats://HOST:PORT or sqs:QUEUE_URL. It is ${journal}.`,
  },
  {
    between: ['role', 'journal'],
    problem: ({ role, journal }) =>
      role !== 'serve' || journal !== 'sqs'
        ? undefined
        : 'ROLE is serve, but a server cannot read its own increments back from a queue. With JOURNAL=sqs set ROLE=ingest where ' +
          'increments are taken and ROLE=roll-up where they are counted.',
  },
  {
    // One shard may hold all pending sums, and after an outage it flushes them at once.
    between: ['pendingBytesMax', 'pendingKeysMax'],
    problem: ({ pendingBytesMax, pendingKeysMax }) => {
      const increments = Math.min(pendingKeysMax, Math.floor(pendingBytesMax / PENDING_INCREMENT_BYTES_MIN));
      return pendingBytesMax + increments * IDEMPOTENT_INCREMENT_FLUSH_BYTES <= FLUSH_BYTES_MAX
        ? undefined
        : `MAX_PENDING_BYTES is ${sizeText(pendingBytesMax)} and MAX_PENDING_KEYS ${pendingKeysMax}: MAX_PENDING_BYTES + ` +
            `${IDEMPOTENT_INCREMENT_FLUSH_BYTES} × MAX_PENDING_KEYS must be at most ${FLUSH_BYTES_MAX}, the limit of one flush.`;
    },
  },
  {
    between: ['drainDelayMs', 'shutdownTimeoutMs'],
    problem: ({ drainDelayMs, shutdownTimeoutMs }) =>
      drainDelayMs < shutdownTimeoutMs
        ? undefined
        : `DRAIN_DELAY_MS is ${drainDelayMs}, but must be less than SHUTDOWN_TIMEOUT_MS, ${shutdownTimeoutMs}.`,
  },
  {
    between: ['tlsCertFile', 'tlsKeyFile'],
    problem: ({ tls }) => (tls === undefined ? undefined : tlsProblem(tls.certFile, tls.keyFile)),
  },
];

/**
 * Warnings about valid limits:
 *
 * - limits that are too small for some legal bodies: such a body is always refused as `overloaded`. An increment may have
 *   only six bytes in a body, and needs up to 20 times its bytes while it is pending.
 * - a limit of open files, `openFilesMax`, that is too low for the server and its connections
 */
export function configWarnings(config: Config, openFilesMax = descriptorLimit()): readonly string[] {
  const { bodyBytesMax, pendingBytesMax, journalBytesMax } = config;
  return [
    tooFewFiles(config, openFilesMax),
    tooSmall('MAX_PENDING_BYTES', pendingBytesMax, 20 * bodyBytesMax),
    tooSmall('JOURNAL_MAX_BYTES', journalBytesMax, 8 * bodyBytesMax),
  ].filter((warning) => warning !== undefined);
}

function tooFewFiles(config: Config, openFilesMax: number): string | undefined {
  const own = ownDescriptors(config);
  // The default follows the limit, and is not what an operator wants at least.
  const isDefault = config.connectionsMax === openFilesMax - DESCRIPTORS_RESERVED;
  const wanted = isDefault ? DESCRIPTORS_RESERVED : Math.max(DESCRIPTORS_RESERVED, config.connectionsMax);
  if (openFilesMax >= own + wanted) return undefined;
  return (
    `The limit of open files is ${openFilesMax}, but journal, database and threads need about ${own} and connections ` +
    `${wanted}: raise it to at least ${own + wanted} (ulimit -n ${own + wanted}, or LimitNOFILE=${own + wanted} in a ` +
    'systemd unit).'
  );
}

function tooSmall(variable: string, bytes: number, enough: number): string | undefined {
  if (bytes >= enough) return undefined;
  return `${variable} is ${sizeText(bytes)}: the server always refuses some bodies within MAX_BODY_BYTES; set at least ${sizeText(enough)}.`;
}

function tlsProblem(certFile: string, keyFile: string): string | undefined {
  const cert = fileContent(certFile);
  const key = fileContent(keyFile);
  if ('problem' in cert) return `TLS_CERT_FILE ${cert.problem}`;
  if ('problem' in key) return `TLS_KEY_FILE ${key.problem}`;
  try {
    createSecureContext({ cert: cert.text, key: key.text });
    return undefined;
  } catch (error) {
    const reason = error instanceof Error ? error.message : 'unknown reason';
    return `TLS_CERT_FILE and TLS_KEY_FILE must be a certificate and its private key in PEM form (${reason}).`;
  }
}

/**
 * The configuration of `env`, deeply frozen. An empty variable counts as unset; unknown variables are ignored. These
 * relations hold:
 *
 * - everything that is pending fits one flush
 * - each shard can hold at least one key
 * - DRAIN_DELAY_MS ends before SHUTDOWN_TIMEOUT_MS
 * - the certificate and the key of TLS match
 *
 * Throws {@link StartError} with one sentence for each problem and without secrets.
 */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const problems: string[] = [];
  const failed = new Set<SettingKey>();
  const values: Values = {};
  /** Continues with the default, so that one start reports the problems of all settings. */
  const fail = (key: SettingKey, problem: string): void => {
    failed.add(key);
    problems.push(`${table[key].variable} ${problem}`);
    values[key] = fallbackValue(table[key], env);
  };

  for (const key of settingKeys) {
    const text = givenText(env, table[key].variable);
    if (table[key].refusesBlank === true && text === undefined && (env[table[key].variable] ?? '') !== '') {
      fail(key, 'is white space only; unset it, or give it a value.');
      continue;
    }
    const reading = text === undefined ? { value: fallbackValue(table[key], env) } : table[key].read(text);
    if ('problem' in reading) fail(key, reading.problem);
    else values[key] = reading.value;
  }
  const isGiven = (key: SettingKey): boolean => givenText(env, table[key].variable) !== undefined;
  const composed = (): unknown => ({ ...compose(values), isBodyBytesMaxGiven: isGiven('bodyBytesMax') });
  const validation = typia.validateEquals<Config>(composed());
  for (const error of validation.success ? [] : validation.errors) {
    const key = settingKeys.find((candidate) => error.path === `$input.${candidate}`);
    if (key === undefined) throw new StartError([`The configuration is wrong at ${error.path}: ${error.expected}.`]);
    fail(key, `is "${givenText(env, table[key].variable) ?? ''}", but must be ${expectation(key)}.`);
  }
  for (const [key, other] of [['tlsCertFile', 'tlsKeyFile'] as const, ['tlsKeyFile', 'tlsCertFile'] as const]) {
    if (!isGiven(key) && isGiven(other)) {
      fail(key, `must be set as well, because ${table[other].variable} is set.`);
    }
  }
  if (isGiven('databaseUrl') && isGiven('databaseUrlFile'))
    fail('databaseUrlFile', 'and DATABASE_URL are both set; unset one of them.');

  // Defaults have replaced all refused values.
  const config = typia.assertEquals<Config>(composed());
  for (const { between, problem } of relations) {
    const sentence = between.some((key) => failed.has(key)) ? undefined : problem(config);
    if (sentence !== undefined) problems.push(sentence);
  }
  if (problems.length > 0) throw new StartError(problems);
  return frozen(config);
}

type Values = Partial<Record<SettingKey, unknown>>;

function fallbackValue(setting: Setting, env: NodeJS.ProcessEnv): unknown {
  const text = typeof setting.fallback === 'function' ? setting.fallback(env) : setting.fallback;
  const reading = text === undefined ? { value: undefined } : setting.read(text);
  return 'value' in reading ? reading.value : undefined;
}

function compose(values: Values): object {
  const { databaseUrl, databaseUrlFile, tlsCertFile, tlsKeyFile, journal, ...withNats } = values;
  const { natsUser, natsPassword, natsToken, natsCredsFile, natsCaFile, natsCertFile, natsKeyFile, ...others } =
    withNats;
  const { authTokens, authTokensFile, allowedHosts, corsOrigins, ...single } = others;
  const tls =
    tlsCertFile === undefined || tlsKeyFile === undefined ? undefined : { certFile: tlsCertFile, keyFile: tlsKeyFile };
  // The reader of JOURNAL returns this.
  const { kind, address, queue } = journal as JournalReading;
  const files = { caFile: natsCaFile, certFile: natsCertFile, keyFile: natsKeyFile };
  const hasFiles = Object.values(files).some((file) => file !== undefined);
  const nats = address && {
    servers: address.servers,
    user: natsUser ?? address.user,
    password: natsPassword ?? address.password,
    token: natsToken ?? address.token,
    credsFile: natsCredsFile,
    tls: address.requiresTls || hasFiles ? files : undefined,
  };
  return {
    ...single,
    journal: kind,
    nats,
    sqs: queue,
    databaseUrl: databaseUrl ?? databaseUrlFile,
    authTokens: [authTokens ?? [], authTokensFile ?? []].flat(),
    allowedHosts: allowedHosts ?? [],
    corsOrigins: corsOrigins ?? [],
    tls,
  };
}

function frozen<T extends object>(value: T): T {
  for (const member of Object.values(value)) {
    if (typeof member === 'object' && member !== null) frozen(member);
  }
  return Object.freeze(value);
}

/** The part of a JSON schema that Config's members use. */
interface Schema {
  readonly $ref?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly const?: string;
  readonly oneOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
}

const schemas = typia.assert<Readonly<Record<string, Schema>>>(typia.json.schemas<[Config]>().components.schemas);

function schemaOf(key: string): Schema | undefined {
  const schema = schemas['Config']?.properties?.[key];
  const name = schema?.$ref?.split('/').at(-1);
  return name === undefined ? schema : schemas[name];
}

/** What a setting's type accepts, in short; undefined if only its reader decides. */
function accepted(key: SettingKey): string | undefined {
  const schema = schemaOf(key) ?? {};
  const { minimum, maximum } = schema;
  if (minimum !== undefined && maximum !== undefined) {
    return table[key].read === sizeInBytes
      ? `${sizeText(minimum)} to ${sizeText(maximum)}`
      : `${minimum} to ${maximum}`;
  }
  const choices = (schema.oneOf ?? [schema]).flatMap((choice) => choice.const ?? []);
  return choices.length === 0 ? undefined : choices.join(' | ');
}

/** What a setting accepts, as the end of the sentence "must be …". */
function expectation(key: SettingKey): string {
  if (table[key].read === wholeNumber) return `a whole number, ${accepted(key) ?? ''}`;
  if (table[key].read === sizeInBytes) return `a size, ${accepted(key) ?? ''}, in bytes or with KiB, MiB or GiB`;
  const choices = accepted(key);
  return choices === undefined ? 'an address or a host name' : `one of ${choices.replaceAll(' |', ',')}`;
}

/** Columns of `--help`. */
const HELP_WIDTH = 80;
/** The column at which the second half of a line of `--help` begins. */
const HELP_INDENT = 26;

/** What `--help` prints: how the server is run, and of each setting the variable, default, accepted values and meaning. */
export function configHelp(): string {
  const rows = settingKeys.map((key) => {
    const { variable, fallback, fallbackShown, meaning, accepts: shownAccepts } = table[key];
    const shown = fallbackShown ?? (typeof fallback === 'string' ? fallback : 'none');
    const accepts = shownAccepts ?? accepted(key);
    const values = `default: ${shown}${accepts === undefined ? '' : `; accepts: ${accepts}`}`;
    const lines = [values, meaning].flatMap((text) => wrapped(text, HELP_WIDTH - HELP_INDENT));
    return lines.map((line, at) => (at === 0 ? variable : '').padEnd(HELP_INDENT) + line).join('\n');
  });
  const intro =
    'Usage: npm start, or node dist/main.js [--help | --version]. The server is configured by these environment ' +
    'variables. An empty variable counts as unset.';
  return `${wrapped(intro, HELP_WIDTH).join('\n')}\n\n${rows.join('\n')}\n`;
}

/** The variables that SIGHUP reads again. */
const reloadedKeys = ['authTokens', 'authTokensFile', 'tlsCertFile', 'tlsKeyFile'] as const satisfies SettingKey[];

/** What of the configuration SIGHUP reads again. */
export type ReloadedConfig = Pick<Config, 'authTokens' | 'tls'>;

/**
 * Reads bearer tokens and TLS files again, of `env` as {@link readConfig} has read it. Other settings are not looked at.
 * Throws {@link StartError} as readConfig does.
 */
export function readReloaded(env: NodeJS.ProcessEnv): ReloadedConfig {
  const { authTokens, tls } = readConfig(
    Object.fromEntries(reloadedKeys.map((key) => [table[key].variable, env[table[key].variable]])),
  );
  return { authTokens, tls };
}

/** LOG_LEVEL of `env`, or its default where that is invalid, for the log of a start whose configuration is wrong. */
export function logLevelOf(env: NodeJS.ProcessEnv): LogLevel {
  const text = givenText(env, settings.logLevel.variable);
  return typia.is<LogLevel>(text) ? text : settings.logLevel.fallback;
}
