/**
 * Decides when the subject of a stream is purged, and up to which message. Shard thread.
 *
 * Committed records are kept for a while, and then until the checkpoint is seen again under the same epoch: a failover of the
 * database may undo commits, even much later.
 *
 * A broker that has lost its last messages gives their sequences to later ones. So a purge first checks the message of the mark.
 *
 * Both lists are bounded: beyond their limit every second entry is dropped. Purges then take larger steps.
 */
import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';

const ENTRIES_MAX = 4096;

/** A message; a purge removes the messages before it. */
export interface PurgeMark {
  readonly sequence: number;
  /** Its last LSN; undefined: it is a fence. */
  readonly lsn: Lsn | undefined;
}

/** The purges of one stream. The first fence, and all messages behind it, stay. */
export class PurgeSchedule {
  readonly #keepMs: number;
  /** The last records of messages, in order. */
  #marks: { readonly lsn: Lsn; readonly sequence: number }[] = [];
  #commits: { readonly at: Checkpoint; readonly mark: PurgeMark; readonly dueAt: number }[] = [];
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

  /** Nothing is due until `release`, because the reader has not read all earlier messages. */
  hold(): void {
    this.#isHeld = true;
  }

  release(): void {
    this.#isHeld = false;
  }

  /** Forgets everything: the stream is read again. */
  clear(): void {
    this.#isHeld = false;
    this.#marks = [];
    this.#commits = [];
    this.#firstFence = Number.POSITIVE_INFINITY;
  }

  /** This process has moved the checkpoint of the stream to `at`. `now`: on the monotonic clock. */
  noteCommitted(at: Checkpoint, now: number): void {
    let last: PurgeMark | undefined;
    let committed = 0;
    for (const mark of this.#marks) {
      if (mark.lsn > at.lsn) break;
      last = mark;
      committed += 1;
    }
    if (last === undefined) return;
    this.#marks.splice(0, committed);
    this.#commits.push({ at, mark: last, dueAt: now + this.#keepMs });
    if (this.#commits.length > ENTRIES_MAX) this.#commits = thinned(this.#commits);
  }

  /**
   * The message before which everything may be purged; undefined: nothing new. `found`: the checkpoint at `now` or later;
   * undefined where the stream is not open. Due commits that the checkpoint does not cover are forgotten: another flusher
   * commits and purges now.
   */
  takeDue(now: number, found: Checkpoint | undefined): PurgeMark | undefined {
    if (this.#isHeld) return undefined;
    let due: PurgeMark | undefined;
    for (;;) {
      const [first] = this.#commits;
      if (first === undefined || first.dueAt > now) break;
      this.#commits.shift();
      if (found?.epoch === first.at.epoch && found.lsn >= first.at.lsn) due = first.mark;
    }
    const isFencedBefore = due !== undefined && this.#firstFence < due.sequence;
    return isFencedBefore ? { sequence: this.#firstFence, lsn: undefined } : due;
  }

  /** Nothing is left to purge unless the reader reads more. */
  get isEmpty(): boolean {
    return this.#isHeld || this.#commits.length === 0;
  }
}

/** Every second entry, the last one among them. */
function thinned<T>(entries: readonly T[]): T[] {
  return entries.filter((_, index) => (entries.length - 1 - index) % 2 === 0);
}
