/**
 * A write-ahead log on this node's disk. Shard thread; one owner; calls do not overlap.
 *
 * `docs/journal-format.md` describes the files. The durability policy stands in `append`, at the one branch that decides
 * it.
 *
 * States:
 * - found: an existing stream that has not been recovered; takes nothing.
 * - ready: takes records. A new stream begins here, and touches the disk at its first append only.
 * - finishing: recovered for reading only.
 * - failed: a write or a sync of records has failed, so that nobody knows what is on the disk. The segment is let go of
 *   and never written or synced again; every call throws the same error. A new instance recovers.
 * - closed.
 */
import assert from 'node:assert';
import { randomUUID } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Timer } from '../../../clock.js';
import { JournalError } from '../../../errors.js';
import type { Lsn } from '../../../increment.js';
import { RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_OFFSET, writeUint64 } from '../../messages.js';
import type { Journal, JournalRecord, RecordBytes } from '../journal.js';
import { forgetAcceptedGaps } from './accepted-gap.js';
import { diskFailure, orUnavailable } from './disk-failure.js';
import {
  DEFERRED_SYNC_MS,
  segmentBytesOf,
  type FileJournalOptions,
  type OpenFileJournalOptions,
} from './file-journal-options.js';
import { KeptSegments } from './kept-segments.js';
import { SEGMENT_HEADER_BYTES, segmentName, type SegmentHeader } from './segment-header.js';
import {
  ALLOCATION_BYTES_MAX,
  ALLOCATION_BYTES_MIN,
  SegmentWriter,
  STAGED_SUFFIX,
} from './segment-writer.js';
import { readRecords, scanForRecovery, takeOver, type Recovery } from './stream-recovery.js';
import { findSegments, segmentLimit, type FoundSegment } from './stream-scan.js';
import { removeStream } from './streams.js';

type State =
  | { readonly kind: 'found' | 'ready' | 'finishing' | 'closed' }
  | { readonly kind: 'failed'; readonly error: unknown };

/** A new stream under a random id. Its directory and first segment are made at the first append. */
export function createFileJournal(options: FileJournalOptions): FileJournal {
  return new FileJournal(options, randomUUID(), 'ready');
}

/**
 * Opens an existing stream, which takes records after {@link FileJournal.recover}. Reads headers only. Throws JournalError
 * `journal-format`, `journal-corrupt`, `journal-gap` (no such stream) and `journal-foreign` (it belongs to another
 * database and `rebind` is not set).
 */
export function openFileJournal(options: OpenFileJournalOptions): FileJournal {
  const { disk, directory, stream, databaseId } = options;
  const path = join(directory, stream);
  const segments = orUnavailable(`${path} cannot be read`, () => findSegments(disk, path, stream));
  if (segments.length === 0) throw new JournalError('journal-gap', `${path} holds no segment.`);
  const bound = segments.findLast(({ header }) => header.databaseId !== undefined)?.header.databaseId;
  if (databaseId !== undefined && bound !== undefined && bound !== databaseId && options.rebind !== true) {
    throw foreign(path, bound, databaseId);
  }
  return new FileJournal(options, stream, 'found');
}

/** The file journal of one stream. */
export class FileJournal implements Journal {
  readonly stream: string;
  readonly #options: FileJournalOptions;
  /** The stream's own directory. */
  readonly #path: string;
  readonly #segmentBytes: number;
  readonly #kept: KeptSegments;
  readonly #forFinishing: boolean;
  #databaseId: string | undefined;
  #state: State;
  /** The segments as recovered, for replay. */
  #found: readonly FoundSegment[] = [];
  #recoveredLsn: Lsn = 0;
  #active: SegmentWriter | undefined;
  /** When this process learned that everything in the active segment is committed. */
  #activeCommittedAt: number | undefined;
  /** The active segment is due to be left behind: all of it is committed, or its header lacks the database's id. */
  #rotationDue = false;
  /** Path of a segment that may have been left half made by a failed attempt of this instance. */
  #staged: string | undefined;
  #endLsn: Lsn = 0;
  #syncedLsn: Lsn = 0;
  #syncTimer: Timer | undefined;

