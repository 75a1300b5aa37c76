/**
 * The writer of one stream of a journal that others can reach. Shard thread; one group under way at a time.
 *
 * ```text
 * open ──append──► sent ──in the journal──────────────────────────────────────────────► open
 *                   ├──not in the journal, never in doubt──► nothing kept ────────────► open
 *                   ├──no answer──► in doubt: exactly the same bytes again, under the same LSNs
 *                   │                └──too long──► its outcome is unknown──► over; open where its LSNs are burnt
 *                   └──another writer, or what was acknowledged is gone ──────────────► over
 * ```
 *
 * A group in doubt does not grow before it is sent again, and nothing else gets its LSNs: only then does "a record with this LSN is
 * there" mean that it is this very group. A writer that is over appends nothing more. What is in its stream is flushed by whoever
 * takes the stream.
 *
 * What differs from journal to journal is its {@link AppendTransport}.
 */
import { Backoff } from '../../../core/backoff.js';
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { pauseOn } from '../../../core/clock.js';
import { JournalError } from '../../../core/errors.js';
import { Turns } from '../../../core/turns.js';
import type { RecordBytes } from '../journal.js';
import type { StreamWriter, StreamWriterDeps } from '../stream-log.js';
import { emptyRecord } from './message-format.js';
import { StreamBacklog, type IncrementsAfter } from './stream-backlog.js';

const BACKOFF_FIRST_MS = 25;
const BACKOFF_MAX_MS = 500;

/** Why a stream is over for its writer. */
export interface StreamEnd {
  readonly because: string;
  /** The journal has lost records: everything above this LSN. */
  readonly lostAfterLsn?: Lsn | undefined;
}

/** How an attempt to append a group ended, as far as this process can know. */
export type AppendOutcome =
  /** The group is in the journal. */
  | { readonly kind: 'appended' }
  /** Nothing of this attempt is in the journal, nor ever will be. `isPassing`: worth a pause although nothing is in doubt. */
  | { readonly kind: 'refused'; readonly error: unknown; readonly isPassing?: boolean }
  /** It was sent and no answer came. */
  | { readonly kind: 'unknown'; readonly error: unknown }
  /** Another attempt says more, after a pause or at once. */
  | { readonly kind: 'again'; readonly mustPause: boolean }
  /** The stream is over. `isAppended`: whether the group is in the journal, or ever will be; undefined: it cannot be known. */
  | ({ readonly kind: 'over'; readonly isAppended: boolean | undefined } & StreamEnd);

/** A group under way. */
export interface SentGroup {
  readonly records: readonly RecordBytes[];
  readonly firstLsn: Lsn;
  readonly lastLsn: Lsn;
  /** The last LSN that was acknowledged before it. */
  readonly previousLsn: Lsn;
  /** The time of the database that its records carry. */
  readonly time: DatabaseTime;
  /** No record follows. */
  readonly isLast: boolean;
  /** Until then it may be in doubt, on the monotonic clock. */
  readonly until: number;
  /** An attempt may have reached the journal. */
  isSent: boolean;
}

/** What sends a group, as often as it takes. */
export interface GroupAttempts {
  /** Nothing is sent before it is known what is in the journal. */
  readonly isUnsure: boolean;
  /** Sends the group, or looks what became of it. Everything that it sends has the same bytes. */
  attempt(): Promise<AppendOutcome>;
  /** There is no time for another attempt. Why the stream is over by that; undefined: it goes on. */
  giveUp(): StreamEnd | undefined;
}

/** How groups of one stream come into a journal. */
export interface AppendTransport {
  /** The system that has the records, as messages name it. */
  readonly place: string;
  /** LSNs that were sent are never used again, whatever became of their group. */
  readonly burnsLsns: boolean;
  /** See {@link StreamWriter.isBeatDue}. */
  isBeatDue(isAlone: boolean): boolean;
  /** Why nothing more may be sent; undefined: it may. */
  readonly outdatedBecause: string | undefined;
  prepare(group: SentGroup, writer: SharedStreamWriter): GroupAttempts;
  /** See {@link StreamWriter.advanceAcceptedThrough}. */
  advanceAcceptedThrough(writer: SharedStreamWriter, time: DatabaseTime): Promise<boolean>;
  /**
   * Ends the stream of a writer with nothing under way. `appendLast` appends its last record. Resolves to whether the journal says
   * now that nothing follows.
   */
  close(writer: SharedStreamWriter, appendLast: () => Promise<Lsn>): Promise<boolean>;
}

