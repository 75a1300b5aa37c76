/**
 * The segment that takes records: created under a temporary name, filled with zeros ahead, written in order. Shard
 * thread.
 *
 * Zeros are written and synced before records replace them, for two reasons. A later sync writes only data, and no new
 * size or extents, which makes it about twice as fast. And a full disk is found before any byte of a group is written.
 *
 * States: staged (under its temporary name, no records) → published → sealed. A sealed segment is never written or
 * synced again. Either its successor has started, or a sync of it failed; then the system may have dropped the data, and
 * would report the next sync as a success.
 */
import { join } from 'node:path';
import { systemErrorCode } from '../../../core/errors.js';
import type { Disk, DiskFile } from './disk.js';
import type { RecordBytes } from '../journal.js';
import { encodeSegmentHeader, SEGMENT_HEADER_BYTES, segmentName, type SegmentHeader } from './segment-header.js';

/** Bytes of a new segment of a quiet stream, and of the smallest step. */
export const ALLOCATION_BYTES_MIN = 256 * 1024;
/** Bytes of the largest step. Limits how long one append waits for zeros. */
export const ALLOCATION_BYTES_MAX = 4 * 1024 * 1024;

/** Groups up to this size are copied together and written with one plain write, larger ones as a list of buffers. */
const COPY_BYTES_MAX = 256 * 1024;

const zeros = new Uint8Array(1024 * 1024);
/** Shared by the journals of a thread, because it is filled and written within one call. */
const scratch = new Uint8Array(COPY_BYTES_MAX);

/** Suffix of a file that is being created. Nothing in such a file has been acknowledged. */
export const STAGED_SUFFIX = '.new';

/** A write took fewer bytes than given. On a regular file that is a failure for which the system gives no code. */
export class ShortWriteError extends Error {
  override readonly name = 'ShortWriteError';
  readonly code = 'EIO';
}

/** The segment of a stream that can be written. */
export class SegmentWriter {
  readonly header: SegmentHeader;
  /** The final path. */
  readonly path: string;
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #file: DiskFile;
  #used: number;
  #allocated: number;
  #sealed = false;

  /**
   * Stages a segment under a temporary name: the header, then what `copy` writes (it returns the offset at its end),
   * then zeros up to `allocateBytes`, all synced. Throws the disk's errors, and removes the file first if it can.
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
   * Gives the staged segment its final name durably; replaces a segment of the same name. Throws the disk's errors and
   * closes the file; then the segment may have its name or not, and must be staged again.
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
   * Makes room for `bytes`, filled with zeros and synced, in a file of at most `bytesMax`. Returns whether it synced,
   * which made all written records durable. Throws the disk's errors: nothing was kept. If the sync failed, the segment
   * is sealed.
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

  /**
   * Writes records of `bytes` in total into reserved room. Throws the disk's errors; then the content is unknown.
   */
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

  /** False where the file was removed or replaced since it was opened, so that nobody will find its records. */
  get isInPlace(): boolean {
    return this.#file.isAt(this.path);
  }

  /** Makes all written records durable. Throws the disk's errors; the segment is sealed then. */
  sync(): void {
    try {
      this.#file.sync();
    } catch (error) {
      this.#sealed = true;
      throw error;
    }
  }

  /** Ends all writes and syncs. */
  seal(): void {
    this.#sealed = true;
  }

  /** Closes the file, without a sync. Ignores errors of the close itself. */
  close(): void {
    this.#sealed = true;
    try {
      this.#file.close();
    } catch (error) {
      // All records that count were synced, or their sync has already failed.
      if (systemErrorCode(error) === undefined) throw error;
    }
  }

  /** Closes and removes a segment that could not be staged or published. Throws no system error. */
  #discard(): void {
    this.close();
    try {
      this.#disk.remove(this.path + STAGED_SUFFIX);
    } catch (error) {
      // It has its final name already, or it cannot be removed. The next attempt or recovery removes it.
      if (systemErrorCode(error) === undefined) throw error;
    }
  }
}

/** Writes all of `bytes` at `offset`, or throws. */
export function writeFully(file: DiskFile, bytes: Uint8Array, offset: number): void {
  requireAll(file.write(bytes, offset), bytes.byteLength);
}

function requireAll(written: number, asked: number): void {
  if (written !== asked) throw new ShortWriteError(`The disk took only ${written} of ${asked} bytes.`);
}

function fillWithZeros(file: DiskFile, from: number, to: number): void {
  for (let at = from; at < to; at += zeros.byteLength) {
    writeFully(file, to - at < zeros.byteLength ? zeros.subarray(0, to - at) : zeros, at);
  }
}
