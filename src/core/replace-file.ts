/**
 * Replaces files so that no crash leaves half of one. Any thread.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** Writes `text` to `<file>.new`, syncs it, renames it to `file`, and syncs the directory. Throws the system's error. */
export function replaceFile(file: string, text: string, mode: number): void {
  const staged = `${file}.new`;
  // What an interrupted call left may have another mode.
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

/** Makes the creation, renaming and removal of entries of a directory durable. Throws the system's error. */
export function syncDirectory(directory: string): void {
  const fd = openSync(directory, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
