/**
 * Reads the records of a segment in order, in bounded memory, and reports why they end. Shard thread and command.
 */
import { crc32 } from 'node:zlib';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { readUint64, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_OFFSET } from '../../protocol/record-layout.js';
import { SEGMENT_HEADER_BYTES } from './segment-header.js';
import type { DiskFile } from './disk.js';

/** Bytes read at a time. The buffer grows for a larger record. */
const CHUNK_BYTES = 1024 * 1024;

/**
 * Where and why the records end.
 *
 * - `limit`: the last LSN asked for was read.
 * - `zeros`: only zeros follow. The segment is intact.
 * - `end-of-file`: nothing follows. The segment is intact.
 * - `bad`: the following bytes are not the next record.
 */
export interface RecordsEnd {
  readonly reason: 'limit' | 'zeros' | 'end-of-file' | 'bad';
  readonly offset: number;
  /** Last LSN read, or the one before the first of the segment. */
  readonly lsn: Lsn;
}

/** A cursor over the records of one segment. */
export class RecordReader {
  readonly #file: DiskFile;
  readonly #fileBytes: number;
  readonly #limit: Lsn;
  #lsn: Lsn;
  #buffer: Uint8Array<ArrayBuffer>;
  #view: DataView;
  /** Offset in the file at which the buffer starts, and bytes in the buffer. */
  #bufferAt: number;
  #buffered = 0;
  #offset: number;
  #recordBytes = 0;
  #end: RecordsEnd | undefined;

  /** Reads the records from `firstLsn`, which is at byte `offset`, to `limit` at most. The caller closes the file. */
  constructor(file: DiskFile, firstLsn: Lsn, limit: Lsn, offset = SEGMENT_HEADER_BYTES) {
    this.#file = file;
    this.#fileBytes = file.size();
    this.#limit = limit;
    this.#lsn = firstLsn - 1;
    this.#offset = offset;
    this.#bufferAt = offset;
    this.#buffer = new Uint8Array(Math.max(RECORD_HEADER_BYTES, Math.min(CHUNK_BYTES, this.#fileBytes)));
    this.#view = new DataView(this.#buffer.buffer);
  }

  /** LSN of the current record. */
  get lsn(): Lsn {
    return this.#lsn;
  }

  /** Offset of the current record in the file. */
  get offset(): number {
    return this.#offset;
  }

  /** The current record with its header. Valid until the next step. */
  get record(): Uint8Array {
    const start = this.#offset - this.#bufferAt;
    return this.#buffer.subarray(start, start + this.#recordBytes);
  }

