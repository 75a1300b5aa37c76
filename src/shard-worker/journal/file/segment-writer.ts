/**
 * The segment that takes records: made whole under another name, zero-filled ahead, written in order. Shard thread.
 *
 * Zeros are written and synced before records go over them, for two reasons. A sync then has only data to write and no
 * new size or extents, which makes it about twice as fast. And a full disk is met here, where nothing of a group has
 * been kept yet, and not in the middle of a record.
 *
 * States: staged (under its temporary name, no records) → published → sealed. A sealed segment is never written or
 * synced again: either its successor has begun, or a sync of it failed, after which the system may have dropped the data
 * and would report the next sync as a success.
 */
import { join } from 'node:path';
import { systemErrorCode } from '../../../core/errors.js';
import type { Disk, DiskFile } from './disk.js';
import type { RecordBytes } from '../journal.js';
import { encodeSegmentHeader, SEGMENT_HEADER_BYTES, segmentName, type SegmentHeader } from './segment-header.js';

/** Bytes that a new segment of a quiet stream is filled to, and the smallest step. */
export const ALLOCATION_BYTES_MIN = 256 * 1024;
/** The largest step: bounds how long one append waits for zeros. */
export const ALLOCATION_BYTES_MAX = 4 * 1024 * 1024;

/** Groups up to this are copied together and written in one plain write, beyond it as a list of buffers. */
const COPY_BYTES_MAX = 256 * 1024;

const zeros = new Uint8Array(1024 * 1024);
/** Shared by the journals of a thread: it is filled and written within one call. */
const scratch = new Uint8Array(COPY_BYTES_MAX);

/** Suffix of a segment that is being made: nothing in such a file has been acknowledged. */
export const STAGED_SUFFIX = '.new';

/** A write that took fewer bytes than given: on a regular file that is a failure that the system has not named. */
export class ShortWriteError extends Error {
  override readonly name = 'ShortWriteError';
  readonly code = 'EIO';
}

/** The one segment of a stream that can be written. */
export class SegmentWriter {
  readonly header: SegmentHeader;
  /** Final path. */
  readonly path: string;
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #file: DiskFile;
  #used: number;
  #allocated: number;
  #sealed = false;

  /**
   * Stages a segment: header, what `copy` writes behind it (it returns the offset of its end), zeros up to
   * `allocateBytes`, all synced, under a temporary name. Throws the disk's errors, having removed what it made if it can.
   */
  constructor(
    disk: Disk,
    directory: string,
    header: SegmentHeader,
    allocateBytes: number,
    copy: (file: DiskFile) => number = () => SEGMENT_HEADER_BYTES,
  ) {
    this.#disk = disk;
    this.#directory = directory;
    this.header = header;
    this.path = join(directory, segmentName(header.firstLsn));
    this.#file = disk.create(this.path + STAGED_SUFFIX);
    try {
      writeFully(this.#file, encodeSegmentHeader(header), 0);
      this.#used = copy(this.#file);
      this.#allocated = Math.max(allocateBytes, this.#used);
      fillWithZeros(this.#file, this.#used, this.#allocated);
      this.#file.sync();
    } catch (error) {
      this.#discard();
      throw error;
    }
  }

  /** Offset of the next record, in bytes. */
  get used(): number {
    return this.#used;
  }

  /** Bytes of the file. */
  get allocated(): number {
    return this.#allocated;
  }

  get sealed(): boolean {
    return this.#sealed;
  }

  /**
   * Gives the staged segment its name, replacing a segment of the same name, and makes that durable. Throws the disk's
   * errors, having closed the file; the segment may then have its name or not, and must be staged anew.
   */
  publish(): void {
    try {
      this.#disk.rename(this.path + STAGED_SUFFIX, this.path);
      this.#disk.syncDirectory(this.#directory);
    } catch (error) {
      this.#discard();
      throw error;
    }
  }

  /**
   * Makes room for `bytes`, zero-filled and synced; `bytesMax` bounds the file. Returns whether that took a sync, which
   * then covers all that was written. Throws the disk's errors: nothing was kept. If the sync failed, the segment is
   * sealed.
   */
  reserve(bytes: number, bytesMax: number): boolean {
    const needed = this.#used + bytes;
    if (needed <= this.#allocated) return false;
    const step = Math.min(Math.max(this.#allocated, ALLOCATION_BYTES_MIN), ALLOCATION_BYTES_MAX);
    const target = Math.max(needed, Math.min(this.#allocated + step, bytesMax));
    fillWithZeros(this.#file, this.#allocated, target);
    try {
      this.#file.sync();
    } catch (error) {
      this.#sealed = true;
      throw error;
    }
    this.#allocated = target;
    return true;
  }

  /** Writes the records, `bytes` in all, into room that was reserved. Throws: it is unknown what was written. */
  write(records: readonly RecordBytes[], bytes: number): void {
    const [first] = records;
    if (records.length === 1 && first !== undefined) {
      requireAll(this.#file.write(first, this.#used), bytes);
    } else if (bytes <= COPY_BYTES_MAX) {
      let at = 0;
      for (const record of records) {
        scratch.set(record, at);
        at += record.byteLength;
      }
      requireAll(this.#file.write(scratch.subarray(0, bytes), this.#used), bytes);
    } else {
      requireAll(this.#file.writeAll(records, this.#used), bytes);
    }
    this.#used += bytes;
  }

  /** Makes what was written durable. Throws the disk's errors; the segment is sealed then. */
  sync(): void {
    try {
      this.#file.sync();
    } catch (error) {
      this.#sealed = true;
      throw error;
    }
  }

  /** No more writes or syncs. */
  seal(): void {
    this.#sealed = true;
  }

  /** Lets go of the file, without a sync. An error of the close itself has nothing left to say and is dropped. */
  close(): void {
    this.#sealed = true;
    try {
      this.#file.close();
    } catch (error) {
      // Everything that counts was synced, or its sync has already failed.
      if (systemErrorCode(error) === undefined) throw error;
    }
  }

  /** Closes and removes what could not be staged or published. Never throws a system error. */
  #discard(): void {
    this.close();
    try {
      this.#disk.remove(this.path + STAGED_SUFFIX);
    } catch (error) {
      // It has its name already, or it cannot be removed; the next attempt or recovery removes it.
      if (systemErrorCode(error) === undefined) throw error;
    }
  }
}

/** Writes all of `bytes` at `offset`, or throws. */
export function writeFully(file: DiskFile, bytes: Uint8Array, offset: number): void {
  requireAll(file.write(bytes, offset), bytes.byteLength);
}

function requireAll(written: number, asked: number): void {
  if (written !== asked) throw new ShortWriteError(`The disk took ${written} of ${asked} bytes.`);
}

function fillWithZeros(file: DiskFile, from: number, to: number): void {
  for (let at = from; at < to; at += zeros.byteLength) {
    writeFully(file, to - at < zeros.byteLength ? zeros.subarray(0, to - at) : zeros, at);
  }
}
