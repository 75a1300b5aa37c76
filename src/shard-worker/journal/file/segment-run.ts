/**
 * The writable end of a stream: the active segment, its successors, and the older segments that are kept. Shard thread.
 *
 * A group is written into one segment. Its room is reserved before its first byte is written. A failure before that
 * (`journal-full`, `journal-unavailable`) has kept nothing. A failure after that is `journal-failed`, and the owner
 * closes the run.
 *
 * With `everysec` a failed write or sync may lose records that were appended before. Memory has a copy of them
 * (`unsynced-records.ts`), so the run continues in a new segment that begins with them. If the disk refuses that segment,
 * they stay in memory, every append is `journal-unavailable`, and each further call tries again.
 */
import assert from 'node:assert';
import { basename, dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_OFFSET, writeUint64 } from '../../protocol/record-layout.js';
import { SEGMENT_HEADER_BYTES, type SegmentHeader, segmentName } from './segment-header.js';
import type { RecordBytes } from '../journal.js';
import { diskFailure, orUnavailable } from './disk.js';
import { segmentBytesOf, type FileJournalOptions } from './file-journal-options.js';
import type { StreamOwnership } from '../ownership-claim.js';
import { keepOwnership } from './stream-files.js';
import { KeptSegments, type KeptSegment } from './kept-segments.js';
import { UnsyncedRecords } from './unsynced-records.js';
import { ALLOCATION_BYTES_MAX, ALLOCATION_BYTES_MIN, SegmentWriter, STAGED_SUFFIX } from './segment-writer.js';

/** The segments of one stream, for writing. */
export class SegmentRun {
  readonly #options: FileJournalOptions;
  readonly #newOwnership: () => StreamOwnership;
  readonly #stream: string;
  /** The stream's own directory. */
  readonly #path: string;
  readonly #kept: KeptSegments;
  #databaseId: string | undefined;
  #active: SegmentWriter | undefined;
  /** When this process learned that all records of the active segment are committed, monotonic ms. */
  #committedAt: number | undefined;
  /**
   * The next append must start a new segment: the active one is fully committed, or its header lacks the database id.
   */
  #rotationDue = false;
  /** Path of a staged segment that an attempt of this instance may have left. */
  #staged: string | undefined;
  #endLsn: Lsn = 0;
  #syncedLsn: Lsn = 0;
  /** The largest time of the database that a record carries. */
  #databaseTime: DatabaseTime = 0;
  /** The records above the synced LSN; undefined where each append is synced. */
  readonly #unsynced: UnsyncedRecords | undefined;
  /**
   * stranded: the disk has refused a sync, and then a new segment for the unsynced records. removed: the active segment was no
   * longer at its path when that was last checked.
   */
  #trouble: 'stranded' | 'removed' | undefined;

