/**
 * A reserve for a start on a full disk: a file of zeros beside the streams of a shard. Shard thread.
 *
 * A takeover of a stream must write before it can flush, and only flushes free the disk. So it removes the reserve to get
 * room. Without a reserve, or if another process takes the room first, the start waits.
 */
import { join } from 'node:path';
import { systemErrorCode } from '../../../core/errors.js';
import type { Disk } from './disk.js';
import { ShortWriteError, writeFully } from './segment-writer.js';

/** Twice the largest file of ownership claims. */
const RESERVE_BYTES = 128 * 1024;

/** Wait between attempts to write the reserve. */
const RETRY_MS = 10_000;

/** The reserve of one shard. */
export class DiskReserve {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #name: string;
  #isHeld = false;
  /** When the reserve may be written, monotonic ms. */
  #dueAt = Number.NEGATIVE_INFINITY;

  constructor(disk: Disk, directory: string, shard: number) {
    this.#disk = disk;
    this.#directory = directory;
    this.#name = `reserve-${shard}`;
  }

  /** Writes the reserve if it is missing or short and there is a stream. Tries again later if the disk refuses. */
  tend(nowMs: number): void {
    if (this.#isHeld || nowMs < this.#dueAt) return;
    const path = join(this.#directory, this.#name);
    try {
      const names = this.#disk.list(this.#directory);
      if (names.length === 0) return;
      this.#dueAt = nowMs + RETRY_MS;
      if (names.includes(this.#name) && this.#sizeOf(path) < RESERVE_BYTES) this.#disk.remove(path);
      if (!this.#disk.list(this.#directory).includes(this.#name)) this.#write(path);
      this.#isHeld = true;
    } catch (error) {
      if (systemErrorCode(error) === undefined) throw error;
      this.#release();
    }
  }

  /** Runs `action`. If the disk is full, removes the reserve and runs `action` again. Throws as `action` does. */
  spend<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (!isDiskFull(error) || !this.#release()) throw error;
      return action();
    }
  }

  #sizeOf(path: string): number {
    const file = this.#disk.open(path);
    try {
      return file.size();
    } finally {
      file.close();
    }
  }

  #write(path: string): void {
    const file = this.#disk.create(path);
    try {
      writeFully(file, new Uint8Array(RESERVE_BYTES), 0);
      file.sync();
    } finally {
      file.close();
    }
  }

  /** Removes the reserve; false if there was none. */
  #release(): boolean {
    this.#isHeld = false;
    try {
      this.#disk.remove(join(this.#directory, this.#name));
      return true;
    } catch (error) {
      if (systemErrorCode(error) === undefined) throw error;
      return false;
    }
  }
}

/** Whether an error of the disk means that it is full. A nearly full disk accepts only a part of a write. */
export function isDiskFull(error: unknown): boolean {
  if (error instanceof ShortWriteError) return true;
  const code = systemErrorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}
