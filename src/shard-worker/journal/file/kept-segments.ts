/**
 * The segments of a stream that take no more records, oldest first, until they are removed. Shard thread.
 *
 * Each goes through: kept → committed (the checkpoint has passed its last LSN, seen by this process) → removed, when the
 * checkpoint is seen there again and the keep time has passed since. No clock removes anything: a database that is away
 * may come back as a standby without the last commits, however long that takes, and what it lacks must still be here. The
 * delay is counted from when this process learned of the commit, so it starts anew with every process. Removal is oldest
 * first and synced one by one, so that what a crash leaves is always a run without holes.
 */
import type { Clock } from '../../../core/clock.js';
import type { Lsn } from '../../../core/checkpoint.js';
import { systemErrorCode } from '../../../core/errors.js';
import type { Disk } from './disk.js';

/** A segment that takes no more records. */
export interface KeptSegment {
  readonly path: string;
  readonly lastLsn: Lsn;
  /** Bytes that its removal gives back. */
  readonly bytes: number;
  /** Monotonic time in ms at which this process learned that all of it is committed. */
  readonly committedAt: number | undefined;
}

/** The queue of segments to remove. */
export class KeptSegments {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #clock: Clock;
  readonly #keepMs: number;
  #segments: KeptSegment[] = [];
  #bytes = 0;
  /** When the checkpoint was last seen, monotonic ms. */
  #seenAt = Number.NEGATIVE_INFINITY;
  #lastError: unknown;

  constructor(disk: Disk, directory: string, clock: Clock, keepMs: number) {
    this.#disk = disk;
    this.#directory = directory;
    this.#clock = clock;
    this.#keepMs = keepMs;
  }

  /** Bytes of all segments kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Why the last removal failed, if it did. */
  get lastError(): unknown {
    return this.#lastError;
  }

  /** Whether what was committed at `committedAt` may go: when the checkpoint was last seen, it had been kept for long enough. */
  isOver(committedAt: number | undefined): boolean {
    return committedAt !== undefined && this.#seenAt - committedAt >= this.#keepMs;
  }

  /** Whether what was committed at `committedAt` may go as soon as the checkpoint is seen once more. */
  isDue(committedAt: number | undefined): boolean {
    return committedAt !== undefined && this.#clock.monotonic() - committedAt >= this.#keepMs;
  }

  /** Whether the oldest segment may go, now or as soon as the checkpoint is seen once more. */
  get isRemovalDue(): boolean {
    return this.isDue(this.#segments[0]?.committedAt);
  }

  /** Adds the segment that has just got a durable successor; the newest of all. */
  add(segment: KeptSegment): void {
    this.#segments.push(segment);
    this.#bytes += segment.bytes;
  }

  /**
   * The checkpoint was seen now, at `upTo`. It never goes back for one owner, so all that was below is below again. Returns
   * the time, for what was committed up to there besides these segments.
   */
  see(upTo: Lsn): number {
    const now = this.#clock.monotonic();
    this.#seenAt = now;
    this.#segments = this.#segments.map((segment) =>
      segment.committedAt === undefined && segment.lastLsn <= upTo ? { ...segment, committedAt: now } : segment,
    );
    return now;
  }

  /** Removes what may go. What the disk refuses to remove waits for the next call. */
  removeDue(): void {
    for (
      let [oldest] = this.#segments;
      oldest !== undefined && this.isOver(oldest.committedAt);
      [oldest] = this.#segments
    ) {
      try {
        this.#remove(oldest.path);
      } catch (error) {
        if (systemErrorCode(error) === undefined) throw error;
        this.#lastError = error;
        return;
      }
      this.#lastError = undefined;
      this.#bytes -= oldest.bytes;
      this.#segments.shift();
    }
  }

  #remove(path: string): void {
    try {
      this.#disk.remove(path);
    } catch (error) {
      // Gone already: an earlier try removed it and failed to sync the directory.
      if (systemErrorCode(error) !== 'ENOENT') throw error;
    }
    this.#disk.syncDirectory(this.#directory);
  }
}
