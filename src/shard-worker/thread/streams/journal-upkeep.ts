/**
 * Upkeep of a shard's journals once a second, besides appending and pruning. Shard thread.
 *
 * - Room that a flush makes: starts a flush after a refusal for lack of room, whatever FLUSH_INTERVAL_MS is. Early flushes
 *   (`flush/early-flush.ts`) prevent most such refusals, but a body may need more room than is left.
 * - Room under JOURNAL_MAX_BYTES: a journal removes records only when it learns the checkpoint, never by the clock
 *   (`journal/file/kept-segments.ts`). Flushes and touches tell it. So an idle shard asks for a touch as soon as that would
 *   release room. Otherwise it would refuse increments until the next regular touch.
 * - Room on the disk: a refused append is remembered until there is room for it, so that probes report it. The shard checks for
 *   room itself, because a load balancer may send no increments meanwhile. While there is room, the journal reserves some for a
 *   start on a full disk.
 * - Files that were removed or replaced under the server count as a refusal too, until they are back.
 */
import { JournalError } from '../../../core/errors.js';
import { repeat, type Clock, type Timer } from '../../../core/clock.js';
import { Episode } from '../../../core/episode.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { STAT } from '../../protocol/stats.js';
import { RECORD_HEADER_BYTES } from '../../protocol/record-layout.js';
import { isDiskFull } from '../../journal/file/disk-reserve.js';
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
  /** The journal has failed: the shard cannot go on. */
  readonly fail: (error: unknown) => void;
}

interface Refusal {
  readonly journal: Journal;
  readonly bytes: number;
  readonly error: JournalError;
  readonly isFull: boolean;
}

/** The upkeep of one shard's journals. */
export class JournalUpkeep {
  readonly #deps: JournalUpkeepDeps;
  #refusal: Refusal | undefined;
  /** Groups that the disk refused since the last log line. */
  #unlogged = 0;
  readonly #episode: Episode;
  #timer: Timer | undefined;

  constructor(deps: JournalUpkeepDeps) {
    this.#deps = deps;
    this.#episode = new Episode(deps.clock);
    this.#publish();
  }

  /** Begins the upkeep. */
  start(): void {
    this.#timer = repeat(this.#deps.clock, INTERVAL_MS, () => {
      this.#look();
    });
  }

  /** Ends the upkeep. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  /** Appends as {@link Journal.append} does, and notes a refusal. */
  append(journal: Journal, group: readonly RecordBytes[], time: DatabaseTime): Lsn {
    try {
      const lsn = journal.append(group, time);
      this.#noticeRoom();
      return lsn;
    } catch (error) {
      this.#noticeError(journal, bytesOf(group), error);
      throw error;
    }
  }

  /** The disk was just full, so room for a first record in `journal` counts as refused until it is found. */
  expectRefusal(journal: Journal): void {
    const error = new JournalError('journal-unavailable', 'The disk has no room for the journal; free some space.');
    this.#note({ journal, bytes: RECORD_HEADER_BYTES, error, isFull: true });
  }

  #look(): void {
    // Once a second: requests may be refused far more often.
    if (this.#deps.stats[STAT.roomWanted] === 1) {
      this.#deps.stats[STAT.roomWanted] = 0;
      for (const { flusher } of this.#deps.streams()) flusher.flushSoon();
    }
    for (const { journal, flusher } of this.#deps.streams()) {
      if (journal.isPruneDue) flusher.touchSoon();
      this.#checkPlace(journal);
    }
    const refusal = this.#refusal;
    if (refusal === undefined) {
      this.#deps.journals.tend();
      return;
    }
    // At most once a second. On a nearly full disk, small groups may fit between refused large ones.
    this.#say(refusal);
    try {
      refusal.journal.reserve(refusal.bytes);
    } catch (error) {
      if (!(error instanceof JournalError) || !error.nothingKept) this.#deps.fail(error);
      if (!(error instanceof JournalError) || error.code !== 'journal-full') return;
      // The router checks JOURNAL_MAX_BYTES (`journal-full`).
    }
    this.#noticeRoom();
  }

  /** A write to a removed file succeeds, so only a check notices that records go nowhere. */
  #checkPlace(journal: Journal): void {
    if (!journal.takesRecords || this.#refusal !== undefined) return;
    try {
      journal.requireInPlace();
    } catch (error) {
      this.#noticeError(journal, RECORD_HEADER_BYTES, error);
    }
  }

  #say({ error, isFull }: Refusal): void {
    const line = this.#episode.notice(this.#unlogged);
    this.#unlogged = 0;
    if (line === undefined) return;
    const what = isFull ? 'Disk full' : 'The disk refuses the journal';
    const event = line.kind === 'begins' ? what : `${what} for ${line.seconds} s now`;
    const fields = { err: error, refusedGroups: line.since };
    this.#deps.log('warn', fields, `${event}; refusing increments until it takes them again`);
  }

  #noticeError(journal: Journal, bytes: number, error: unknown): void {
    if (!(error instanceof JournalError) || error.code !== 'journal-unavailable') return;
    this.#note({ journal, bytes, error, isFull: isDiskFull(error.cause) });
  }

  #note(refusal: Refusal): void {
    this.#refusal = refusal;
    this.#unlogged += 1;
    this.#publish();
  }

  #noticeRoom(): void {
    if (this.#refusal === undefined) return;
    const line = this.#episode.end();
    if (line !== undefined) {
      const fields = { seconds: line.seconds, refusedGroups: line.total + this.#unlogged };
      this.#deps.log('info', fields, 'The disk takes the journal again; taking increments');
    }
    this.#unlogged = 0;
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
