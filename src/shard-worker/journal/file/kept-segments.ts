/**
 * The segments of a stream that take no more records, oldest first, until they are removed. Shard thread.
 *
 * Each goes through: kept → committed (the checkpoint has passed its last LSN, seen by this process) → removed, no sooner
 * than the keep time later. The delay is counted from when this process learned of the commit, so it starts anew with
 * every process: a database that fails over to a standby may take the last commits back. Removal is oldest first and
 * synced one by one, so that what a crash leaves is always a run without holes.
 */
import type { Clock, Timer } from '../../../clock.js';
import type { Lsn } from '../../../increment.js';
import { systemErrorCode, type Disk } from './disk.js';

/** How soon removal is tried again after the disk refused it. */
const RETRY_MS = 1000;

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
  #timer: Timer | undefined;
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

  /** Whether what was committed at `committedAt` has been kept for long enough. */
  isOver(committedAt: number | undefined): boolean {
    return committedAt !== undefined && this.#clock.monotonic() - committedAt >= this.#keepMs;
  }

  /** Adds the segment that has just got a durable successor; the newest of all. */
  add(segment: KeptSegment): void {
    this.#segments.push(segment);
    this.#bytes += segment.bytes;
  }

  /** Everything up to `upTo` is committed. */
  commit(upTo: Lsn): void {
    const now = this.#clock.monotonic();
    this.#segments = this.#segments.map((segment) =>
      segment.committedAt === undefined && segment.lastLsn <= upTo ? { ...segment, committedAt: now } : segment,
    );
  }

  /** Removes what has been kept for long enough, and comes back by itself for the rest. */
  removeDue(): void {
    let retry = false;
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
        retry = true;
        break;
      }
      this.#lastError = undefined;
      this.#bytes -= oldest.bytes;
      this.#segments.shift();
    }
    this.#schedule(retry);
  }

  /** Stops coming back. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
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

  #schedule(retry: boolean): void {
    const committedAt = this.#segments[0]?.committedAt;
    if (committedAt === undefined || this.#timer !== undefined) return;
    const dueIn = Math.max(committedAt + this.#keepMs - this.#clock.monotonic(), 0);
    this.#timer = this.#clock.schedule(retry ? Math.max(dueIn, RETRY_MS) : dueIn, () => {
      this.#timer = undefined;
      this.removeDue();
    });
  }
}
