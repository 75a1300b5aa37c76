/**
 * Bytes set aside for a start on a full disk: a file of zeros beside a shard's streams, given up for what a takeover of a
 * stream must write before anything can be flushed, which is what frees the disk. Shard thread.
 *
 * It is a convenience: where it is missing, or others are quicker to take its room, the start waits for room instead.
 */
import { join } from 'node:path';
import { systemErrorCode } from '../../../core/errors.js';
import type { Disk } from './disk.js';
import { ShortWriteError, writeFully } from './segment-writer.js';

/** Twice the largest file of claims. */
const RESERVE_BYTES = 128 * 1024;

/** How soon it is tried again after the disk had no room for it. */
const RETRY_MS = 10_000;

/** The reserve of one shard. */
export class DiskReserve {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #name: string;
  #isHeld = false;
  /** When it may be made, monotonic ms. */
  #dueAt = Number.NEGATIVE_INFINITY;

  constructor(disk: Disk, directory: string, shard: number) {
    this.#disk = disk;
    this.#directory = directory;
    this.#name = `reserve-${shard}`;
  }

  /** Makes it where it is not there whole, as soon as there is a stream; what the disk refuses is tried again a while later. */
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
      this.#giveUp();
    }
  }

  /** Runs `action`, once more without the reserve where the disk is full. Throws as it does. */
  spend<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (!isDiskFull(error) || !this.#giveUp()) throw error;
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

  /** False where there was nothing to give up. */
  #giveUp(): boolean {
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

/** Whether an error of the disk says that there is no room; a full disk takes the part of a write for which it has some. */
export function isDiskFull(error: unknown): boolean {
  if (error instanceof ShortWriteError) return true;
  const code = systemErrorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}
