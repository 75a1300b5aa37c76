/**
 * Atomic replacement of files: a crash leaves the old file or the new one. Any thread.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** Writes `text` to `<file>.new`, syncs it, renames it to `file`, and syncs the directory. Throws system errors. */
export function replaceFile(file: string, text: string, mode: number): void {
  const staged = `${file}.new`;
  // An interrupted call may have left a file with another mode.
  rmSync(staged, { force: true });
  const fd = openSync(staged, 'wx', mode);
  try {
    writeFileSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(staged, file);
  syncDirectory(path.dirname(file));
}

/** Makes created, renamed and removed entries of a directory durable. Throws system errors. */
export function syncDirectory(directory: string): void {
  const fd = openSync(directory, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
