/**
 * Environment → one frozen, validated Config. Nothing else reads settings from the environment. Any thread.
 */
import typia from 'typia';
import { StartError } from '../core/errors.js';
import type { LogLevel } from '../core/logger.js';
import { expectation } from './accepted-values.js';
import type { Config, ReloadedConfig } from './config.js';
import { settingRelations } from './setting-relations.js';
import type { JournalReading } from './setting-text.js';
import { givenText, settingKeys, settings, type Setting, type SettingKey } from './settings.js';

/**
 * The configuration of `env`, deeply frozen. An empty variable counts as unset; unknown variables are ignored. The
 * relations of `setting-relations.ts` hold. Throws {@link StartError} with one sentence for each problem and without secrets.
 */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const problems: string[] = [];
  const failed = new Set<SettingKey>();
  const values: Values = {};
  /** Continues with the default, so that one start reports all problems. */
  const fail = (key: SettingKey, problem: string): void => {
    failed.add(key);
    problems.push(`${settings[key].variable} ${problem}`);
    values[key] = fallbackValue(settings[key], env);
  };

  for (const key of settingKeys) {
    const { variable, refusesBlank, read } = settings[key];
    const text = givenText(env, variable);
    if (refusesBlank === true && text === undefined && (env[variable] ?? '') !== '') {
      fail(key, 'is white space only; unset it, or give it a value.');
      continue;
    }
    const reading = text === undefined ? { value: fallbackValue(settings[key], env) } : read(text);
    if ('problem' in reading) fail(key, reading.problem);
    else values[key] = reading.value;
  }
  const isGiven = (key: SettingKey): boolean => givenText(env, settings[key].variable) !== undefined;
  const composed = (): unknown => ({ ...compose(values), isBodyBytesMaxGiven: isGiven('bodyBytesMax') });
  const validation = typia.validateEquals<Config>(composed());
  for (const error of validation.success ? [] : validation.errors) {
    const key = settingKeys.find((candidate) => error.path === `$input.${candidate}`);
    if (key === undefined) throw new StartError([`The configuration is wrong at ${error.path}: ${error.expected}.`]);
    fail(key, `is "${givenText(env, settings[key].variable) ?? ''}", but must be ${expectation(key)}.`);
  }
  for (const [key, other] of [['tlsCertFile', 'tlsKeyFile'] as const, ['tlsKeyFile', 'tlsCertFile'] as const]) {
    if (!isGiven(key) && isGiven(other)) {
      fail(key, `must be set as well, because ${settings[other].variable} is set.`);
    }
  }
  if (isGiven('databaseUrl') && isGiven('databaseUrlFile'))
    fail('databaseUrlFile', 'and DATABASE_URL are both set; unset one of them.');

  // Defaults have replaced all refused values.
  const config = typia.assertEquals<Config>(composed());
  for (const { between, problem } of settingRelations) {
    const sentence = between.some((key) => failed.has(key)) ? undefined : problem(config);
    if (sentence !== undefined) problems.push(sentence);
  }
  if (problems.length > 0) throw new StartError(problems);
  return frozen(config);
}

/** The variables that SIGHUP reads again. */
const reloadedKeys = ['authTokens', 'authTokensFile', 'tlsCertFile', 'tlsKeyFile'] as const satisfies SettingKey[];

/**
 * Reads bearer tokens and TLS files of `env` again, and no other settings. Throws {@link StartError} as {@link readConfig}
 * does.
 */
export function readReloaded(env: NodeJS.ProcessEnv): ReloadedConfig {
  const { authTokens, tls } = readConfig(
    Object.fromEntries(reloadedKeys.map((key) => [settings[key].variable, env[settings[key].variable]])),
  );
  return { authTokens, tls };
}

/** LOG_LEVEL of `env`, or its default if invalid, for the log of a start with a wrong configuration. */
export function logLevelOf(env: NodeJS.ProcessEnv): LogLevel {
  const text = givenText(env, settings.logLevel.variable);
  return typia.is<LogLevel>(text) ? text : typia.assert<LogLevel>(settings.logLevel.fallback);
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
  const { kind, nats, sqs } = journal as JournalReading;
  const files = { caFile: natsCaFile, certFile: natsCertFile, keyFile: natsKeyFile };
  const hasFiles = Object.values(files).some((file) => file !== undefined);
  return {
    ...single,
    journal: kind,
    nats: nats && {
      servers: nats.servers,
      user: natsUser ?? nats.user,
      password: natsPassword ?? nats.password,
      token: natsToken ?? nats.token,
      credsFile: natsCredsFile,
      tls: nats.requiresTls || hasFiles ? files : undefined,
    },
    sqs,
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
