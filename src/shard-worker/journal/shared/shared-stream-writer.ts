/**
 * The writer of one stream of a shared journal. Shard thread; one group under way at a time.
 *
 * ```text
 * open ──append──► sent ──in the journal──────────────────────────────────────────────► open
 *                   ├──not in the journal, never in doubt──► nothing kept ────────────► open
 *                   ├──no answer──► in doubt: the same bytes again, under the same LSNs
 *                   │                └──too long──► over; open where its LSNs are burnt
 *                   └──fenced, or acknowledged records are lost ──────────────────────► over
 * ```
 *
 * A group in doubt does not grow before it is sent again, and no other group gets its LSNs. So a record that is found with one
 * of these LSNs belongs to this group. A writer that is over appends nothing more; whoever takes the stream flushes it.
 *
 * Each journal has its own {@link AppendTransport}.
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

/** Why a stream ended for its writer. */
export interface StreamEnd {
  readonly because: string;
  /** The journal has lost records: everything above this LSN. */
  readonly lostAfterLsn?: Lsn | undefined;
}

/** The outcome of an attempt to append a group, as far as this process knows it. */
export type AppendOutcome =
  /** The group is in the journal. */
  | { readonly kind: 'appended' }
  /** This attempt will never be in the journal. `isPassing`: retry after a pause, although nothing is in doubt. */
  | { readonly kind: 'refused'; readonly error: unknown; readonly isPassing?: boolean }
  /** In doubt: it was sent and no answer came. */
  | { readonly kind: 'unknown'; readonly error: unknown }
  /** Another attempt is needed, after a pause or at once. */
  | { readonly kind: 'again'; readonly mustPause: boolean }
  /** The stream has ended. `isAppended`: whether the group is, or will be, in the journal; undefined: in doubt for ever. */
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
  /** The end of the attempts, on the monotonic clock. */
  readonly until: number;
  /** An attempt may have reached the journal. */
  isSent: boolean;
}

/** Sends one group, repeatedly if needed. */
export interface GroupAttempts {
  /** The journal must be read before the group is sent. */
  readonly isUnsure: boolean;
  /** Sends the group, always with the same bytes, or looks for it in the journal. */
  attempt(): Promise<AppendOutcome>;
  /** No time is left for another attempt. Returns why that ends the stream; undefined: it does not. */
  giveUp(): StreamEnd | undefined;
}

/** Appends the groups of one stream to a journal. */
export interface AppendTransport {
  /** The system that stores the records, for messages. */
  readonly place: string;
  /** LSNs that were sent are never used again, whatever the outcome. */
  readonly burnsLsns: boolean;
  /** See {@link StreamWriter.isBeatDue}. */
  isBeatDue(isAlone: boolean): boolean;
  /** Why nothing more may be sent; undefined: appends are allowed. */
  readonly outdatedBecause: string | undefined;
  prepare(group: SentGroup, writer: SharedStreamWriter): GroupAttempts;
  /** See {@link StreamWriter.advanceAcceptedThrough}. */
  advanceAcceptedThrough(writer: SharedStreamWriter, time: DatabaseTime): Promise<boolean>;
  /**
   * Ends the stream of a writer that appends nothing now. `appendLast` appends its last record. Resolves to whether the journal
   * records the end.
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
  /** Above all LSNs that were sent. */
  #nextLsn: Lsn;
  #checkpointLsn: Lsn = 0;
  #lastTime: DatabaseTime = 0;
  #underWay: { readonly group: SentGroup; readonly attempts: GroupAttempts } | undefined;
  #isOver = false;
  #endedBecause = 'it was released';
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

  /** The last known checkpoint. */
  get checkpointLsn(): Lsn {
    return this.#checkpointLsn;
  }

  /** The time of the last acknowledged group. */
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

  /** As {@link StreamWriter.advanceAcceptedThrough}, by a record without increments that carries `time`. Rejects as `append`. */
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
   * Ends the stream, after the group under way. Resolves to whether the journal records the end. Otherwise whoever takes the
   * stream retires it, or it expires.
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
    if (this.#isOver) throw new JournalError('journal-fenced', 'The stream has ended.');
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

  /** Resolves once the group is in the journal. After a rejection no later answer counts. */
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
    // Each look was answered too late for the group to be sent.
    return this.#refused(error ?? new Error(`${this.#transport.place} answers too slowly`));
  }

  #noteEnd({ because, lostAfterLsn }: StreamEnd): void {
    this.end(because);
    this.#lostAfterLsn ??= lostAfterLsn;
  }

  #refused(cause: unknown): JournalError {
    this.#deps.unavailable(cause);
    return new JournalError('journal-unavailable', `${this.#transport.place} accepts no records now.`, {
      cause,
    });
  }

  #failed(): JournalError {
    const what = `${this.#transport.place} did not answer; it may have a group of stream ${this.stream}.`;
    return new JournalError('journal-failed', what);
  }

  #fenced(): JournalError {
    const what = `Stream ${this.stream} ended before the group was appended: ${this.#endedBecause}.`;
    return new JournalError('journal-fenced', what);
  }
}
