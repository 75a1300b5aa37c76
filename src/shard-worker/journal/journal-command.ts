/**
 * Commands of `npm run journal` in messages, complete, so that an operator can paste them. Shard thread and command.
 */
import { dirname, resolve } from 'node:path';
import type { Lsn } from '../../core/checkpoint.js';

/**
 * A command for streams of one directory, in backticks. It names the data directory unless that is the default, which
 * `npm run journal` takes. `location`: DATA_DIR/journal/STREAM. `above` is the word LSN where only the operator knows it.
 */
export function journalCommand(
  command: string,
  streams: readonly { readonly stream: string; readonly location: string; readonly above?: Lsn | 'LSN' }[],
): string {
  const words = ['npm run journal --', command];
  for (const { stream, above } of streams) {
    words.push('--stream', stream);
    if (above !== undefined) words.push('--above', String(above));
  }
  const dataDir = dirname(dirname(streams[0]?.location ?? ''));
  if (dataDir !== resolve('data')) words.push('--data-dir', quoted(dataDir));
  return `\`${words.join(' ')}\``;
}

/** A path as one word of a shell. */
export function quoted(path: string): string {
  return /^[\w./@%+:,=-]+$/.test(path) ? path : `'${path.replaceAll("'", String.raw`'\''`)}'`;
}