  /** When the current record was accepted, ms since 1970. */
  get acceptedAt(): number {
    return readUint64(this.#view, this.#offset - this.#bufferAt + RECORD_OFFSET.acceptedAt);
  }

  /** The time of the database that the current record carries. */
  get databaseTime(): DatabaseTime {
    return this.#view.getUint32(this.#offset - this.#bufferAt + RECORD_OFFSET.databaseTime, true);
  }

  /** Up to where the stream was durable when the current record was written. */
  get syncedLsn(): Lsn {
    return readUint64(this.#view, this.#offset - this.#bufferAt + RECORD_OFFSET.syncedLsn);
  }

  /** Why the records end; undefined until {@link RecordReader.next} has returned false. */
  get end(): RecordsEnd | undefined {
    return this.#end;
  }

  /** Steps to the next record. False if there is none; `end` tells why. */
  next(): boolean {
    if (this.#end !== undefined) return false;
    this.#offset += this.#recordBytes;
    this.#recordBytes = 0;
    if (this.#lsn >= this.#limit) return this.#finish('limit');
    const rest = this.#fileBytes - this.#offset;
    if (rest === 0) return this.#finish('end-of-file');
    if (rest < RECORD_HEADER_BYTES || !this.#load(RECORD_HEADER_BYTES)) return this.#finishAtRest();
    const at = this.#offset - this.#bufferAt;
    const bytes = this.#view.getUint32(at + RECORD_OFFSET.bytes, true);
    const lsn = readUint64(this.#view, at + RECORD_OFFSET.lsn);
    if (bytes < RECORD_HEADER_BYTES || bytes > RECORD_BYTES_MAX || bytes > rest || lsn !== this.#lsn + 1) {
      return this.#finishAtRest();
    }
    if (!this.#load(bytes)) return this.#finish('bad');
    const start = this.#offset - this.#bufferAt;
    const crc = this.#view.getUint32(start + RECORD_OFFSET.crc, true);
    if (crc !== crc32(this.#buffer.subarray(start + RECORD_OFFSET.lsn, start + bytes))) return this.#finish('bad');
    this.#recordBytes = bytes;
    this.#lsn = lsn;
    return true;
  }

  #finish(reason: RecordsEnd['reason']): false {
    this.#end = { reason, offset: this.#offset, lsn: this.#lsn };
    return false;
  }

  #finishAtRest(): false {
    return this.#finish(onlyZeros(this.#file, this.#offset, this.#fileBytes) ? 'zeros' : 'bad');
  }

  /** Reads until the buffer has `bytes` from the current offset on. False if the file is shorter than its size said. */
  #load(bytes: number): boolean {
    if (this.#offset + bytes <= this.#bufferAt + this.#buffered) return true;
    const held = this.#buffer.subarray(this.#offset - this.#bufferAt, this.#buffered);
    if (bytes > this.#buffer.byteLength) {
      const larger = new Uint8Array(bytes);
      larger.set(held);
      this.#buffer = larger;
      this.#view = new DataView(larger.buffer);
    } else {
      this.#buffer.copyWithin(0, this.#offset - this.#bufferAt, this.#buffered);
    }
    this.#bufferAt = this.#offset;
    this.#buffered = held.byteLength;
    this.#buffered += readFully(this.#file, this.#buffer.subarray(this.#buffered), this.#bufferAt + this.#buffered);
    return this.#buffered >= bytes;
  }
}

/** Reads until `into` is full or the file ends. Returns the number of bytes read. */
export function readFully(file: DiskFile, into: Uint8Array, offset: number): number {
  let read = 0;
  while (read < into.byteLength) {
    const more = file.read(into.subarray(read), offset + read);
    if (more === 0) break;
    read += more;
  }
  return read;
}

/** Whether the file holds only zeros from `offset` to `end`. */
function onlyZeros(file: DiskFile, offset: number, end: number): boolean {
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, end - offset));
  const zeros = new Uint8Array(chunk.byteLength);
  for (let at = offset; at < end; at += chunk.byteLength) {
    const bytes = readFully(file, chunk, at);
    if (Buffer.compare(chunk.subarray(0, bytes), zeros.subarray(0, bytes)) !== 0) return false;
    if (bytes < chunk.byteLength) break;
  }
  return true;
}

/** An intact record behind damage. */
export interface LaterRecord {
  readonly offset: number;
  readonly lsn: Lsn;
  readonly syncedLsn: Lsn;
}

/**
 * Searches every byte position behind `offset` for an intact record with an LSN above `lsn` that was written when the
 * stream was synced up to at least `syncedFrom`. A cheap test finds possible headers; the checksum decides. Keys have no zero
 * bytes and LSNs do, so a key cannot look like a record.
 */
export function findLaterRecord(file: DiskFile, offset: number, lsn: Lsn, syncedFrom: Lsn): LaterRecord | undefined {
  const fileBytes = file.size();
  const chunk = new Uint8Array(CHUNK_BYTES);
  const view = new DataView(chunk.buffer);
  // The rest of the file has room for this many records at most.
  const lsnMax = lsn + Math.ceil((fileBytes - offset) / RECORD_HEADER_BYTES);
  for (let chunkAt = offset + 1; chunkAt <= fileBytes - RECORD_HEADER_BYTES;) {
    const bytes = readFully(file, chunk, chunkAt);
    const last = bytes - RECORD_HEADER_BYTES;
    for (let at = 0; at <= last; at += 1) {
      // The highest bytes of length, LSN and synced LSN. This rejects most positions.
      if ((chunk[at + 3] ?? 0) > 4 || chunk[at + 15] !== 0 || chunk[at + 23] !== 0) continue;
      const recordBytes = view.getUint32(at, true);
      if (recordBytes < RECORD_HEADER_BYTES || recordBytes > Math.min(RECORD_BYTES_MAX, fileBytes - chunkAt - at))
        continue;
      const found = readUint64(view, at + RECORD_OFFSET.lsn);
      const syncedLsn = readUint64(view, at + RECORD_OFFSET.syncedLsn);
      if (found <= lsn || found > lsnMax || syncedLsn < syncedFrom || syncedLsn >= found) continue;
      if (hasChecksum(file, chunkAt + at, recordBytes)) return { offset: chunkAt + at, lsn: found, syncedLsn };
    }
    if (last < 0) return undefined;
    chunkAt += last + 1;
  }
  return undefined;
}

function hasChecksum(file: DiskFile, offset: number, recordBytes: number): boolean {
  const record = new Uint8Array(recordBytes);
  if (readFully(file, record, offset) < recordBytes) return false;
  const crc = new DataView(record.buffer).getUint32(RECORD_OFFSET.crc, true);
  return crc === crc32(record.subarray(RECORD_OFFSET.lsn));
}
