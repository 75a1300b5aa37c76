/**
 * What a shard does for its journal besides appending and pruning, once a second. Shard thread.
 *
 * Room of the bound: a journal removes nothing by the clock, only when the checkpoint is seen
 * (`journal/file/kept-segments.ts`). Under load every flush sees it. A shard that has nothing to flush would see it with its
 * next idle touch only, and meanwhile refuse increments for want of room that is as good as free; so it asks for that touch
 * as soon as it would give room back.
 *
 * Room of the disk: that an append was refused is remembered until there is room for it again, so that probes hear of it.
 * The shard looks for that room itself: a load balancer that believes the probe sends no increment to find it. While there
 * is room, the journal sets some aside for a start on a full disk.
 */
import { JournalError } from '../../../core/errors.js';
import type { Clock, Timer } from '../../../core/clock.js';
import type { Lsn } from '../../../core/checkpoint.js';
import { STAT } from '../../protocol/stats.js';
import { RECORD_HEADER_BYTES } from '../../protocol/record-layout.js';
import type { Journal, JournalStreams, RecordBytes } from '../../journal/journal.js';
import type { OwnedStream, ShardLog } from './owned-stream.js';

const INTERVAL_MS = 1000;

/** What the upkeep needs of its shard. */
export interface JournalUpkeepDeps {
  readonly clock: Clock;
  readonly stats: Float64Array;
  readonly log: ShardLog;
  readonly journals: Pick<JournalStreams, 'tend'>;
  readonly streams: () => readonly OwnedStream[];
  /** The journal is dead: the shard cannot go on. */
  readonly fail: (error: unknown) => void;
}

interface Refusal {
  readonly journal: Journal;
  readonly bytes: number;
  readonly error: JournalError;
  isLogged: boolean;
}

/** The upkeep of one shard's journals. */
export class JournalUpkeep {
  readonly #deps: JournalUpkeepDeps;
  #refusal: Refusal | undefined;
  #timer: Timer | undefined;

  constructor(deps: JournalUpkeepDeps) {
    this.#deps = deps;
    this.#publish();
  }

  /** Begins to look after them. */
  start(): void {
    this.#timer = this.#deps.clock.schedule(INTERVAL_MS, () => {
      this.start();
      this.#look();
    });
  }

  /** Ends that. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  /** Appends as the journal does. */
  append(journal: Journal, group: readonly RecordBytes[]): Lsn | Promise<Lsn> {
    let lsn: Lsn | Promise<Lsn>;
    try {
      lsn = journal.append(group);
    } catch (error) {
      this.#noticeError(journal, bytesOf(group), error);
      throw error;
    }
    if (typeof lsn === 'number') {
      this.#noticeRoom();
      return lsn;
    }
    return lsn.then(
      (last) => {
        this.#noticeRoom();
        return last;
      },
      (error: unknown) => {
        this.#noticeError(journal, bytesOf(group), error);
        throw error;
      },
    );
  }

  /** The disk was full a moment ago: whether there is room for a first record in `journal` has to be found out. */
  expectRefusal(journal: Journal): void {
    const error = new JournalError('journal-unavailable', 'The disk has no room to go on with the journal.');
    this.#noticeError(journal, RECORD_HEADER_BYTES, error);
  }

  #look(): void {
    for (const { journal, flusher } of this.#deps.streams()) if (journal.isPruneDue) flusher.touchSoon();
    const refusal = this.#refusal;
    if (refusal === undefined) {
      this.#deps.journals.tend();
      return;
    }
    // Not with each refusal: on a disk that is nearly full a small group may fit where a large one has not.
    if (!refusal.isLogged) this.#deps.log('warn', { err: refusal.error }, 'The disk takes no more increments');
    refusal.isLogged = true;
    try {
      refusal.journal.reserve(refusal.bytes);
    } catch (error) {
      if (!(error instanceof JournalError) || !error.nothingKept) this.#deps.fail(error);
      if (!(error instanceof JournalError) || error.code !== 'journal-full') return;
      // That is a matter of the bound, of which the router knows.
    }
    this.#noticeRoom();
  }

  #noticeError(journal: Journal, bytes: number, error: unknown): void {
    if (!(error instanceof JournalError) || error.code !== 'journal-unavailable') return;
    this.#refusal = { journal, bytes, error, isLogged: this.#refusal?.isLogged ?? false };
    this.#publish();
  }

  #noticeRoom(): void {
    const refusal = this.#refusal;
    if (refusal === undefined) return;
    if (refusal.isLogged) this.#deps.log('info', {}, 'The disk takes increments again');
    this.#refusal = undefined;
    this.#publish();
  }

  #publish(): void {
    this.#deps.stats[STAT.journalRefused] = this.#refusal === undefined ? 0 : 1;
  }
}

function bytesOf(group: readonly RecordBytes[]): number {
  return group.reduce((sum, record) => sum + record.byteLength, 0);
}
