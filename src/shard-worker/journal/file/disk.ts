/**
 * The disk as the file journal sees it: few calls, all synchronous, each of which can fail. Shard thread.
 *
 * Synchronous is intended: while a shard's thread waits for its sync, batches collect on its port and share the next one.
 * A simulation puts its own disk here, one that loses or tears what was not synced and forgets directory entries whose
 * directory was not. So nothing else in this folder touches the file system, and nothing relies on what was not synced.
 *
 * Calls throw the system's errors, with their `code`, unchanged.
 */
import {
  closeSync,
  constants,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmdirSync,
  truncateSync,
  unlinkSync,
  writeSync,
  writevSync,
} from 'node:fs';
import { JournalError, type JournalErrorCode, systemErrorCode } from '../../../core/errors.js';

/** An open file. */
export interface DiskFile {
  /** Writes at `offset` bytes; returns how many bytes were written, which can be fewer than asked. */
  write(bytes: Uint8Array, offset: number): number;
  /** As {@link DiskFile.write} for several buffers one after the other. */
  writeAll(parts: readonly Uint8Array[], offset: number): number;
  /** Reads at `offset` bytes; returns how many bytes were read, fewer than asked at the end of the file. */
  read(into: Uint8Array, offset: number): number;
  /** Makes the file's data, and its size where that is needed to reach them, durable. */
  sync(): void;
  /** Size of the file in bytes. */
  size(): number;
  close(): void;
}

/** Files and directories by path. A new, renamed or removed entry is durable once its directory was synced. */
export interface Disk {
  /** Makes a file that must not exist yet (`EEXIST`) and opens it for reading and writing. */
  create(path: string): DiskFile;
  /** Opens an existing file for reading (and syncing). */
  open(path: string): DiskFile;
  /** Makes a directory; an existing one is fine. Its parent must exist. */
  makeDirectory(path: string): void;
  /** Names in a directory, in no particular order; none where the directory does not exist. */
  list(path: string): string[];
  /** Renames, replacing what was at `to`, atomically. */
  rename(from: string, to: string): void;
  remove(path: string): void;
  /** Removes an empty directory. */
  removeDirectory(path: string): void;
  truncate(path: string, bytes: number): void;
  /** Makes a directory's entries durable. */
  syncDirectory(path: string): void;
}

class SystemFile implements DiskFile {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(bytes: Uint8Array, offset: number): number {
    return writeSync(this.#fd, bytes, 0, bytes.byteLength, offset);
  }

  writeAll(parts: readonly Uint8Array[], offset: number): number {
    return writevSync(this.#fd, parts, offset);
  }

  read(into: Uint8Array, offset: number): number {
    return readSync(this.#fd, into, 0, into.byteLength, offset);
  }

  sync(): void {
    fdatasyncSync(this.#fd);
  }

  size(): number {
    return fstatSync(this.#fd).size;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** The machine's own disk. */
export const systemDisk: Disk = {
  create: (path) => new SystemFile(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o640)),
  open: (path) => new SystemFile(openSync(path, constants.O_RDONLY)),
  makeDirectory(path) {
    try {
      mkdirSync(path, 0o750);
    } catch (error) {
      if (systemErrorCode(error) !== 'EEXIST') throw error;
    }
  },
  list(path) {
    try {
      return readdirSync(path);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return [];
      throw error;
    }
  },
  rename: (from, to) => renameSync(from, to),
  remove: (path) => unlinkSync(path),
  removeDirectory: (path) => rmdirSync(path),
  truncate: (path, bytes) => truncateSync(path, bytes),
  syncDirectory(path) {
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  },
};

/** A JournalError for an error of the disk; anything else comes back as it is. */
export function diskFailure(code: JournalErrorCode, what: string, error: unknown): unknown {
  const cause = systemErrorCode(error);
  if (cause === undefined || !(error instanceof Error)) return error;
  return new JournalError(code, `${what}: ${error.message}`, { cause: error });
}

/** Runs `action`; errors of the disk leave as JournalError `journal-unavailable`, so nothing may be kept by then. */
export function orUnavailable<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw diskFailure('journal-unavailable', what, error);
  }
}