/** The writer of one stream. */
export class SharedStreamWriter implements StreamWriter {
  readonly stream: string;
  readonly #transport: AppendTransport;
  readonly #deps: StreamWriterDeps;
  readonly #backlog = new StreamBacklog();
  readonly #turns = new Turns();
  #endLsn: Lsn;
  /** Above everything that was sent. */
  #nextLsn: Lsn;
  #checkpointLsn: Lsn = 0;
  #lastTime: DatabaseTime = 0;
  #underWay: { readonly group: SentGroup; readonly attempts: GroupAttempts } | undefined;
  #isOver = false;
  #endedBecause = 'it was left';
  #lostAfterLsn: Lsn | undefined;

  /** `lsn`: of the last record, which is acknowledged. */
  constructor(
    { stream, lsn }: { readonly stream: string; readonly lsn: Lsn },
    transport: AppendTransport,
    deps: StreamWriterDeps,
  ) {
    this.stream = stream;
    this.#endLsn = lsn;
    this.#nextLsn = lsn + 1;
    this.#transport = transport;
    this.#deps = deps;
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  /** The last checkpoint that it knows of. */
  get checkpointLsn(): Lsn {
    return this.#checkpointLsn;
  }

  /** The time that the last acknowledged group carries. */
  get lastTime(): DatabaseTime {
    return this.#lastTime;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  get endedBecause(): string {
    return this.#endedBecause;
  }

  get isAppending(): boolean {
    return this.#underWay !== undefined;
  }

  get isInDoubt(): boolean {
    return this.#underWay !== undefined && (this.#underWay.group.isSent || this.#underWay.attempts.isUnsure);
  }

  isBeatDue(isAlone: boolean): boolean {
    return this.#transport.isBeatDue(isAlone);
  }

  get bytes(): number {
    return this.#backlog.bytes;
  }

  get oldestAcceptedAtMs(): number {
    return this.#backlog.oldestAcceptedAtMs;
  }

  get lostAfterLsn(): Lsn | undefined {
    return this.#lostAfterLsn;
  }

  incrementsAfter(lsn: Lsn): IncrementsAfter {
    return this.#backlog.incrementsAfter(lsn);
  }

  noteCheckpoint(lsn: Lsn): void {
    this.#checkpointLsn = Math.max(this.#checkpointLsn, lsn);
    this.#backlog.noteCheckpoint(lsn);
  }

  end(because: string): void {
    if (!this.#isOver) this.#endedBecause = because;
    this.#isOver = true;
  }

  append(group: readonly RecordBytes[], time: DatabaseTime): Promise<Lsn> {
    return this.#turns.run(() => this.#append(group, time, false));
  }

  beat(time: DatabaseTime): Promise<Lsn> {
    return this.append([emptyRecord(this.#deps.clock.now())], time);
  }

  advanceAcceptedThrough(time: DatabaseTime): Promise<boolean> {
    return this.#transport.advanceAcceptedThrough(this, time);
  }

  /** Gives the word of an idle writer by a record without increments that carries `time`. False: the stream is over. Rejects as `append`. */
  async advanceByRecord(time: DatabaseTime): Promise<boolean> {
    if (this.#isOver) return false;
    if (time <= this.#lastTime) return true;
    try {
      await this.beat(time);
      return true;
    } catch (error) {
      const isUnknown = error instanceof JournalError && error.code === 'journal-failed';
      if (!this.#isOver && !isUnknown) throw error;
      return !this.#isOver;
    }
  }

  /**
   * Ends the stream, after the group under way. Resolves to whether the journal says so; otherwise whoever takes the stream ends
   * it, or it expires.
   */
  close(): Promise<boolean> {
    return this.#turns.run(async () => {
      if (this.#isOver) return false;
      const last = [emptyRecord(this.#deps.clock.now())];
      return this.#transport.close(this, () => this.#append(last, this.#lastTime, true));
    });
  }

  async #append(records: readonly RecordBytes[], time: DatabaseTime, isLast: boolean): Promise<Lsn> {
    const { clock, doubtMaxMs } = this.#deps;
    const { burnsLsns, outdatedBecause } = this.#transport;
    if (outdatedBecause !== undefined) this.end(outdatedBecause);
    if (this.#isOver) throw new JournalError('journal-fenced', 'The stream is over.');
    const firstLsn = burnsLsns ? this.#nextLsn : this.#endLsn + 1;
    this.#nextLsn = firstLsn + records.length;
    const facts = { records, firstLsn, lastLsn: this.#nextLsn - 1, previousLsn: this.#endLsn, time, isLast };
    const group: SentGroup = { ...facts, until: clock.monotonic() + doubtMaxMs, isSent: false };
    const attempts = this.#transport.prepare(group, this);
    this.#underWay = { group, attempts };
    try {
      await this.#settle(group, attempts);
    } finally {
      this.#underWay = undefined;
    }
    this.#lastTime = time;
    const now = clock.monotonic();
    for (const [index, record] of records.entries()) this.#backlog.add(firstLsn + index, record, now);
    this.#endLsn = group.lastLsn;
    return this.#endLsn;
  }

  /** Settles where the group is in the journal. Otherwise it rejects, and no later answer counts. */
  async #settle(group: SentGroup, attempts: GroupAttempts): Promise<void> {
    const { clock, unavailable } = this.#deps;
    const backoff = new Backoff(BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
    for (;;) {
      const outcome = await attempts.attempt();
      const mustPause = outcome.kind !== 'again' || outcome.mustPause;
      switch (outcome.kind) {
        case 'appended':
          return;
        case 'over':
          this.#noteEnd(outcome);
          if (outcome.isAppended === true) return;
          throw outcome.isAppended === false ? this.#fenced() : this.#failed();
        case 'refused':
          if (!group.isSent && outcome.isPassing !== true) throw this.#refused(outcome.error);
          if (group.isSent) unavailable(outcome.error);
          break;
        case 'unknown':
          group.isSent = true;
          unavailable(outcome.error);
          break;
        case 'again':
          break;
      }
      if (clock.monotonic() + (mustPause ? backoff.nextMs : 0) >= group.until)
        throw this.#givenUp(group, attempts, 'error' in outcome ? outcome.error : undefined);
      if (mustPause) await pauseOn(clock, backoff.take());
    }
  }

  #givenUp(group: SentGroup, attempts: GroupAttempts, error: unknown): JournalError {
    const end = attempts.giveUp();
    if (end !== undefined) this.#noteEnd(end);
    if (group.isSent) return this.#failed();
    if (end !== undefined) return this.#fenced();
    // Nothing was refused either: the answers take so long that nothing could be sent by them.
    return this.#refused(error ?? new Error(`${this.#transport.place} needs too long for each answer`));
  }

  #noteEnd({ because, lostAfterLsn }: StreamEnd): void {
    this.end(because);
    this.#lostAfterLsn ??= lostAfterLsn;
  }

  #refused(cause: unknown): JournalError {
    this.#deps.unavailable(cause);
    return new JournalError('journal-unavailable', `${this.#transport.place} does not take the journal now.`, {
      cause,
    });
  }

  #failed(): JournalError {
    const what = `${this.#transport.place} did not say whether it has a group of stream ${this.stream}.`;
    return new JournalError('journal-failed', what);
  }

  #fenced(): JournalError {
    const what = `Stream ${this.stream} was over before the group was in it: ${this.#endedBecause}.`;
    return new JournalError('journal-fenced', what);
  }
}
