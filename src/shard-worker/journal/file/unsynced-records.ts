/**
 * A copy of the written and unsynced records, for `everysec`. Shard thread.
 *
 * After a failed sync the system may have dropped them, and reports the next sync as a success. So this copy is written to a
 * new segment. A segment is synced before its successor takes records, so the copy is at most as large as a segment, or as one
 * larger group.
 */
import { RECORD_OFFSET } from '../../protocol/record-layout.js';
import type { RecordBytes } from '../journal.js';
import type { DiskFile } from './disk.js';
import { SEGMENT_HEADER_BYTES } from './segment-header.js';
import { writeFully } from './segment-writer.js';

const BUFFER_BYTES_MIN = 64 * 1024;
/** A larger buffer is released after each sync. */
const BUFFER_BYTES_KEPT = 1024 * 1024;

/** The records since the last sync. */
export class UnsyncedRecords {
  #buffer = new Uint8Array(0);
  #bytes = 0;
  #increments = 0;

  /** Bytes of all records. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Increments of all records. */
  get increments(): number {
    return this.#increments;
  }

  /** Adds a group of `bytes` as it was written. */
  add(group: readonly RecordBytes[], bytes: number): void {
    if (this.#bytes + bytes > this.#buffer.byteLength) {
      const larger = new Uint8Array(Math.max(BUFFER_BYTES_MIN, 2 * this.#buffer.byteLength, this.#bytes + bytes));
      larger.set(this.#buffer.subarray(0, this.#bytes));
      this.#buffer = larger;
    }
    for (const record of group) {
      this.#buffer.set(record, this.#bytes);
      this.#bytes += record.byteLength;
      const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
      this.#increments += view.getUint32(RECORD_OFFSET.increments, true);
    }
  }

  /** Writes all records behind the header of a segment. Returns the offset at their end. */
  writeTo(file: DiskFile): number {
    if (this.#bytes > 0) writeFully(file, this.#buffer.subarray(0, this.#bytes), SEGMENT_HEADER_BYTES);
    return SEGMENT_HEADER_BYTES + this.#bytes;
  }

  /** Forgets all records, because they are synced. */
  clear(): void {
    this.#bytes = 0;
    this.#increments = 0;
    if (this.#buffer.byteLength > BUFFER_BYTES_KEPT) this.#buffer = new Uint8Array(0);
  }
}
