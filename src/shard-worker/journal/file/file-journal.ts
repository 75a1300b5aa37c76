/**
 * The journal of one stream as a write-ahead log on the disk. Shard thread; one owner.
 *
 * `docs/journal-format.md` describes the files. The branch in `append` that syncs or not is the durability policy.
 *
 * States:
 * - found: an existing stream before recovery. Takes no records.
 * - ready: takes records. A new stream starts here; it does not use the disk before its first append.
 * - finishing: recovered for reading only, because the stream is orphaned or the disk is full.
 * - failed: a write or a sync of records failed, so the content of the disk is unknown. The segment is closed and never
 *   written or synced again, and every call throws the same error. A new instance recovers. With `everysec` the journal
 *   stays ready: it continues in a new segment, see `segment-run.ts`.
 * - closed.
 */
import assert from 'node:assert';
import { randomUUID } from 'node:crypto';
import { basename, join } from 'node:path';
import type { Timer } from '../../../core/clock.js';
import { JournalError, systemErrorCode } from '../../../core/errors.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { countIncrements, RECORD_HEADER_BYTES } from '../../protocol/record-layout.js';
import type { JournalRecord, KeptRecords, RecordBytes, RecoverableJournal } from '../journal.js';
import { newOwnership, type StreamOwnership } from '../ownership-claim.js';
import { diskFailure, orUnavailable, type Disk } from './disk.js';
import { isDiskFull } from './disk-reserve.js';
import {
  DEFERRED_SYNC_MS,
  segmentBytesOf,
  type FileJournalOptions,
  type OpenFileJournalOptions,
} from './file-journal-options.js';
import { databaseOf, requireSameDatabase } from './journal-directory.js';
import { SegmentRun } from './segment-run.js';
import { ALLOCATION_BYTES_MIN } from './segment-writer.js';
import {
  forgetAcceptedCheckpoint,
  forgetAcceptedGaps,
  keepOwnership,
  readAcceptedCheckpoint,
  readOwnership,
} from './stream-files.js';
import { makeDurable, readRecords, recoveryOf, requireWhole, takeOver, type Recovery } from './stream-recovery.js';
import { findEnd, findSegments, scanStream, segmentLimit, type FoundSegment, type StreamScan } from './stream-scan.js';

type State =
  { readonly kind: 'found' | 'ready' | 'finishing' | 'closed' } | { readonly kind: 'failed'; readonly error: unknown };

/**
 * Creates a stream under a random id. The first append, or the first ownership claim, creates its directory and first segment.
 * `cover`: see {@link StreamOwnership}.
 */
export function createFileJournal(options: FileJournalOptions, cover?: string): FileJournal {
  return new FileJournal(options, options.newStreamId?.() ?? randomUUID(), 'ready', newOwnership(cover));
}

/**
 * Opens an existing stream, which takes records after {@link FileJournal.recover}. Reads headers only. Throws
 * JournalError `journal-format`, `journal-corrupt`, `journal-gap` (no such stream), `journal-foreign` (the stream
 * belongs to another database and `rebind` is not set), `journal-unavailable` (the disk refused).
 */
export function openFileJournal(options: OpenFileJournalOptions): FileJournal {
  const { disk, directory, stream, databaseId } = options;
  const path = join(directory, stream);
  const segments = orUnavailable(`${path} cannot be read`, () => findSegments(disk, path));
  if (segments.length === 0) throw new JournalError('journal-gap', `${path} holds no segment.`);
  if (options.rebind !== true) requireSameDatabase(path, databaseOf(segments), databaseId);
  return new FileJournal(options, stream, 'found', undefined);
}