  /**
   * A stream without segments. The first reservation of room creates its directory and first segment, with the ownership at
   * that time.
   */
  constructor(options: FileJournalOptions, stream: string, newOwnership: () => StreamOwnership) {
    this.#options = options;
    this.#newOwnership = newOwnership;
    this.#stream = stream;
    this.#path = join(options.directory, stream);
    this.#kept = new KeptSegments(options.disk, this.#path, options.clock, options.keepSeconds * 1000);
    this.#databaseId = options.databaseId;
    this.#unsynced = options.syncPolicy === 'everysec' ? new UnsyncedRecords() : undefined;
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get syncedLsn(): Lsn {
    return this.#syncedLsn;
  }

  /** Increments of the records that are not synced. */
  get unsyncedIncrements(): number {
    return this.#unsynced?.increments ?? 0;
  }

  /**
   * Bytes that count towards the limit: all bytes of the kept segments and the used bytes of the active one. The active
   * one counts as empty if it can be replaced at once: it is fully committed and its keep time has passed.
   */
  get bytes(): number {
    return this.#kept.isOver(this.#committedAt) ? this.#kept.bytes + SEGMENT_HEADER_BYTES : this.#heldBytes;
  }

  /** Segments on the disk: the kept ones and the active one. */
  get segments(): number {
    return this.#kept.count + (this.#active === undefined ? 0 : 1);
  }

  /** Whether the next sight of the checkpoint can remove something. */
  get isPruneDue(): boolean {
    if (this.#kept.isRemovalDue) return true;
    return this.#kept.isDue(this.#committedAt) && !this.#kept.isOver(this.#committedAt);
  }

  /** Whether the active segment was removed or replaced. Its records are then in memory only. */
  get isRemoved(): boolean {
    return this.#trouble === 'removed';
  }

  /** Whether the stream has a segment. */
  get isStored(): boolean {
    return this.#active !== undefined;
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
    this.#databaseTime = active.header.databaseTime;
    this.#endLsn = endLsn;
    this.#syncedLsn = endLsn;
  }

  /** Sets the end of a run that is only read. */
  endAt(endLsn: Lsn): void {
    this.#endLsn = endLsn;
    this.#syncedLsn = endLsn;
  }

  /**
   * Checks that the active segment is still at its path. Throws JournalError `journal-unavailable` if not; the run takes no
   * group until it is there again.
   */
  requireInPlace(): void {
    const active = this.#active;
    // A sealed segment may have been replaced by its successor, by an attempt that failed later.
    if (active === undefined || active.sealed || orUnavailable(active.path, () => active.isInPlace)) {
      if (this.isRemoved) this.#trouble = undefined;
      return;
    }
    this.#trouble = 'removed';
    throw new JournalError(
      'journal-unavailable',
      `${active.path} was removed or replaced while this server wrote to it; put it back, or restart the server once all ` +
        'that it acknowledged is in PostgreSQL.',
    );
  }

  /**
   * Reserves room for a group of `bytes`. Throws JournalError `journal-full` or `journal-unavailable`: the run is as
   * before.
   */
  reserve(bytes: number): void {
    if (this.isRemoved) this.requireInPlace();
    const rotate = this.#needsSuccessor(bytes);
    const active = this.#active;
    try {
      if (active === undefined || rotate) {
        this.#rotate(bytes);
        return;
      }
      const room = this.#options.bytesMax - this.#heldBytes;
      const synced = active.reserve(bytes, Math.min(segmentBytesOf(this.#options), active.used + room));
      if (synced) this.#noteSynced();
    } catch (error) {
      // If a sync of zeros failed, the next call moves the unsynced records of `everysec`.
      throw diskFailure('journal-unavailable', `${this.#path} cannot take more records`, error);
    }
  }

  /**
   * Stamps a group of `bytes` and writes it into reserved room. Returns its last LSN. Throws `journal-failed`. With
   * `everysec` it throws `journal-unavailable` if the run could continue in a new segment without the group.
   */
  write(group: readonly RecordBytes[], bytes: number, databaseTime: DatabaseTime): Lsn {
    const active = this.#active;
    assert(active !== undefined, 'room is reserved before a group is written');
    this.#stamp(group, databaseTime);
    try {
      active.write(group, bytes);
    } catch (error) {
      throw this.#failedWrite(active, error);
    }
    this.#endLsn += group.length;
    this.#unsynced?.add(group, bytes);
    this.#committedAt = undefined;
    return this.#endLsn;
  }

  /**
   * Makes all written records durable. Throws `journal-failed`. With `everysec` it throws `journal-unavailable` if the
   * records that are not synced stay in memory.
   */
  sync(): void {
    if (this.#syncActive()) return;
    try {
      this.#rotate(0);
    } catch (error) {
      throw diskFailure('journal-unavailable', `${this.#path} cannot be synced`, error);
    }
  }

  /** Notes that the checkpoint was seen at `upTo`, and removes segments whose keep time has passed. */
  see(upTo: Lsn): void {
    const now = this.#kept.see(upTo);
    const active = this.#active;
    if (active !== undefined && upTo >= this.#endLsn && active.used > SEGMENT_HEADER_BYTES) {
      this.#committedAt ??= now;
      // Otherwise a slow stream could keep a large segment because of its last record. A segment that would have to be kept
      // is continued instead, because a kept segment counts with its whole file.
      if (active.used > segmentBytesOf(this.#options) / 4 && this.#kept.isOver(this.#committedAt))
        this.#rotationDue = true;
    }
    this.#kept.removeDue();
  }

  /** Closes the files, without a sync. */
  close(): void {
    this.#active?.close();
    this.#active = undefined;
  }

  /**
   * Syncs the active segment. False if that failed, now or before, and memory has the unsynced records. Throws `journal-failed`.
   */
  #syncActive(): boolean {
    const active = this.#active;
    if (active === undefined || this.#syncedLsn === this.#endLsn) return true;
    if (active.sealed) return false;
    try {
      active.sync();
    } catch (error) {
      const isMovable = this.#unsynced !== undefined && systemErrorCode(error) !== undefined;
      if (!isMovable) throw diskFailure('journal-failed', `A sync of ${active.path} failed`, error);
      return false;
    }
    this.#noteSynced();
    return true;
  }

  #noteSynced(): void {
    this.#syncedLsn = this.#endLsn;
    this.#unsynced?.clear();
  }

  /** The error of a failed write of a group. The segment takes no more records, and its successor voids the group. */
  #failedWrite(active: SegmentWriter, error: unknown): unknown {
    const what = `A write to ${active.path} failed`;
    if (this.#unsynced === undefined || systemErrorCode(error) === undefined) {
      return diskFailure('journal-failed', what, error);
    }
    active.seal();
    try {
      this.#rotate(0);
    } catch (refused) {
      if (systemErrorCode(refused) === undefined) return refused;
      return diskFailure('journal-failed', what, error);
    }
    return diskFailure('journal-unavailable', what, error);
  }

  get #heldBytes(): number {
    return this.#kept.bytes + (this.#active?.used ?? 0);
  }

  /** Whether a group of `bytes` needs a new segment. Throws JournalError `journal-full`. */
  #needsSuccessor(bytes: number): boolean {
    const active = this.#active;
    // A group that is larger than a segment gets a segment of its own size.
    const fits =
      active !== undefined &&
      (active.used + bytes <= segmentBytesOf(this.#options) || active.used === SEGMENT_HEADER_BYTES);
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

  /**
   * Continues in a new segment, which begins with the unsynced records. Throws the disk's errors, or `journal-failed`.
   */
  #rotate(bytes: number): void {
    const old = this.#active;
    this.requireInPlace();
    // The header of the successor states up to where this segment counts. That must be durable before the successor exists.
    const isSynced = this.#syncActive();
    if (isSynced) {
      this.#continueInSuccessor(old, bytes);
      return;
    }
    const records = this.#endLsn - this.#syncedLsn;
    const facts = { stream: this.#stream, records, increments: this.unsyncedIncrements };
    try {
      this.#continueInSuccessor(old, bytes);
    } catch (error) {
      if (this.#trouble !== 'stranded') {
        const what =
          'A sync of the journal failed, and the disk refuses a new segment; keeping the records in memory until it ' +
          'takes them or they are in PostgreSQL';
        this.#options.warn?.({ ...facts, err: error }, what);
      }
      this.#trouble = 'stranded';
      throw error;
    }
    this.#trouble = undefined;
    this.#options.warn?.(facts, 'A sync of the journal failed; its records are in a new segment now, and none is lost');
  }

  #continueInSuccessor(old: SegmentWriter | undefined, bytes: number): void {
    const { disk, bytesMax } = this.#options;
    const lastLsn = this.#syncedLsn;
    const moved = this.#unsynced?.bytes ?? 0;
    if (old === undefined) this.#makeDirectories();
    const busy = old !== undefined && old.used > segmentBytesOf(this.#options) / 2;
    const wanted = Math.min(
      busy ? ALLOCATION_BYTES_MAX : ALLOCATION_BYTES_MIN,
      segmentBytesOf(this.#options),
      bytesMax,
    );
    this.#removeStaged();
    const successor = new SegmentWriter(
      disk,
      this.#path,
      this.#nextHeader(old),
      Math.max(wanted, SEGMENT_HEADER_BYTES + moved + bytes),
      (file) => this.#unsynced?.writeTo(file) ?? SEGMENT_HEADER_BYTES,
    );
    // From here on the new segment may have its name, which voids later records of the old one.
    old?.seal();
    successor.publish();
    this.#staged = undefined;
    this.#active = successor;
    this.#noteSynced();
    if (old !== undefined) {
      old.close();
      const kept = { path: old.path, lastLsn, bytes: old.allocated, committedAt: this.#committedAt };
      // With equal paths, the successor has replaced a segment without records.
      if (old.path !== successor.path) this.#kept.add(kept);
    }
    this.#committedAt = undefined;
    this.#rotationDue = false;
    this.#kept.removeDue();
  }

  #nextHeader(old: SegmentWriter | undefined): SegmentHeader {
    const { nodeId, shard, clock } = this.#options;
    const lastLsn = this.#syncedLsn;
    // A successor that replaces a segment without records takes over its predecessor.
    const replaces = old?.header.firstLsn === lastLsn + 1;
    return {
      stream: this.#stream,
      databaseId: this.#databaseId,
      nodeId,
      shard,
      firstLsn: lastLsn + 1,
      predecessorLsn: replaces ? old.header.predecessorLsn : lastLsn,
      syncedLsn: this.#endLsn,
      createdAt: clock.now(),
      databaseTime: this.#databaseTime,
    };
  }

  /** Removes the staged segment of a failed attempt of this instance. The staged file of another instance makes `create` fail. */
  #removeStaged(): void {
    const { disk } = this.#options;
    const path = join(this.#path, segmentName(this.#syncedLsn + 1)) + STAGED_SUFFIX;
    if (this.#staged === path && disk.list(this.#path).includes(basename(path))) disk.remove(path);
    this.#staged = path;
  }

  /** Creates the directories of a new stream and its ownership, durable before there is a record. */
  #makeDirectories(): void {
    const { disk, directory } = this.#options;
    disk.makeDirectory(directory);
    disk.syncDirectory(dirname(directory));
    disk.makeDirectory(this.#path);
    disk.syncDirectory(directory);
    keepOwnership(disk, this.#path, this.#newOwnership());
  }

  /** Fills in LSN, synced LSN, time of the database and CRC of each record. */
  #stamp(group: readonly RecordBytes[], databaseTime: DatabaseTime): void {
    let lsn = this.#endLsn;
    this.#databaseTime = Math.max(this.#databaseTime, databaseTime);
    for (const record of group) {
      const bytes = record.byteLength;
      assert(bytes >= RECORD_HEADER_BYTES && bytes <= RECORD_BYTES_MAX, 'a record is within its bounds');
      const view = new DataView(record.buffer, record.byteOffset, bytes);
      assert(view.getUint32(RECORD_OFFSET.bytes, true) === bytes, 'the header of a record holds its length');
      lsn += 1;
      writeUint64(view, RECORD_OFFSET.lsn, lsn);
      writeUint64(view, RECORD_OFFSET.syncedLsn, this.#syncedLsn);
      view.setUint32(RECORD_OFFSET.databaseTime, databaseTime, true);
      view.setUint32(RECORD_OFFSET.crc, crc32(record.subarray(RECORD_OFFSET.lsn)), true);
    }
  }
}
