/** The accepted values of a setting in words, from the limits in the type {@link Config}. Any thread. */
import typia from 'typia';
import type { Config } from './config.js';
import { sizeInBytes, sizeText, wholeNumber } from './setting-text.js';
import { settings, type SettingKey } from './settings.js';

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

/** What a setting's type accepts; undefined if only its reader decides. */
export function acceptedValues(key: SettingKey): string | undefined {
  const schema = schemaOf(key) ?? {};
  const { minimum, maximum } = schema;
  if (minimum !== undefined && maximum !== undefined) {
    return settings[key].read === sizeInBytes
      ? `${sizeText(minimum)} to ${sizeText(maximum)}`
      : `${minimum} to ${maximum}`;
  }
  const choices = (schema.oneOf ?? [schema]).flatMap((choice) => choice.const ?? []);
  return choices.length === 0 ? undefined : choices.join(' | ');
}

/** What a setting accepts, as the end of the sentence "must be …". */
export function expectation(key: SettingKey): string {
  if (settings[key].read === wholeNumber) return `a whole number, ${acceptedValues(key) ?? ''}`;
  if (settings[key].read === sizeInBytes)
    return `a size, ${acceptedValues(key) ?? ''}, in bytes or with KiB, MiB or GiB`;
  const choices = acceptedValues(key);
  return choices === undefined ? 'an address or a host name' : `one of ${choices.replaceAll(' |', ',')}`;
}
