/**
 * Commands of `npm run journal` in messages, complete, so that an operator can paste them. Shard thread and command.
 */
import { dirname, resolve } from 'node:path';
import type { Lsn } from '../../core/checkpoint.js';

/**
 * A command for the stream that is stored at `location`, DATA_DIR/journal/STREAM, in backticks. It names the data directory
 * unless that is the default, which `npm run journal` takes. `above` is the word LSN where only the operator knows it.
 */
export function journalCommand(command: string, location: string, stream: string, above?: Lsn | 'LSN'): string {
  const words = ['npm run journal --', command, '--stream', stream];
  if (above !== undefined) words.push('--above', String(above));
  const dataDir = dirname(dirname(location));
  if (dataDir !== resolve('data')) words.push('--data-dir', quoted(dataDir));
  return `\`${words.join(' ')}\``;
}

/** A path as one word of a shell. */
export function quoted(path: string): string {
  return /^[\w./@%+:,=-]+$/.test(path) ? path : `'${path.replaceAll("'", String.raw`'\''`)}'`;
}
