/**
 * A file's bytes in a simulated page cache and on a simulated platter. Segments are filled with zeros ahead, so pages
 * of zeros take no memory and a sync shares pages instead of copying them.
 */
import { crc32 } from 'node:zlib';
import { readUint64, RECORD_HEADER_BYTES, RECORD_OFFSET } from '#product/shard-worker/protocol/record-layout.js';
import { SEGMENT_HEADER_BYTES } from '#product/shard-worker/journal/file/segment-header.js';
import type { Mulberry32 } from '../support/mulberry32.js';

const PAGE_BYTES = 4096;
const SECTOR_BYTES = 512;
const ZEROS = new Uint8Array(PAGE_BYTES);

type Page = Uint8Array | undefined;

/** What a loss of power leaves of unsynced data. */
export type Remains = 'nothing' | 'everything' | 'prefix' | 'subset';

export class StoredFile {
  size = 0;
  #pages: Page[] = [];
  #durablePages: Page[] = [];
  #durableSize = 0;
  readonly #dirty = new Set<number>();
  /** Highest LSN written as a record, and the part covered by a sync: observed here, not taken from the journal. */
  writtenLsn = 0;
  /** A sync failed: the system considers unwritten data clean, so a later sync proves nothing until all is written again. */
  #syncHasFailed = false;
  syncedLsn = 0;
  /** From the segment's header, once written: last valid LSN of the predecessor. */
  predecessorLsn: number | undefined;

  clone(): StoredFile {
    const copy = new StoredFile();
    copy.size = this.size;
    copy.#pages = this.#pages.map((page) => page?.slice());
    copy.#durablePages = [...copy.#pages];
    copy.#durableSize = this.size;
    copy.writtenLsn = this.writtenLsn;
    copy.syncedLsn = this.writtenLsn;
    copy.predecessorLsn = this.predecessorLsn;
    return copy;
  }

  write(bytes: Uint8Array, offset: number): void {
    let from = 0;
    while (from < bytes.byteLength) {
      const at = offset + from;
      const page = Math.floor(at / PAGE_BYTES);
      const start = at % PAGE_BYTES;
      const length = Math.min(PAGE_BYTES - start, bytes.byteLength - from);
      this.#writePage(page, start, bytes.subarray(from, from + length));
      from += length;
    }
    this.size = Math.max(this.size, offset + bytes.byteLength);
    this.#notice(bytes, offset);
  }

  read(into: Uint8Array, offset: number): number {
    const length = Math.max(0, Math.min(into.byteLength, this.size - offset));
    let done = 0;
    while (done < length) {
      const start = (offset + done) % PAGE_BYTES;
      const part = Math.min(PAGE_BYTES - start, length - done);
      const page = this.#pages[Math.floor((offset + done) / PAGE_BYTES)];
      if (page === undefined) into.fill(0, done, done + part);
      else into.set(page.subarray(start, start + part), done);
      done += part;
    }
    return length;
  }

