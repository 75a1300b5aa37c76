/**
 * Warnings about settings that are valid, but too low together. Any thread.
 */
import type { Config } from './config.js';
import { DESCRIPTORS_RESERVED, descriptorLimit, ownDescriptors } from './descriptor-limit.js';
import { sizeText } from './setting-text.js';

/**
 * Warnings about valid limits:
 *
 * - limits that are too small for some legal bodies, which are always refused as `overloaded`. An increment may have only six
 *   bytes in a body, and needs up to 20 times as many while pending.
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
  // The default follows the limit, so it is no wish of the operator.
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
