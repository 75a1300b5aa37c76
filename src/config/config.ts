/**
 * Environment → one frozen, validated Config. The only reader of the environment. Any thread may hold a Config.
 *
 * The bounds stand in the type {@link Config} alone: typia checks them, and the sentences that an operator sees are made
 * from the same type's schema. What each variable is called and means stands in `settings.ts`.
 */
import { createSecureContext } from 'node:tls';
import typia, { type tags } from 'typia';
import { StartError } from '../core/errors.js';
import type { LogLevel } from '../core/logger.js';
import { fileContent, sizeInBytes, sizeText, wholeNumber } from './setting-text.js';
import { givenText, settings, type implementedJournals, type Setting } from './settings.js';

type Integer<Min extends number, Max extends number> = number &
  tags.Type<'int64'> &
  tags.Minimum<Min> &
  tags.Maximum<Max>;

/** Where increments are safe before they are summed. */
export type JournalKind = (typeof implementedJournals)[number];

/** Everything that an operator can set. Units are in the names; relations between limits hold (see `readConfig`). */
export interface Config {
  /** An address or a name to listen on. */
  readonly host: string & tags.Pattern<'^[A-Za-z0-9._:%-]{1,253}$'>;
  /** 0: any free port. */
  readonly port: Integer<0, 65535>;
  /** With the scheme `postgresql:`. None: an embedded PostgreSQL in `dataDir`. */
  readonly databaseUrl: string | undefined;
  /** Absolute path. */
  readonly dataDir: string;
  readonly shards: Integer<1, 64>;
  readonly httpThreads: Integer<1, 64>;
  readonly role: 'serve';
  readonly journal: JournalKind;
  readonly journalSync: 'always' | 'everysec';
  /** Per shard. */
  readonly journalBytesMax: Integer<65_536, 17_592_186_044_416>;
  readonly journalKeepSeconds: Integer<0, 604_800>;
  readonly flushIntervalMs: Integer<1, 3_600_000>;
  readonly flushKeysMax: Integer<1, 100_000_000>;
  /** Per node. */
  readonly pendingKeysMax: Integer<1, 100_000_000>;
  /** Per node. Less than the most that one flush may hold, see FLUSH_BYTES_MAX. */
  readonly pendingBytesMax: Integer<1024, 943_718_400>;
  /** At most 16 MiB, so that a body's pairs fit one record whatever they are. */
  readonly bodyBytesMax: Integer<16, 16_777_216>;
  /** At most KEY_BYTES_LIMIT. */
  readonly keyBytesMax: Integer<1, 2048>;
  readonly ackTimeoutMs: Integer<10, 600_000>;
  readonly idempotencyWindowHours: Integer<1, 8760>;
  readonly idempotencyRowsMax: Integer<1, 1_000_000_000_000>;
  readonly shutdownTimeoutMs: Integer<100, 3_600_000>;
  readonly drainDelayMs: Integer<0, 3_600_000>;
  readonly authTokens: readonly BearerToken[];
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  readonly logLevel: LogLevel;
}

/** A bearer token and what it opens. */
export interface BearerToken {
  readonly scope: 'write' | 'read' | 'admin';
  readonly token: string;
}

/** `tls` and `authTokens` are made of two variables each; every other member of Config is one. */
type SettingKey = Exclude<keyof Config, 'tls'> | 'authTokensFile' | 'tlsCertFile' | 'tlsKeyFile';
const table: Readonly<Record<SettingKey, Setting>> = settings;
// Object.keys of the table, which has the members of its type and no others.
const settingKeys = Object.keys(settings) as readonly (keyof typeof settings & SettingKey)[];

/** Most bytes of one flush, which is one statement: PostgreSQL takes no message of 1 GiB. */
const FLUSH_BYTES_MAX = 1_000_000_000;
/**
 * A pair of a request with a token may take so much more in a flush than it counts as pending: its token once more, up to
 * 255 bytes, while the 104 bytes of a key's overhead stay behind. Any other pair takes less than it counts.
 */
const IDEMPOTENT_INCREMENT_FLUSH_BYTES = 192;
/** What a pair counts at least: its overhead, and a key of one byte. */
const PENDING_INCREMENT_BYTES_MIN = 105;