/** The file journal of one stream. */
export class FileJournal implements RecoverableJournal {
  readonly stream: string;
  readonly #options: FileJournalOptions;
  /** The stream's own directory. */
  readonly #path: string;
  readonly #mode: { readonly forFinishing?: boolean; readonly rebind?: boolean };
  readonly #run: SegmentRun;
  #state: State;
  /** The recovered segments, for replay, and their last LSN at that time. */
  #found: readonly FoundSegment[] = [];
  #foundLsn: Lsn = 0;
  /** In state finishing: bytes of all segments, which are kept until the whole stream is removed. */
  #finishingBytes = 0;
  /** Undefined until it was read. */
  #ownership: StreamOwnership | undefined;
  #syncTimer: Timer | undefined;

  /** Use {@link createFileJournal} or {@link openFileJournal}. */
  constructor(
    options: FileJournalOptions & { readonly forFinishing?: boolean; readonly rebind?: boolean },
    stream: string,
    kind: 'found' | 'ready',
    ownership: StreamOwnership | undefined,
  ) {
    this.stream = stream;
    this.#options = options;
    this.#path = join(options.directory, stream);
    this.#ownership = ownership;
    this.#run = new SegmentRun(options, stream, () => this.ownership());
    this.#mode = options;
    this.#state = { kind };
  }

  get endLsn(): Lsn {
    return this.#run.endLsn;
  }

  get syncedLsn(): Lsn {
    return this.#run.syncedLsn;
  }

  get bytes(): number {
    return this.#finishingBytes + this.#run.bytes;
  }

  get segments(): number {
    return this.#state.kind === 'finishing' ? this.#found.length : this.#run.segments;
  }

  get takesRecords(): boolean {
    return this.#state.kind === 'ready';
  }

  get location(): string {
    return this.#path;
  }

