/**
 * The full segments of a stream, oldest first, until they are removed. Shard thread.
 *
 * States: kept → committed (this process has seen the checkpoint at or above the last LSN of the segment) → removed
 * (the process has seen the checkpoint there again after the keep time).
 *
 * Time alone never removes a segment: after any outage a standby without the last commits may replace the database, and then
 * needs these records. The keep time starts when this process learns of the commit, so it starts again with every process.
 * Segments are removed oldest first, and each removal is synced, so a crash leaves no gap.
 */
import type { Clock } from '../../../core/clock.js';
import type { Lsn } from '../../../core/checkpoint.js';
import { systemErrorCode } from '../../../core/errors.js';
import type { Disk } from './disk.js';

/** A segment that takes no more records. */
export interface KeptSegment {
  readonly path: string;
  readonly lastLsn: Lsn;
  /** Bytes that its removal frees. */
  readonly bytes: number;
  /** When this process learned that all of its records are committed, monotonic ms. */
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

  /** Number of segments kept. */
  get count(): number {
    return this.#segments.length;
  }

  /** Why the last attempt to remove a segment failed; undefined if it did not. */
  get lastError(): unknown {
    return this.#lastError;
  }

  /**
   * Whether records committed at `committedAt` may be removed: their keep time had passed when the checkpoint was last
   * seen.
   */
  isOver(committedAt: number | undefined): boolean {
    return committedAt !== undefined && this.#seenAt - committedAt >= this.#keepMs;
  }

  /** Whether records committed at `committedAt` may be removed as soon as the checkpoint is seen once more. */
  isDue(committedAt: number | undefined): boolean {
    return committedAt !== undefined && this.#clock.monotonic() - committedAt >= this.#keepMs;
  }

  /** Whether the oldest segment may be removed, now or as soon as the checkpoint is seen once more. */
  get isRemovalDue(): boolean {
    return this.isDue(this.#segments[0]?.committedAt);
  }

  /** Adds the newest segment, whose successor has just become durable. */
  add(segment: KeptSegment): void {
    this.#segments.push(segment);
    this.#bytes += segment.bytes;
  }

  /**
   * Notes that the checkpoint was seen now, at `upTo`. It never moves back for one owner, so records that were
   * committed stay committed. Returns the time, for records up to `upTo` in other segments.
   */
  see(upTo: Lsn): number {
    const now = this.#clock.monotonic();
    this.#seenAt = now;
    this.#segments = this.#segments.map((segment) =>
      segment.committedAt === undefined && segment.lastLsn <= upTo ? { ...segment, committedAt: now } : segment,
    );
    return now;
  }

  /** Removes the segments that may be removed. If the disk refuses, the next call tries again. */
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
      // An earlier attempt removed it and failed to sync the directory.
      if (systemErrorCode(error) !== 'ENOENT') throw error;
    }
    this.#disk.syncDirectory(this.#directory);
  }
}
