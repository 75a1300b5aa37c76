/**
 * The writable end of a stream: the active segment, its successors, and the older segments that are kept. Shard thread.
 *
 * A group is written into one segment. Its room is reserved before its first byte is written. A failure before that
 * (`journal-full`, `journal-unavailable`) has kept nothing. A failure after that is `journal-failed`, and the owner
 * closes the run.
 */
import assert from 'node:assert';
import { basename, dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { JournalError } from '../../../core/errors.js';
import type { Lsn } from '../../../core/checkpoint.js';
import { RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_OFFSET, writeUint64 } from '../../protocol/record-layout.js';
import { SEGMENT_HEADER_BYTES, type SegmentHeader, segmentName } from './segment-header.js';
import type { RecordBytes } from '../journal.js';
import { diskFailure } from './disk.js';
import { segmentBytesOf, type FileJournalOptions } from './file-journal-options.js';
import { KeptSegments, type KeptSegment } from './kept-segments.js';
import { ALLOCATION_BYTES_MAX, ALLOCATION_BYTES_MIN, SegmentWriter, STAGED_SUFFIX } from './segment-writer.js';

/** The segments of one stream, for writing. */
export class SegmentRun {
  readonly #options: FileJournalOptions;
  readonly #stream: string;
  /** The stream's own directory. */
  readonly #path: string;
  readonly #segmentBytes: number;
  readonly #kept: KeptSegments;
  #databaseId: string | undefined;
  #active: SegmentWriter | undefined;
  /** When this process learned that all records of the active segment are committed, monotonic ms. */
  #committedAt: number | undefined;
  /**
   * The next append must start a new segment: all of the active one is committed, or its header lacks the database id.
   */
  #rotationDue = false;
  /** Path of a staged segment that an attempt of this instance may have left. */
  #staged: string | undefined;
  #endLsn: Lsn = 0;
  #syncedLsn: Lsn = 0;

  /** A stream without segments. Its directory and first segment are created when room is first reserved. */
  constructor(options: FileJournalOptions, stream: string) {
    this.#options = options;
    this.#stream = stream;
    this.#path = join(options.directory, stream);
    this.#segmentBytes = segmentBytesOf(options);
    this.#kept = new KeptSegments(options.disk, this.#path, options.clock, options.keepSeconds * 1000);
    this.#databaseId = options.databaseId;
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get syncedLsn(): Lsn {
    return this.#syncedLsn;
  }

  /**
   * Bytes that count towards the limit: all bytes of the kept segments and the used bytes of the active one. The active
   * one counts as empty if it can be replaced at once, because all of it is committed and its keep time has passed.
   */
  get bytes(): number {
    return this.#kept.isOver(this.#committedAt) ? this.#kept.bytes + SEGMENT_HEADER_BYTES : this.#heldBytes;
  }

  /** Whether something could be removed if the checkpoint were seen once more. */
  get isPruneDue(): boolean {
    if (this.#kept.isRemovalDue) return true;
    return this.#kept.isDue(this.#committedAt) && !this.#kept.isOver(this.#committedAt);
  }

  get databaseId(): string | undefined {
    return this.#databaseId;
  }

  /** Sets the database id of the segments from the next append on. */
  set databaseId(id: string | undefined) {
    this.#databaseId = id;
    if (this.#active !== undefined && this.#active.header.databaseId !== id) this.#rotationDue = true;
  }

  /** Continues in `active`, which is durable up to `endLsn`, after the older segments `kept`. */
  continueIn(active: SegmentWriter, kept: readonly KeptSegment[], endLsn: Lsn): void {
    for (const segment of kept) this.#kept.add(segment);
    this.#active = active;
    this.#databaseId = active.header.databaseId;
    this.#endLsn = endLsn;
    this.#syncedLsn = endLsn;
  }

  /** Sets the end of a run that is only read. */
  endAt(endLsn: Lsn): void {
    this.#endLsn = endLsn;
    this.#syncedLsn = endLsn;
  }

  /**
   * Reserves room for a group of `bytes`. Throws JournalError: after `journal-full` and `journal-unavailable` the run
   * is as before, after `journal-failed` it must be closed.
   */
  reserve(bytes: number): void {
    const rotate = this.#needsSuccessor(bytes);
    const active = this.#active;
    try {
      if (active === undefined || rotate) {
        this.#rotate(bytes);
        return;
      }
      const room = this.#options.bytesMax - this.#heldBytes;
      const synced = active.reserve(bytes, Math.min(this.#segmentBytes, active.used + room));
      if (synced) this.#syncedLsn = this.#endLsn;
    } catch (error) {
      // The failed sync was for zeros, but it may also have lost records that `everysec` had not synced yet.
      const lost = active?.sealed === true && this.#syncedLsn < this.#endLsn;
      throw diskFailure(
        lost ? 'journal-failed' : 'journal-unavailable',
        `${this.#path} cannot take more records`,
        error,
      );
    }
  }

  /** Stamps a group of `bytes` and writes it into reserved room. Returns its last LSN. Throws `journal-failed`. */
  write(group: readonly RecordBytes[], bytes: number): Lsn {
    const active = this.#active;
    assert(active !== undefined, 'room is reserved before a group is written');
    this.#stamp(group);
    try {
      active.write(group, bytes);
    } catch (error) {
      throw diskFailure('journal-failed', `A write to ${active.path} failed`, error);
    }
    this.#endLsn += group.length;
    this.#committedAt = undefined;
    return this.#endLsn;
  }

  /** Makes all written records durable. Throws `journal-failed`. */
  sync(): void {
    const active = this.#active;
    if (active === undefined || this.#syncedLsn === this.#endLsn) return;
    try {
      active.sync();
    } catch (error) {
      throw diskFailure('journal-failed', `A sync of ${active.path} failed`, error);
    }
    this.#syncedLsn = this.#endLsn;
  }

  /** Notes that the checkpoint was seen at `upTo`, and removes segments whose keep time has passed. */
  see(upTo: Lsn): void {
    const now = this.#kept.see(upTo);
    const active = this.#active;
    if (active !== undefined && upTo >= this.#endLsn && active.used > SEGMENT_HEADER_BYTES) {
      this.#committedAt ??= now;
      // Otherwise a slow stream of records could keep a large segment because of its last record. If the segment would
      // have to be kept, it is continued instead, because a kept segment counts with its whole file.
      if (active.used > this.#segmentBytes / 4 && this.#kept.isOver(this.#committedAt)) this.#rotationDue = true;
    }
    this.#kept.removeDue();
  }

  /** Closes the files, without a sync. */
  close(): void {
    this.#active?.close();
    this.#active = undefined;
  }

  get #heldBytes(): number {
    return this.#kept.bytes + (this.#active?.used ?? 0);
  }

  /** Whether a group of `bytes` needs a new segment. Throws JournalError `journal-full`. */
  #needsSuccessor(bytes: number): boolean {
    const active = this.#active;
    // A group that is larger than a segment gets a segment of its own size.
    const fits =
      active !== undefined && (active.used + bytes <= this.#segmentBytes || active.used === SEGMENT_HEADER_BYTES);
    const rotate = !fits || active.sealed || this.#rotationDue;
    const needed = rotate ? bytes + SEGMENT_HEADER_BYTES : bytes;
    const { bytesMax } = this.#options;
    if (this.#heldBytes + needed <= bytesMax) return rotate;
    this.#kept.removeDue();
    if (this.#heldBytes + needed <= bytesMax) return rotate;
    // The whole active segment can be removed as soon as it has a successor.
    const afterRemoval = this.#kept.bytes + SEGMENT_HEADER_BYTES + bytes;
    if (this.#kept.isOver(this.#committedAt) && afterRemoval <= bytesMax) return true;
    const message = `${this.#path} is full: it holds ${this.#heldBytes} of at most ${bytesMax} bytes.`;
    throw new JournalError('journal-full', message, { cause: this.#kept.lastError });
  }

  /** Continues in a new segment. Throws the disk's errors, or `journal-failed`. */
  #rotate(bytes: number): void {
    const { disk, bytesMax } = this.#options;
    const old = this.#active;
    // The header of the successor says up to where this segment counts. That must be durable before the successor
    // exists.
    this.sync();
    if (old === undefined) this.#makeDirectories();
    const busy = old !== undefined && old.used > this.#segmentBytes / 2;
    const wanted = Math.min(busy ? ALLOCATION_BYTES_MAX : ALLOCATION_BYTES_MIN, this.#segmentBytes, bytesMax);
    this.#removeStaged();
    const successor = new SegmentWriter(
      disk,
      this.#path,
      this.#nextHeader(old),
      Math.max(wanted, SEGMENT_HEADER_BYTES + bytes),
    );
    // From here on the new segment may have its name. Records written to the old one would then be void.
    old?.seal();
    successor.publish();
    this.#staged = undefined;
    this.#active = successor;
    if (old !== undefined) {
      old.close();
      const kept = { path: old.path, lastLsn: this.#endLsn, bytes: old.allocated, committedAt: this.#committedAt };
      // With equal paths, the successor has replaced a segment without records.
      if (old.path !== successor.path) this.#kept.add(kept);
    }
    this.#committedAt = undefined;
    this.#rotationDue = false;
    this.#kept.removeDue();
  }

  #nextHeader(old: SegmentWriter | undefined): SegmentHeader {
    const { nodeId, shard, clock } = this.#options;
    const endLsn = this.#endLsn;
    // A successor that replaces a segment without records takes over its predecessor.
    const replaces = old?.header.firstLsn === endLsn + 1;
    return {
      stream: this.#stream,
      databaseId: this.#databaseId,
      nodeId,
      shard,
      firstLsn: endLsn + 1,
      predecessorLsn: replaces ? old.header.predecessorLsn : endLsn,
      syncedLsn: endLsn,
      createdAt: clock.now(),
    };
  }

  /** Removes the staged segment of a failed attempt of this instance. Creating a file of anyone else fails. */
  #removeStaged(): void {
    const { disk } = this.#options;
    const path = join(this.#path, segmentName(this.#endLsn + 1)) + STAGED_SUFFIX;
    if (this.#staged === path && disk.list(this.#path).includes(basename(path))) disk.remove(path);
    this.#staged = path;
  }

  /** Creates the directories of a new stream, each durable in its parent before there is a record. */
  #makeDirectories(): void {
    const { disk, directory } = this.#options;
    disk.makeDirectory(directory);
    disk.syncDirectory(dirname(directory));
    disk.makeDirectory(this.#path);
    disk.syncDirectory(directory);
  }

  /** Fills in LSN, synced LSN and CRC of each record. */
  #stamp(group: readonly RecordBytes[]): void {
    let lsn = this.#endLsn;
    for (const record of group) {
      const bytes = record.byteLength;
      assert(bytes >= RECORD_HEADER_BYTES && bytes <= RECORD_BYTES_MAX, 'a record is within its bounds');
      const view = new DataView(record.buffer, record.byteOffset, bytes);
      assert(view.getUint32(RECORD_OFFSET.bytes, true) === bytes, 'the header of a record holds its length');
      lsn += 1;
      writeUint64(view, RECORD_OFFSET.lsn, lsn);
      writeUint64(view, RECORD_OFFSET.syncedLsn, this.#syncedLsn);
      view.setUint32(RECORD_OFFSET.crc, crc32(record.subarray(RECORD_OFFSET.lsn)), true);
    }
  }
}