  get firstLsn(): Lsn {
    if (this.#state.kind !== 'found') return this.#found[0]?.header.firstLsn ?? 1;
    return this.#read((disk) => findSegments(disk, this.#path)[0]?.header.firstLsn ?? 1);
  }

  ownership(): StreamOwnership {
    this.#ownership ??= this.#read((disk) => readOwnership(disk, this.#path));
    return this.#ownership;
  }

  keepOwnership(ownership: StreamOwnership): void {
    const { disk, reserve } = this.#options;
    if (this.#state.kind === 'ready' && !this.#run.isStored) {
      const before = this.#ownership;
      this.#ownership = ownership;
      try {
        this.reserve(RECORD_HEADER_BYTES);
      } catch (error) {
        this.#ownership = before;
        throw error;
      }
      return;
    }
    const keep = (): void => {
      keepOwnership(disk, this.#path, ownership);
    };
    orUnavailable(`${this.#path} cannot be taken over`, () => {
      if (reserve === undefined) keep();
      else reserve.spend(keep);
    });
    this.#ownership = ownership;
  }

  acceptedCheckpoint(): Lsn | undefined {
    return this.#read((disk) => readAcceptedCheckpoint(disk, this.#path));
  }

  forgetAcceptedCheckpoint(): void {
    orUnavailable(`${this.#path} cannot be written`, () => {
      forgetAcceptedCheckpoint(this.#options.disk, this.#path);
    });
  }

  findEnd(): Lsn {
    if (this.#state.kind !== 'found') return this.endLsn;
    return this.#read((disk) => findEnd(disk, findSegments(disk, this.#path)));
  }

  /**
   * Takes over the records of an earlier process, given the checkpoint of the stream. Call it once, after the epoch was raised,
   * so that no other process can move the checkpoint. If the disk has no room for the new segment, the stream can only be
   * flushed to its end, which frees the disk: see {@link FileJournal.takesRecords}. Throws JournalError `journal-corrupt` or
   * `journal-gap`, without a change, and `journal-unavailable` if the disk refused; then it may be called again.
   */
  recover(checkpoint: Lsn): Recovery {
    assert(this.#state.kind === 'found', 'recover is called once');
    const { disk } = this.#options;
    return orUnavailable(`${this.#path} cannot be recovered`, () => {
      let scan = scanStream(disk, findSegments(disk, this.#path), checkpoint);
      if (this.#mode.rebind !== true) requireSameDatabase(this.#path, databaseOf(scan.segments), this.#run.databaseId);
      requireWhole(disk, this.#path, scan, checkpoint);
      if (this.#mode.forFinishing === true) {
        this.#finish(scan, checkpoint);
      } else if (!this.#takeOver(scan, checkpoint)) {
        // Scans again: the attempt may have published its segment, which is as good as the one that it replaces.
        scan = scanStream(disk, findSegments(disk, this.#path), checkpoint);
        this.#finish(scan, checkpoint);
      }
      this.#foundLsn = scan.endLsn;
      return recoveryOf(scan, checkpoint);
    });
  }

  append(group: readonly RecordBytes[], databaseTime: DatabaseTime = 0): Lsn {
    this.#assertReady();
    let bytes = 0;
    for (const record of group) bytes += record.byteLength;
    if (bytes === 0) return this.endLsn;
    try {
      this.#run.reserve(bytes);
      const lsn = this.#run.write(group, bytes, databaseTime);
      // The durability policy: with `always` an append survives power loss when it returns, with `everysec` a second
      // later.
      if (this.#options.syncPolicy === 'always') this.#run.sync();
      else this.#scheduleSync();
      return lsn;
    } catch (error) {
      throw this.#failed(error);
    }
  }

  reserve(bytes: number): void {
    this.#assertReady();
    try {
      this.#run.reserve(bytes);
    } catch (error) {
      throw this.#failed(error);
    }
  }

  sync(): void {
    if (this.#state.kind === 'finishing') return;
    this.#assertReady();
    this.#cancelSync();
    try {
      this.#run.sync();
    } catch (error) {
      throw this.#failed(error);
    } finally {
      // Unsynced records are in memory. Tries again until the disk accepts them.
      if (this.#state.kind === 'ready' && this.syncedLsn < this.endLsn) this.#scheduleSync();
    }
  }

  *replay(after: Lsn): Generator<JournalRecord, void, undefined> {
    try {
      for (const reader of readRecords(this.#options.disk, this.#found, after, this.#foundLsn)) {
        const entries = reader.record.subarray(RECORD_HEADER_BYTES);
        yield { lsn: reader.lsn, acceptedAt: reader.acceptedAt, databaseTime: reader.databaseTime, entries };
      }
    } catch (error) {
      throw diskFailure('journal-unavailable', `${this.#path} cannot be read`, error);
    }
  }

  prune(upTo: Lsn): void {
    // The whole stream is removed later.
    if (this.#state.kind === 'finishing') return;
    this.#assertReady();
    this.#run.see(upTo);
  }

  get isPruneDue(): boolean {
    return this.#state.kind === 'ready' && this.#run.isPruneDue;
  }

  /**
   * Sets the id of the database if it was unknown when the journal was opened; later segments carry it. Throws
   * JournalError `journal-foreign` if the stream belongs to another database.
   */
  setDatabaseId(id: string): void {
    requireSameDatabase(this.#path, this.#run.databaseId, id);
    this.#run.databaseId = id;
  }

  requireInPlace(): void {
    if (this.#state.kind === 'ready') this.#run.requireInPlace();
    if (this.#state.kind === 'finishing' && !this.#isFoundInPlace)
      throw new JournalError('journal-unavailable', `${this.#path} was removed or replaced while this server read it.`);
  }

  kept(after: Lsn, pending: number): KeptRecords {
    if (this.#run.isRemoved || this.#state.kind === 'finishing') return this.#readKept(after);
    return { throughLsn: this.syncedLsn, increments: pending - Math.min(pending, this.#run.unsyncedIncrements) };
  }

  /**
   * Syncs and closes. Throws `journal-failed` if this sync or an earlier one failed, and `journal-unavailable` if unsynced records
   * were in memory only and are lost.
   */
  close(): void {
    try {
      if (this.#state.kind === 'ready' || this.#state.kind === 'failed') this.sync();
    } finally {
      this.#close({ kind: 'closed' });
    }
  }

  #read<T>(read: (disk: Disk) => T): T {
    return orUnavailable(`${this.#path} cannot be read`, () => read(this.#options.disk));
  }

  #finish(scan: StreamScan, checkpoint: Lsn): void {
    // If the disk lost flushed records and kept later ones, recovery would ignore the later ones. The name of the last segment
    // is made durable for the same reason: an earlier start may have failed to do so.
    const last = scan.segments.at(-1);
    if (last !== undefined) makeDurable(this.#options.disk, last, scan);
    this.#options.disk.syncDirectory(this.#path);
    this.#run.endAt(Math.max(scan.endLsn, checkpoint));
    this.#found = scan.segments;
    this.#finishingBytes = scan.segments.reduce((sum, { fileBytes }) => sum + fileBytes, 0);
    this.#state = { kind: 'finishing' };
  }

  /** The files that were found at recovery, which nobody else may remove. */
  get #isFoundInPlace(): boolean {
    const names = this.#read((disk) => disk.list(this.#path));
    return this.#found.every(({ path }) => names.includes(basename(path)));
  }

  /** Reads again what is on the disk; nothing where it cannot be read. */
  #readKept(after: Lsn): KeptRecords {
    const { disk } = this.#options;
    let increments = 0;
    try {
      const segments = findSegments(disk, this.#path);
      const throughLsn = findEnd(disk, segments);
      for (const { record } of readRecords(disk, segments, after, throughLsn)) increments += countIncrements(record);
      return { throughLsn, increments };
    } catch (error) {
      if (!(error instanceof JournalError) && systemErrorCode(error) === undefined) throw error;
      return { throughLsn: 0, increments: 0 };
    }
  }

  /** False if the disk is full. */
  #takeOver(scan: StreamScan, checkpoint: Lsn): boolean {
    const { disk, nodeId, shard, clock } = this.#options;
    const databaseId = this.#run.databaseId ?? databaseOf(scan.segments);
    const origin = { stream: this.stream, databaseId, nodeId, shard, createdAt: clock.now() };
    const allocateBytes = Math.min(ALLOCATION_BYTES_MIN, segmentBytesOf(this.#options));
    let taken: ReturnType<typeof takeOver>;
    try {
      taken = takeOver(disk, this.#path, scan, checkpoint, origin, allocateBytes);
    } catch (error) {
      if (isDiskFull(error)) return false;
      throw error;
    }
    const { active, segments } = taken;
    const kept = segments.slice(0, -1).map(({ path, fileBytes }, index) => {
      return { path, lastLsn: segmentLimit(segments, index), bytes: fileBytes, committedAt: undefined };
    });
    this.#run.continueIn(active, kept, Math.max(scan.endLsn, checkpoint));
    this.#found = segments;
    this.#state = { kind: 'ready' };
    // The caller has read the checkpoint with its own epoch, so records below are committed. Their keep time starts again.
    this.#run.see(checkpoint);
    if (scan.missing.length === 0) forgetAcceptedGaps(disk, this.#path);
    return true;
  }

  #scheduleSync(): void {
    this.#syncTimer ??= this.#options.clock.schedule(DEFERRED_SYNC_MS, () => {
      try {
        this.sync();
      } catch (error) {
        // Every later call throws the same error, or tries again.
        if (!(error instanceof JournalError)) throw error;
      }
    });
  }

  #cancelSync(): void {
    this.#syncTimer?.cancel();
    this.#syncTimer = undefined;
  }

  #assertReady(): void {
    const state = this.#state;
    if (state.kind === 'ready') return;
    if (state.kind === 'failed') throw state.error;
    throw new JournalError('journal-unavailable', `${this.#path} takes no records, because it is ${state.kind}.`);
  }

  /** Returns the error to throw. Unless nothing was kept, the journal has failed. */
  #failed(error: unknown): unknown {
    const nothingKept = error instanceof JournalError && error.nothingKept;
    if (!nothingKept) this.#close({ kind: 'failed', error });
    return error;
  }

  #close(state: State): void {
    this.#cancelSync();
    this.#state = state;
    this.#run.close();
  }
}
