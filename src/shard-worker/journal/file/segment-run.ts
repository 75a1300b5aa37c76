/**
 * The writable end of a stream: the active segment, its successors, and the segments kept behind it. Shard thread.
 *
 * A group goes into one segment whole, and all of its room is there before the first byte is written: whatever is refused
 * before that (`journal-full`, `journal-unavailable`) has left nothing behind. What fails after that is `journal-failed`,
 * and the owner lets go.
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

/** The segments of one stream, as their writer sees them. */
export class SegmentRun {
  readonly #options: FileJournalOptions;
  readonly #stream: string;
  /** The stream's own directory. */
  readonly #path: string;
  readonly #segmentBytes: number;
  readonly #kept: KeptSegments;
  #databaseId: string | undefined;
  #active: SegmentWriter | undefined;
  /** When this process learned that everything in the active segment is committed, monotonic ms. */
  #committedAt: number | undefined;
  /** The active segment is to be left behind: all of it is committed, or its header lacks the database's id. */
  #rotationDue = false;
  /** Path of a segment that an attempt of this instance may have left half made. */
  #staged: string | undefined;
  #endLsn: Lsn = 0;
  #syncedLsn: Lsn = 0;

  /** A stream without segments: its directory and first segment are made when room is first asked for. */
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
   * Bytes that stand in the way of new records: of the segments kept and those used of the active one. That one counts as
   * empty where it is left behind for the asking: all of it is committed and has been kept for long enough.
   */
  get bytes(): number {
    return this.#kept.isOver(this.#committedAt) ? this.#kept.bytes + SEGMENT_HEADER_BYTES : this.#heldBytes;
  }

