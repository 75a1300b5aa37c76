/**
 * What a shard looks after between its appends and flushes, once a second. Shard thread.
 *
 * A journal removes nothing by the clock: only when the checkpoint is seen (`journal/file/kept-segments.ts`). Under load
 * every flush sees it. A shard that has nothing to flush would see it with its next idle touch only, and meanwhile refuse
 * increments for want of room that is as good as free; so it asks for that touch as soon as it would give room back.
 */
import type { Clock, Timer } from '../clock.js';
import type { OwnedStream } from './owned-stream.js';

const INTERVAL_MS = 1000;

/** The upkeep of one shard's journals. */
export class JournalUpkeep {
  readonly #clock: Clock;
  readonly #streams: () => readonly OwnedStream[];
  #timer: Timer | undefined;

  constructor(clock: Clock, streams: () => readonly OwnedStream[]) {
    this.#clock = clock;
    this.#streams = streams;
  }

  /** Begins to look after them. */
  start(): void {
    this.#timer = this.#clock.schedule(INTERVAL_MS, () => {
      this.start();
      for (const { journal, flusher } of this.#streams()) if (journal.isPruneDue) flusher.touchSoon();
    });
  }

  /** Ends that. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}
