/**
 * The disk of the file journal: a few synchronous calls, each of which can fail. Shard thread and command.
 *
 * While a shard thread waits for its sync, batches gather on its port and share the next sync. The disk of the simulation
 * loses or tears unsynced data, and loses unsynced directory entries. So no other file in this folder uses the file system,
 * and none relies on unsynced data.
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
  statSync,
  truncateSync,
  unlinkSync,
  writeSync,
  writevSync,
} from 'node:fs';
import { JournalError, type JournalErrorCode, systemErrorCode } from '../../../core/errors.js';

/** An open file. */
export interface DiskFile {
  /** Writes at byte `offset`. Returns the number of bytes written, which can be fewer than given. */
  write(bytes: Uint8Array, offset: number): number;
  /** As {@link DiskFile.write}, for several buffers one after the other. */
  writeAll(buffers: readonly Uint8Array[], offset: number): number;
  /** Reads at byte `offset`. Returns the number of bytes read, which is smaller than asked at the end of the file. */
  read(into: Uint8Array, offset: number): number;
  /** Makes the data of the file durable, and its size if that is needed to reach the data. */
  sync(): void;
  /** Size of the file in bytes. */
  size(): number;
  /** Whether `path` still leads to this file. */
  isAt(path: string): boolean;
  close(): void;
}

/** Files and directories by path. A new, renamed or removed entry is durable once its directory was synced. */
export interface Disk {
  /** Creates a file, which must not exist yet (`EEXIST`), and opens it for reading and writing. */
  create(path: string): DiskFile;
  /** Opens an existing file for reading (and syncing). */
  open(path: string): DiskFile;
  /** Opens an existing file for reading and writing. */
  openWritable(path: string): DiskFile;
  /** Creates a directory if it does not exist. Its parent must exist. */
  makeDirectory(path: string): void;
  /** Names in a directory, in no particular order; none if the directory does not exist. */
  list(path: string): string[];
  /** Renames atomically; replaces a file at `to`. */
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

  writeAll(buffers: readonly Uint8Array[], offset: number): number {
    return writevSync(this.#fd, buffers, offset);
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

  isAt(path: string): boolean {
    const there = statSync(path, { throwIfNoEntry: false });
    const { dev, ino } = fstatSync(this.#fd);
    return there?.dev === dev && there.ino === ino;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** The disk of the machine. */
export const systemDisk: Disk = {
  create: (path) => new SystemFile(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o640)),
  open: (path) => new SystemFile(openSync(path, constants.O_RDONLY)),
  openWritable: (path) => new SystemFile(openSync(path, constants.O_RDWR)),
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

/** Turns an error of the disk into a JournalError with `code`; returns any other error as it is. */
export function diskFailure(code: JournalErrorCode, what: string, error: unknown): unknown {
  const cause = systemErrorCode(error);
  if (cause === undefined || !(error instanceof Error)) return error;
  return new JournalError(code, `${what}: ${error.message}`, { cause: error });
}

/**
 * Runs `action`, and turns errors of the disk into JournalError `journal-unavailable`. It must not have kept a record.
 */
export function orUnavailable<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw diskFailure('journal-unavailable', what, error);
  }
}