  sync(): void {
    for (const page of this.#dirty) this.#durablePages[page] = this.#pages[page];
    this.#dirty.clear();
    this.#durableSize = this.size;
    this.syncedLsn = this.#syncHasFailed ? this.#lastDurableRecord() : this.writtenLsn;
    if (this.syncedLsn === this.writtenLsn) this.#syncHasFailed = false;
  }

  /**
   * A failed sync: a part may have been written, and the system considers all of it clean from now on. With `isDropped` it
   * reads from the platter what it needs again.
   */
  syncFailed(random: Mulberry32, isDropped: boolean): void {
    this.#syncHasFailed = true;
    this.#persist('subset', random);
    if (!isDropped) return;
    this.#pages = [...this.#durablePages];
    this.size = this.#durableSize;
    this.writtenLsn = this.#lastWholeRecord();
  }

  truncate(bytes: number): void {
    this.size = Math.min(this.size, bytes);
    this.#durableSize = Math.min(this.#durableSize, bytes);
  }

  losePower(remains: Remains, random: Mulberry32): void {
    this.#persist(remains, random);
    const wasDirty = this.writtenLsn > this.syncedLsn;
    this.#pages = [...this.#durablePages];
    this.size = this.#durableSize;
    this.#syncHasFailed = false;
    if (wasDirty) this.writtenLsn = this.#lastWholeRecord();
    this.syncedLsn = this.writtenLsn;
  }

  #writePage(page: number, start: number, bytes: Uint8Array): void {
    if (bytes.byteLength === PAGE_BYTES && Buffer.compare(bytes, ZEROS) === 0) {
      this.#pages[page] = undefined;
    } else {
      let own = this.#pages[page];
      if (own === undefined) own = new Uint8Array(PAGE_BYTES);
      else if (!this.#dirty.has(page)) own = own.slice();
      own.set(bytes, start);
      this.#pages[page] = own;
    }
    this.#dirty.add(page);
  }

  /** Writes a random part of the dirty sectors to the platter. */
  #persist(remains: Remains, random: Mulberry32): void {
    if (remains === 'everything') {
      for (const page of this.#dirty) this.#durablePages[page] = this.#pages[page];
      this.#durableSize = this.size;
    } else if (remains !== 'nothing') {
      let end = this.#durableSize;
      const pages = [...this.#dirty].sort((a, b) => a - b);
      const cut = remains === 'prefix' ? random.below(pages.length * 8 + 1) : 0;
      for (const [index, page] of pages.entries()) {
        const survives = (sector: number): boolean =>
          remains === 'prefix' ? index * 8 + sector < cut : random.below(2) === 0;
        end = Math.max(end, this.#persistPage(page, survives));
      }
      this.#durableSize = Math.min(this.size, end);
    }
    this.#dirty.clear();
  }

  #persistPage(page: number, survives: (sector: number) => boolean): number {
    const current = this.#pages[page] ?? ZEROS;
    const merged = this.#durablePages[page]?.slice() ?? new Uint8Array(PAGE_BYTES);
    let end = 0;
    for (let sector = 0; sector < PAGE_BYTES / SECTOR_BYTES; sector += 1) {
      if (!survives(sector)) continue;
      const from = sector * SECTOR_BYTES;
      merged.set(current.subarray(from, from + SECTOR_BYTES), from);
      end = page * PAGE_BYTES + from + SECTOR_BYTES;
    }
    this.#durablePages[page] = merged;
    return end;
  }

  /** LSN of the last record in the unbroken run of whole records from the segment's beginning. */
  #lastWholeRecord(): number {
    let lsn = 0;
    for (const record of this.#records(this.#pages, this.size)) lsn = Number(record.readBigUInt64LE(RECORD_OFFSET.lsn));
    return Math.max(lsn, this.syncedLsn);
  }

  /** The same on the platter. */
  #lastDurableRecord(): number {
    let lsn = this.syncedLsn;
    for (const record of this.#records(this.#durablePages, this.#durableSize)) {
      lsn = Math.max(lsn, Number(record.readBigUInt64LE(RECORD_OFFSET.lsn)));
    }
    return lsn;
  }

  /** The unbroken run of whole records from the segment's beginning. */
  *#records(pages: readonly Page[], size: number): Generator<Buffer> {
    const bytes = Buffer.alloc(size);
    for (const [index, page] of pages.slice(0, Math.ceil(size / PAGE_BYTES)).entries())
      bytes.set((page ?? ZEROS).subarray(0, size - index * PAGE_BYTES), index * PAGE_BYTES);
    for (let at = SEGMENT_HEADER_BYTES; at + RECORD_HEADER_BYTES <= bytes.length;) {
      const length = bytes.readUInt32LE(at + RECORD_OFFSET.bytes);
      if (length < RECORD_HEADER_BYTES || at + length > bytes.length) break;
      const record = bytes.subarray(at, at + length);
      if (record.readUInt32LE(RECORD_OFFSET.crc) !== crc32(record.subarray(RECORD_OFFSET.lsn))) break;
      yield record;
      at += length;
    }
  }

  #notice(bytes: Uint8Array, offset: number): void {
    if (bytes.byteLength < RECORD_HEADER_BYTES) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (offset === 0) {
      if (bytes.byteLength === SEGMENT_HEADER_BYTES) this.predecessorLsn = readUint64(view, 80);
      return;
    }
    for (let at = 0; at + RECORD_HEADER_BYTES <= bytes.byteLength;) {
      const length = view.getUint32(at + RECORD_OFFSET.bytes, true);
      if (length < RECORD_HEADER_BYTES || at + length > bytes.byteLength) return;
      this.writtenLsn = Math.max(this.writtenLsn, readUint64(view, at + RECORD_OFFSET.lsn));
      at += length;
    }
  }
}
