/**
 * Up to where the subject of a stream may be purged, and when. Shard thread.
 *
 * A commit stays to be purged for a while, and then until a look at the checkpoint finds it again, under the same epoch: a failover
 * of the database takes commits back, perhaps long after them.
 *
 * Both lists are bounded: beyond their limit every second entry is forgotten. Then less is purged at a time, and the same in the
 * end.
 */
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';

const ENTRIES_MAX = 4096;

/** The purges of one stream. Fences stay, with all that follows the first one. */
export class PurgeSchedule {
  readonly #keepMs: number;
  /** The last records of messages, in order. */
  #marks: { readonly lsn: Lsn; readonly sequence: number }[] = [];
  #commits: { readonly at: Checkpoint; readonly sequence: number; readonly dueAt: number }[] = [];
  #firstFence = Number.POSITIVE_INFINITY;
  #isHeld = false;

  /** `keepMs`: how long a committed record stays. */
  constructor(keepMs: number) {
    this.#keepMs = keepMs;
  }

  /** The message at `sequence` has the records up to `lsn`. */
  noteMessage(lsn: Lsn, sequence: number): void {
    const last = this.#marks.at(-1);
    if (last !== undefined && (lsn <= last.lsn || sequence <= last.sequence)) return;
    this.#marks.push({ lsn, sequence });
    if (this.#marks.length > ENTRIES_MAX) this.#marks = thinned(this.#marks);
  }

  /** There is a fence at `sequence`. */
  noteFence(sequence: number): void {
    this.#firstFence = Math.min(this.#firstFence, sequence);
  }

  /** Nothing is due until `release`: not everything that would go was read. */
  hold(): void {
    this.#isHeld = true;
  }

  release(): void {
    this.#isHeld = false;
  }

  /** Forgets what would be due: the stream is read once more. */
  clear(): void {
    this.#isHeld = false;
    this.#marks = [];
    this.#commits = [];
  }

  /** This process has moved the checkpoint of the stream to `at`. `now`: on the monotonic clock. */
  noteCommitted(at: Checkpoint, now: number): void {
    let sequence: number | undefined;
    let committed = 0;
    for (const mark of this.#marks) {
      if (mark.lsn > at.lsn) break;
      ({ sequence } = mark);
      committed += 1;
    }
    if (sequence === undefined) return;
    this.#marks.splice(0, committed);
    this.#commits.push({ at, sequence, dueAt: now + this.#keepMs });
    if (this.#commits.length > ENTRIES_MAX) this.#commits = thinned(this.#commits);
  }

  /**
   * The sequence below which everything may go; undefined: nothing more than before. `found`: the checkpoint as it was at `now` or
   * later; undefined where the stream is not open. Commits that are due and not found again are forgotten: whoever flushes the
   * stream now commits and purges.
   */
  takeDue(now: number, found: Checkpoint | undefined): number | undefined {
    if (this.#isHeld) return undefined;
    let due: number | undefined;
    for (;;) {
      const [first] = this.#commits;
      if (first === undefined || first.dueAt > now) break;
      this.#commits.shift();
      if (found?.epoch === first.at.epoch && found.lsn >= first.at.lsn) due = first.sequence;
    }
    return due === undefined ? undefined : Math.min(due, this.#firstFence);
  }

  /** Nothing is left to purge for somebody who reads no more. */
  get isEmpty(): boolean {
    return this.#isHeld || this.#commits.length === 0;
  }
}

/** Every second entry, the last one among them. */
function thinned<T>(entries: readonly T[]): T[] {
  return entries.filter((_, index) => (entries.length - 1 - index) % 2 === 0);
}