/** Limits that only make sense together; checked where each of them is valid on its own. */
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
    // All that is pending may be in one shard, and what a shard holds is one flush after an outage.
    between: ['pendingBytesMax', 'pendingKeysMax'],
    problem: ({ pendingBytesMax, pendingKeysMax }) => {
      const increments = Math.min(pendingKeysMax, Math.floor(pendingBytesMax / PENDING_INCREMENT_BYTES_MIN));
      return pendingBytesMax + increments * IDEMPOTENT_INCREMENT_FLUSH_BYTES <= FLUSH_BYTES_MAX
        ? undefined
        : `MAX_PENDING_BYTES is ${sizeText(pendingBytesMax)} and MAX_PENDING_KEYS ${pendingKeysMax}: MAX_PENDING_BYTES + ` +
            `${IDEMPOTENT_INCREMENT_FLUSH_BYTES} × MAX_PENDING_KEYS must be at most ${FLUSH_BYTES_MAX}, what one flush can hold.`;
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
 * Sentences for the log about bounds that are legal and let some bodies in no state of the server through: such a body is
 * refused as `overloaded` for ever. A pair may be as short as six bytes of body and takes up to 20 times that pending.
 */
export function configWarnings({ bodyBytesMax, pendingBytesMax, journalBytesMax }: Config): readonly string[] {
  return [
    tooSmall('MAX_PENDING_BYTES', pendingBytesMax, 20 * bodyBytesMax),
    tooSmall('JOURNAL_MAX_BYTES', journalBytesMax, 8 * bodyBytesMax),
  ].filter((warning) => warning !== undefined);
}

function tooSmall(variable: string, bytes: number, enough: number): string | undefined {
  if (bytes >= enough) return undefined;
  return `${variable} is ${sizeText(bytes)}: some bodies within MAX_BODY_BYTES will never fit, ${sizeText(enough)} would do.`;
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
 * The configuration that `env` asks for, frozen all the way down. A variable that is empty is unset; one that is not in
 * the table is somebody else's. Relations that hold: what is pending fits one flush; each shard can hold a key;
 * DRAIN_DELAY_MS ends before SHUTDOWN_TIMEOUT_MS; the TLS files match.
 * Throws {@link StartError} with one sentence for every problem; secrets are never part of it.
 */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const problems: string[] = [];
  const failed = new Set<SettingKey>();
  const values: Values = {};
  /** A setting that failed goes on with its default, so that the others can still be judged. */
  const fail = (key: SettingKey, problem: string): void => {
    failed.add(key);
    problems.push(`${table[key].variable} ${problem}`);
    values[key] = fallbackValue(table[key], env);
  };

  for (const key of settingKeys) {
    const text = givenText(env, table[key].variable);
    const reading = text === undefined ? { value: fallbackValue(table[key], env) } : table[key].read(text);
    if ('problem' in reading) fail(key, reading.problem);
    else values[key] = reading.value;
  }
  const validation = typia.validateEquals<Config>(compose(values));
  for (const error of validation.success ? [] : validation.errors) {
    const key = settingKeys.find((candidate) => error.path === `$input.${candidate}`);
    if (key === undefined) throw new StartError([`The configuration is wrong at ${error.path}: ${error.expected}.`]);
    fail(key, `is "${givenText(env, table[key].variable) ?? ''}", but must be ${expectation(key)}.`);
  }
  for (const [key, other] of [['tlsCertFile', 'tlsKeyFile'] as const, ['tlsKeyFile', 'tlsCertFile'] as const]) {
    const missing = givenText(env, table[key].variable) === undefined;
    if (missing && givenText(env, table[other].variable) !== undefined) {
      fail(key, `must be set as well where ${table[other].variable} is.`);
    }
  }

  // Every value that was refused is its default by now.
  const config = typia.assertEquals<Config>(compose(values));
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

function compose({ tlsCertFile, tlsKeyFile, authTokens, authTokensFile, ...single }: Values): unknown {
  const tls =
    tlsCertFile === undefined || tlsKeyFile === undefined ? undefined : { certFile: tlsCertFile, keyFile: tlsKeyFile };
  return { ...single, authTokens: [authTokens ?? [], authTokensFile ?? []].flat(), tls };
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

/** What a setting's type accepts, in short; undefined where its reader alone judges. */
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

/** The same as part of a sentence: "must be …". */
function expectation(key: SettingKey): string {
  if (table[key].read === wholeNumber) return `a whole number, ${accepted(key) ?? ''}`;
  if (table[key].read === sizeInBytes) return `a size, ${accepted(key) ?? ''}, in bytes or with KiB, MiB or GiB`;
  const choices = accepted(key);
  return choices === undefined ? 'an address or a host name' : `one of ${choices.replaceAll(' |', ',')}`;
}

/** The table of settings as `--help` prints it: variable, default, and what it means with its bounds. */
export function configHelp(): string {
  const rows = settingKeys.map((key) => {
    const { variable, fallback, fallbackShown, meaning } = table[key];
    const shown = fallbackShown ?? (typeof fallback === 'string' ? fallback : 'none');
    return [variable, shown, accepted(key) ?? '', meaning] as const;
  });
  const heads = ['variable', 'default', 'accepts', 'meaning'] as const;
  const width = (column: 0 | 1 | 2): number => Math.max(...[heads, ...rows].map((row) => row[column].length)) + 2;
  const lines = [heads, ...rows].map(
    ([variable, shown, accepts, meaning]) =>
      variable.padEnd(width(0)) + shown.padEnd(width(1)) + accepts.padEnd(width(2)) + meaning,
  );
  return `${lines.join('\n')}\n`;
}