  /** Something could go if the checkpoint were seen once more. */
  get isPruneDue(): boolean {
    if (this.#kept.isRemovalDue) return true;
    return this.#kept.isDue(this.#committedAt) && !this.#kept.isOver(this.#committedAt);
  }

  get databaseId(): string | undefined {
    return this.#databaseId;
  }

  /** Segments carry this id from the next append on. */
  set databaseId(id: string | undefined) {
    this.#databaseId = id;
    if (this.#active !== undefined && this.#active.header.databaseId !== id) this.#rotationDue = true;
  }

  /** Goes on in `active`, which is durable up to `endLsn`, behind `kept`. */
  continueIn(active: SegmentWriter, kept: readonly KeptSegment[], endLsn: Lsn): void {
    for (const segment of kept) this.#kept.add(segment);
    this.#active = active;
    this.#databaseId = active.header.databaseId;
    this.#endLsn = endLsn;
    this.#syncedLsn = endLsn;
  }

  /** For a run that is only read. */
  endAt(endLsn: Lsn): void {
    this.#endLsn = endLsn;
    this.#syncedLsn = endLsn;
  }

  /**
   * Makes room for a group of `bytes`. Throws JournalError `journal-full` or `journal-unavailable`: the run is as before;
   * or `journal-failed`.
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
      // The failed sync was for zeros, but records that `everysec` had left for later may have gone with it.
      const lost = active?.sealed === true && this.#syncedLsn < this.#endLsn;
      throw diskFailure(lost ? 'journal-failed' : 'journal-unavailable', `${this.#path} cannot take more`, error);
    }
  }

  /** Stamps and writes a group of `bytes` into the room reserved. Returns its last LSN. Throws `journal-failed`. */
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

  /** Makes everything written durable. Throws `journal-failed`. */
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

  /** The checkpoint was seen at `upTo`: what is below is committed, and goes if it has been kept for long enough. */
  see(upTo: Lsn): void {
    const now = this.#kept.see(upTo);
    const active = this.#active;
    if (active !== undefined && upTo >= this.#endLsn && active.used > SEGMENT_HEADER_BYTES) {
      this.#committedAt ??= now;
      // So that a steady trickle does not keep a large segment for its last record. Where it would have to be kept anyway, it
      // goes on, since a segment that is kept counts with all of its file.
      if (active.used > this.#segmentBytes / 4 && this.#kept.isOver(this.#committedAt)) this.#rotationDue = true;
    }
    this.#kept.removeDue();
  }

  /** Lets go of files, without a sync. */
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
    // A group that no segment can take gets one of its own size.
    const fits =
      active !== undefined && (active.used + bytes <= this.#segmentBytes || active.used === SEGMENT_HEADER_BYTES);
    const rotate = !fits || active.sealed || this.#rotationDue;
    const needed = rotate ? bytes + SEGMENT_HEADER_BYTES : bytes;
    const { bytesMax } = this.#options;
    if (this.#heldBytes + needed <= bytesMax) return rotate;
    this.#kept.removeDue();
    if (this.#heldBytes + needed <= bytesMax) return rotate;
    // All of the active segment can be removed as soon as it has a successor.
    const afterRemoval = this.#kept.bytes + SEGMENT_HEADER_BYTES + bytes;
    if (this.#kept.isOver(this.#committedAt) && afterRemoval <= bytesMax) return true;
    const message = `${this.#path} holds ${this.#heldBytes} bytes of at most ${bytesMax}.`;
    throw new JournalError('journal-full', message, { cause: this.#kept.lastError });
  }

  /** Goes on in a new segment. Throws the disk's errors, or `journal-failed`. */
  #rotate(bytes: number): void {
    const { disk, bytesMax } = this.#options;
    const old = this.#active;
    // A segment counts up to what its successor's header says: that must be durable before the successor exists.
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
    // From here on the new one may have its name, and then what the old one gets would be void.
    old?.seal();
    successor.publish();
    this.#staged = undefined;
    this.#active = successor;
    if (old !== undefined) {
      old.close();
      const kept = { path: old.path, lastLsn: this.#endLsn, bytes: old.allocated, committedAt: this.#committedAt };
      // A segment without records has just been replaced.
      if (old.path !== successor.path) this.#kept.add(kept);
    }
    this.#committedAt = undefined;
    this.#rotationDue = false;
    this.#kept.removeDue();
  }

  #nextHeader(old: SegmentWriter | undefined): SegmentHeader {
    const { nodeId, shard, clock } = this.#options;
    const endLsn = this.#endLsn;
    // What replaces a segment without records has the predecessor of that.
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

  /** Removes what a failed attempt of this instance left; of anyone else's file creation complains. */
  #removeStaged(): void {
    const { disk } = this.#options;
    const path = join(this.#path, segmentName(this.#endLsn + 1)) + STAGED_SUFFIX;
    if (this.#staged === path && disk.list(this.#path).includes(basename(path))) disk.remove(path);
    this.#staged = path;
  }

  /** The directories of a new stream, each durable in its parent before there is a record. */
  #makeDirectories(): void {
    const { disk, directory } = this.#options;
    disk.makeDirectory(directory);
    disk.syncDirectory(dirname(directory));
    disk.makeDirectory(this.#path);
    disk.syncDirectory(directory);
  }

  /** Fills in what only the journal knows of each record. */
  #stamp(group: readonly RecordBytes[]): void {
    let lsn = this.#endLsn;
    for (const record of group) {
      const bytes = record.byteLength;
      assert(bytes >= RECORD_HEADER_BYTES && bytes <= RECORD_BYTES_MAX, 'a record is within its bounds');
      const view = new DataView(record.buffer, record.byteOffset, bytes);
      assert(view.getUint32(RECORD_OFFSET.bytes, true) === bytes, 'a record knows its length');
      lsn += 1;
      writeUint64(view, RECORD_OFFSET.lsn, lsn);
      writeUint64(view, RECORD_OFFSET.syncedLsn, this.#syncedLsn);
      view.setUint32(RECORD_OFFSET.crc, crc32(record.subarray(RECORD_OFFSET.lsn)), true);
    }
  }
}
