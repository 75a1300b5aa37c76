/**
 * A disk that reports how long each sync of a file takes. Shard thread.
 */
import type { Disk, DiskFile } from './disk.js';

class TimedFile implements DiskFile {
  readonly #file: DiskFile;
  readonly #noticeSync: (ms: number) => void;

  constructor(file: DiskFile, noticeSync: (ms: number) => void) {
    this.#file = file;
    this.#noticeSync = noticeSync;
  }

  write(bytes: Uint8Array, offset: number): number {
    return this.#file.write(bytes, offset);
  }

  writeAll(buffers: readonly Uint8Array[], offset: number): number {
    return this.#file.writeAll(buffers, offset);
  }

  read(into: Uint8Array, offset: number): number {
    return this.#file.read(into, offset);
  }

  sync(): void {
    const startedAtMs = performance.now();
    this.#file.sync();
    this.#noticeSync(performance.now() - startedAtMs);
  }

  size(): number {
    return this.#file.size();
  }

  isAt(path: string): boolean {
    return this.#file.isAt(path);
  }

  close(): void {
    this.#file.close();
  }
}

/** `disk`, with a call of `noticeSync` after each sync of a file that succeeded. */
export function timedDisk(disk: Disk, noticeSync: (ms: number) => void): Disk {
  return {
    ...disk,
    create: (path) => new TimedFile(disk.create(path), noticeSync),
    open: (path) => new TimedFile(disk.open(path), noticeSync),
    openWritable: (path) => new TimedFile(disk.openWritable(path), noticeSync),
  };
}