  /** Use {@link createFileJournal} or {@link openFileJournal}. */
  constructor(
    options: FileJournalOptions & { readonly forFinishing?: boolean },
    stream: string,
    kind: 'found' | 'ready',
  ) {
    this.stream = stream;
    this.#options = options;
    this.#path = join(options.directory, stream);
    this.#segmentBytes = segmentBytesOf(options);
    this.#kept = new KeptSegments(options.disk, this.#path, options.clock, options.keepSeconds * 1000);
    this.#forFinishing = options.forFinishing === true;
    this.#databaseId = options.databaseId;
    this.#state = { kind };
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get syncedLsn(): Lsn {
    return this.#syncedLsn;
  }

  get bytes(): number {
    return this.#kept.bytes + (this.#active?.used ?? 0);
  }

  /**
   * Takes over what an earlier process left, given the stream's checkpoint; to be called once, after the epoch was
   * raised, so that no other process can still move the checkpoint. Throws JournalError `journal-corrupt` or
   * `journal-gap`, having changed nothing, and `journal-unavailable` where the disk refused, after which it may be
   * called again.
   */
  recover(checkpointLsn: Lsn): Recovery {
    assert(this.#state.kind === 'found', 'recover comes once, and before anything else');
    const what = `${this.#path} cannot be recovered`;
    return orUnavailable(what, () => this.#recover(checkpointLsn));
  }

  append(group: readonly RecordBytes[]): Lsn {
    this.#assertReady();
    let bytes = 0;
    for (const record of group) bytes += record.byteLength;
    if (bytes === 0) return this.#endLsn;
    const segment = this.#segmentFor(bytes);
    this.#stamp(group);
    try {
      segment.write(group, bytes);
    } catch (error) {
      this.#fail(`A write to ${segment.path} failed`, error);
    }
    this.#endLsn += group.length;
    this.#activeCommittedAt = undefined;
    // The durability policy: `always` answers for power loss with every append, `everysec` a moment later.
    if (this.#options.syncPolicy === 'always') this.#syncActive(segment);
    else this.#scheduleSync();
    return this.#endLsn;
  }

  sync(): void {
    if (this.#state.kind === 'finishing') return;
    this.#assertReady();
    if (this.#active !== undefined && this.#syncedLsn < this.#endLsn) this.#syncActive(this.#active);
  }

  /** As in {@link Journal}. Reads with synchronous calls: a consumer with other duties pauses now and then. */
  async *replay(after: Lsn): AsyncGenerator<JournalRecord, void, undefined> {
    for (const reader of readRecords(this.#options.disk, this.#found, after, this.#recoveredLsn)) {
      const entries = reader.record.subarray(RECORD_HEADER_BYTES);
      yield { lsn: reader.lsn, acceptedAt: reader.acceptedAt, entries };
    }
  }

  prune(upTo: Lsn): void {
    if (this.#state.kind === 'finishing') return;
    this.#assertReady();
    this.#kept.commit(upTo);
    const active = this.#active;
    if (active !== undefined && upTo >= this.#endLsn && active.used > SEGMENT_HEADER_BYTES) {
      this.#activeCommittedAt ??= this.#options.clock.monotonic();
      // So that a steady trickle does not keep a large segment for its last record.
      if (active.used > this.#segmentBytes / 4) this.#rotationDue = true;
    }
    this.#kept.removeDue();
  }

  /**
   * The database's id, where it was not known when the journal was opened: segments carry it from now on. Throws
   * JournalError `journal-foreign` where the stream belongs to another database.
   */
  setDatabaseId(id: string): void {
    if (this.#databaseId !== undefined && this.#databaseId !== id) throw foreign(this.#path, this.#databaseId, id);
    this.#databaseId = id;
    if (this.#active !== undefined && this.#active.header.databaseId === undefined) this.#rotationDue = true;
  }

  /** Removes the stream and closes: for a stream whose checkpoint row is retired. Throws `journal-unavailable`. */
  removeStream(): void {
    this.#letGo();
    this.#state = { kind: 'closed' };
    const { disk, directory } = this.#options;
    orUnavailable(`${this.#path} cannot be removed`, () => removeStream(disk, directory, this.stream));
  }

  close(): Promise<void> {
    return Promise.resolve().then(() => {
      if (this.#state.kind === 'ready') this.sync();
      this.#letGo();
      this.#state = { kind: 'closed' };
    });
  }

  #recover(checkpointLsn: Lsn): Recovery {
    const { disk, nodeId, shard, clock } = this.#options;
    // Read anew: an attempt that failed may have published its segment already.
    const found = findSegments(disk, this.#path, this.stream);
    const scan = scanForRecovery(disk, this.#path, found, checkpointLsn);
    if (this.#forFinishing) {
      this.#found = found;
      this.#syncLast(scan.segments);
      this.#state = { kind: 'finishing' };
    } else {
      const databaseId = this.#databaseId ?? scan.segments.findLast(({ header }) => header.databaseId)?.header.databaseId;
      const origin = { stream: this.stream, databaseId, nodeId, shard, createdAt: clock.now() };
      const { active, segments } = takeOver(disk, this.#path, scan, checkpointLsn, origin);
      this.#databaseId = databaseId;
      this.#active = active;
      this.#found = segments;
      this.#state = { kind: 'ready' };
      for (const [index, { path, fileBytes }] of segments.slice(0, -1).entries()) {
        this.#kept.add({ path, lastLsn: segmentLimit(segments, index), bytes: fileBytes, committedAt: undefined });
      }
      this.#kept.commit(checkpointLsn);
      if (scan.missing.length === 0) forgetAcceptedGaps(disk, this.#path);
    }
    this.#recoveredLsn = scan.endLsn;
    this.#endLsn = Math.max(scan.endLsn, checkpointLsn);
    this.#syncedLsn = this.#endLsn;
    this.#kept.removeDue();
    return {
      endLsn: this.#endLsn,
      checkpointLsn,
      journalEndLsn: scan.endLsn,
      records: scan.pendingRecords,
      torn: scan.torn,
      acceptedGaps: scan.missing,
    };
  }

  /** What is flushed must not be lost by the journal afterwards while later records stay: that would void them. */
  #syncLast(segments: readonly FoundSegment[]): void {
    const last = segments.at(-1);
    if (last === undefined) return;
    const file = this.#options.disk.open(last.path);
    try {
      file.sync();
    } finally {
      file.close();
    }
  }

  /** The segment with room for `bytes`. Throws JournalError, where nothing was kept unless it is `journal-failed`. */
  #segmentFor(bytes: number): SegmentWriter {
    const rotate = this.#makeRoom(bytes);
    const active = this.#active;
    try {
      if (active === undefined || rotate) return this.#rotate(bytes);
      const room = this.#options.bytesMax - this.bytes;
      if (active.reserve(bytes, Math.min(this.#segmentBytes, active.used + room))) this.#syncedLsn = this.#endLsn;
      return active;
    } catch (error) {
      const what = `${this.#path} cannot take more`;
      // The failed sync was for zeros, but records that `everysec` had left for later may have gone with it.
      if (active?.sealed === true && this.#syncedLsn < this.#endLsn) this.#fail(what, error);
      throw diskFailure('journal-unavailable', what, error);
    }
  }

  /** Whether the group needs a new segment. Throws JournalError `journal-full`. */
  #makeRoom(bytes: number): boolean {
    const active = this.#active;
    const fits = active !== undefined && (active.used + bytes <= this.#segmentBytes || active.used === SEGMENT_HEADER_BYTES);
    const rotate = active === undefined || active.sealed || this.#rotationDue || !fits;
    const needed = rotate ? bytes + SEGMENT_HEADER_BYTES : bytes;
    const { bytesMax } = this.#options;
    if (this.bytes + needed <= bytesMax) return rotate;
    this.#kept.removeDue();
    if (this.bytes + needed <= bytesMax) return rotate;
    // All of the active segment may be removed as soon as it has a successor.
    const successorBytes = this.#kept.bytes + SEGMENT_HEADER_BYTES + bytes;
    if (this.#kept.isOver(this.#activeCommittedAt) && successorBytes <= bytesMax) return true;
    const message = `${this.#path} holds ${this.bytes} bytes of at most ${bytesMax}.`;
    throw new JournalError('journal-full', message, { cause: this.#kept.lastError });
  }

  /** Leaves the active segment behind and goes on in a new one. Throws the disk's errors, or `journal-failed`. */
  #rotate(bytes: number): SegmentWriter {
    const { disk, bytesMax } = this.#options;
    const old = this.#active;
    // A segment counts up to what its successor's header says: that must be durable before the successor exists.
    if (old !== undefined && this.#syncedLsn < this.#endLsn) this.#syncActive(old);
    if (old === undefined) this.#makeDirectories();
    const busy = old !== undefined && old.used > this.#segmentBytes / 2;
    const wanted = Math.min(busy ? ALLOCATION_BYTES_MAX : ALLOCATION_BYTES_MIN, this.#segmentBytes, bytesMax);
    const path = join(this.#path, segmentName(this.#endLsn + 1)) + STAGED_SUFFIX;
    if (this.#staged === path && disk.list(this.#path).includes(basename(path))) disk.remove(path);
    this.#staged = path;
    const active = new SegmentWriter(disk, this.#path, this.#nextHeader(old), Math.max(wanted, SEGMENT_HEADER_BYTES + bytes));
    // Once the new one may have its name, records in the old one would be void.
    old?.seal();
    try {
      active.publish();
    } catch (error) {
      active.discard();
      throw error;
    }
    if (old !== undefined) {
      old.close();
      const kept = { path: old.path, lastLsn: this.#endLsn, bytes: old.allocated, committedAt: this.#activeCommittedAt };
      if (old.path !== active.path) this.#kept.add(kept);
    }
    this.#active = active;
    this.#activeCommittedAt = undefined;
    this.#rotationDue = false;
    this.#kept.removeDue();
    return active;
  }

  #nextHeader(old: SegmentWriter | undefined): SegmentHeader {
    const { nodeId, shard, clock } = this.#options;
    const endLsn = this.#endLsn;
    // A segment without records is replaced by the new one, of the same name, which then has the same predecessor.
    const replaces = old?.header.firstLsn === endLsn + 1;
    return {
      stream: this.stream,
      databaseId: this.#databaseId,
      nodeId,
      shard,
      firstLsn: endLsn + 1,
      predecessorLsn: replaces ? old.header.predecessorLsn : endLsn,
      syncedLsn: endLsn,
      createdAt: clock.now(),
    };
  }

  /** The directories of a new stream, each durable in its parent before a record is. */
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
      const view = new DataView(record.buffer, record.byteOffset, bytes);
      assert(bytes >= RECORD_HEADER_BYTES && bytes <= RECORD_BYTES_MAX, 'a record is within its bounds');
      assert(view.getUint32(RECORD_OFFSET.bytes, true) === bytes, 'a record knows its length');
      lsn += 1;
      writeUint64(view, RECORD_OFFSET.lsn, lsn);
      writeUint64(view, RECORD_OFFSET.syncedLsn, this.#syncedLsn);
      view.setUint32(RECORD_OFFSET.crc, crc32(record.subarray(RECORD_OFFSET.lsn)), true);
    }
  }

  #syncActive(segment: SegmentWriter): void {
    try {
      segment.sync();
    } catch (error) {
      this.#fail(`A sync of ${segment.path} failed`, error);
    }
    this.#syncedLsn = this.#endLsn;
    this.#syncTimer?.cancel();
    this.#syncTimer = undefined;
  }

  #scheduleSync(): void {
    this.#syncTimer ??= this.#options.clock.schedule(DEFERRED_SYNC_MS, () => {
      this.#syncTimer = undefined;
      try {
        this.sync();
      } catch (error) {
        // Every later call throws it again.
        if (!(error instanceof JournalError)) throw error;
      }
    });
  }

  #assertReady(): void {
    const { kind } = this.#state;
    if (kind === 'ready') return;
    if (this.#state.kind === 'failed') throw this.#state.error;
    throw new JournalError('journal-unavailable', `The journal ${this.#path} takes nothing: it is ${kind}.`);
  }

  #fail(what: string, error: unknown): never {
    const failure = diskFailure('journal-failed', what, error);
    this.#letGo();
    this.#state = { kind: 'failed', error: failure };
    throw failure;
  }

  #letGo(): void {
    this.#syncTimer?.cancel();
    this.#syncTimer = undefined;
    this.#kept.stop();
    this.#active?.close();
    this.#active = undefined;
  }
}

function foreign(path: string, bound: string, databaseId: string): JournalError {
  return new JournalError(
    'journal-foreign',
    `${path} belongs to the database ${bound}, but DATABASE_URL leads to ${databaseId}.`,
  );
}
