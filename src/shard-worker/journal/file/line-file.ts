/**
 * A small file of lines in a stream's directory, replaced as a whole. Any thread that holds the data directory's lock.
 */
import { join } from 'node:path';
import type { Disk } from './disk.js';
import { readFully } from './record-reader.js';
import { STAGED_SUFFIX, writeFully } from './segment-writer.js';

/** The lines of the file, none where there is none. Throws the disk's errors. */
export function readLines(disk: Disk, directory: string, name: string): string[] {
  if (!disk.list(directory).includes(name)) return [];
  const file = disk.open(join(directory, name));
  try {
    const bytes = Buffer.alloc(file.size());
    const text = bytes.toString('utf8', 0, readFully(file, bytes, 0));
    return text.split('\n').filter((line) => line !== '');
  } finally {
    file.close();
  }
}

/** Makes `lines` the file's content, durably; a crash leaves the old content or the new. Throws the disk's errors. */
export function replaceLines(disk: Disk, directory: string, name: string, lines: readonly string[]): void {
  const path = join(directory, name);
  if (disk.list(directory).includes(name + STAGED_SUFFIX)) disk.remove(path + STAGED_SUFFIX);
  const file = disk.create(path + STAGED_SUFFIX);
  try {
    writeFully(file, Buffer.from(lines.map((line) => `${line}\n`).join('')), 0);
    file.sync();
  } finally {
    file.close();
  }
  disk.rename(path + STAGED_SUFFIX, path);
  disk.syncDirectory(directory);
}
