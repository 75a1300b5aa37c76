/**
 * The writer of one stream of the log. Shard thread; one append at a time.
 *
 * ```text
 * open ──append──► sent ──in the log───────────────────────────────────────────► open
 *                   ├──not in the log, never sent before──► nothing kept ──────► open
 *                   ├──another writer, or a gap──► over
 *                   └──no answer──► in doubt: exactly the same group again ──in the log──► open
 *                                     ├──another writer──► the last LSN says whether it is in the log──► over
 *                                     └──too long────────► its outcome is unknown──► over
 * ```
 *
 * Records get their LSNs here, without gaps. A group in doubt must not grow before it is sent again, and nothing else may get
 * its LSNs: only then does "a record with this LSN is there" mean that it is this very group. A writer that is over appends
 * nothing more. What is in its stream is flushed by whoever takes the stream.
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import type { RecordBytes } from '../journal.js';
import type { BegunStream, StreamWriter, StreamWriterDeps } from '../stream-log.js';
import { StreamBacklog, type IncrementsAfter } from '../stream-backlog.js';
import { GroupEncoder, type EncodedGroup } from './log-records.js';

const BACKOFF_FIRST_MS = 25;
const BACKOFF_MAX_MS = 500;

/** How an append ended, as far as this process can know. */
export type AppendOutcome =
  /** The group is in the log. */
  | { readonly kind: 'appended' }
  /** Records with these LSNs are in the log: if this very group was sent before, it is those. */
  | { readonly kind: 'present' }
  /** Nothing is in the log: the stream has another writer, or has ended. */
  | { readonly kind: 'fenced' }
  /** Nothing is in the log, and the record before the group is gone: a failover has taken it back. */
  | { readonly kind: 'gap' }
  /** Nothing of this attempt is in the log. */
  | { readonly kind: 'refused'; readonly error: unknown }
  /** It was sent and no answer came. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/** Where the writer appends. */
export interface AppendLog {
  /** Appends a group whose first record gets `firstLsn`. */
  append(
    stream: string,
    appendEpoch: string,
    time: DatabaseTime,
    firstLsn: Lsn,
    group: EncodedGroup,
  ): Promise<AppendOutcome>;
  /** The last LSN that the stream has ever had; undefined where the database does not know the stream any more. */
  lastLsn(stream: string): Promise<Lsn | undefined>;
}

/** What the writer needs. */
export interface LogWriterDeps extends StreamWriterDeps {
  readonly incrementLog: AppendLog;
}

/** The writer of one stream. */
export class LogWriter implements StreamWriter {
  readonly stream: string;
  readonly appendEpoch: string;
  readonly #deps: LogWriterDeps;
  readonly #encoder = new GroupEncoder();
  readonly #backlog = new StreamBacklog();
  #endLsn: Lsn;
  #isAppending = false;
  #isInDoubt = false;
  #isOver = false;
  #endedBecause = 'it was left';
  #lostAfterLsn: Lsn | undefined;

  constructor(begun: BegunStream, deps: LogWriterDeps) {
    this.stream = begun.stream;
    this.appendEpoch = begun.appendEpoch;
    this.#endLsn = begun.lsn;
    this.#deps = deps;
  }

  get endLsn(): Lsn {
    return this.#endLsn;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  get endedBecause(): string {
    return this.#endedBecause;
  }

  get isAppending(): boolean {
    return this.#isAppending;
  }

  get isInDoubt(): boolean {
    return this.#isInDoubt;
  }

  get bytes(): number {
    return this.#backlog.bytes;
  }

  get oldestAcceptedAtMs(): number {
    return this.#backlog.oldestAcceptedAtMs;
  }

  /** What a failover has taken back, where that was found: everything above this LSN. */
  get lostAfterLsn(): Lsn | undefined {
    return this.#lostAfterLsn;
  }

  incrementsAfter(lsn: Lsn): IncrementsAfter {
    return this.#backlog.incrementsAfter(lsn);
  }

  noteCheckpoint(lsn: Lsn): void {
    this.#backlog.noteCheckpoint(lsn);
  }

  end(because: string): void {
    this.#over(because);
  }

  #over(because: string): void {
    if (!this.#isOver) this.#endedBecause = because;
    this.#isOver = true;
  }

  /**
   * Appends a group, and resolves to its last LSN. Rejects with JournalError `journal-unavailable` or `journal-fenced`: nothing is
   * in the log, nor ever will be; with `journal-failed`: it may be in the log, and the stream is over.
   */
  async append(group: readonly RecordBytes[], time: DatabaseTime): Promise<Lsn> {
    if (this.#isOver) throw new JournalError('journal-fenced', 'The stream is over.');
    this.#isAppending = true;
    try {
      await this.#send(this.#encoder.encode(group), time);
    } finally {
      this.#isAppending = false;
      this.#isInDoubt = false;
    }
    this.#note(group);
    return this.#endLsn;
  }

  /** Settles where the group is in the log. */
  async #send(group: EncodedGroup, time: DatabaseTime): Promise<void> {
    const { incrementLog, clock, doubtMaxMs, unavailable } = this.#deps;
    const until = clock.monotonic() + doubtMaxMs;
    for (let backoffMs = BACKOFF_FIRST_MS; ; backoffMs = Math.min(2 * backoffMs, BACKOFF_MAX_MS)) {
      const outcome = await incrementLog.append(this.stream, this.appendEpoch, time, this.#endLsn + 1, group);
      switch (outcome.kind) {
        case 'appended':
          return;
        case 'present':
          if (this.#isInDoubt) return;
          this.#over('it has records that this process did not write');
          throw new JournalError(
            'journal-fenced',
            `Stream ${this.stream} has records that this process did not write.`,
          );
        case 'fenced':
        case 'gap':
          this.#over(outcome.kind === 'gap' ? 'the database has gone back' : 'another server has taken it over');
          if (this.#isInDoubt) return this.#lookUp(group, outcome.kind === 'gap', until);
          await this.#findLost(until);
          throw new JournalError('journal-fenced', `Another process has taken stream ${this.stream} over.`);
        case 'refused':
          unavailable(outcome.error);
          if (!this.#isInDoubt) throw refused(outcome.error);
          break;
        case 'unknown':
          unavailable(outcome.error);
          this.#isInDoubt = true;
      }
      if (clock.monotonic() + backoffMs >= until) {
        this.#over('a group of it was in doubt for too long');
        throw new JournalError(
          'journal-failed',
          `PostgreSQL did not say whether it has a group of stream ${this.stream}.`,
        );
      }
      await this.#pause(backoffMs);
    }
  }

  /**
   * The stream has another writer: whether the group in doubt came before that. After a failover that has taken it back, whoever
   * has read it before, and still has the flushes, may count it.
   */
  async #lookUp(group: EncodedGroup, isGap: boolean, until: number): Promise<void> {
    const last = await this.#findLost(until);
    if (last !== undefined && last >= this.#endLsn + group.records) return;
    if (last === undefined || isGap)
      throw new JournalError('journal-failed', `It cannot be known any more what stream ${this.stream} holds.`);
    throw new JournalError('journal-fenced', `Another process has taken stream ${this.stream} over.`);
  }

  /** The last LSN; below that of the last acknowledged record, a failover has taken back what is between. */
  async #findLost(until: number): Promise<Lsn | undefined> {
    const last = await this.#lastLsn(until);
    if (last !== undefined && last < this.#endLsn) this.#lostAfterLsn = last;
    return last;
  }

  /** Undefined where the database does not know, or does not answer in time. */
  async #lastLsn(until: number): Promise<Lsn | undefined> {
    for (;;) {
      try {
        return await this.#deps.incrementLog.lastLsn(this.stream);
      } catch (error) {
        if (!(error instanceof CounterError) || error.code !== 'database-unavailable') throw error;
        this.#deps.unavailable(error);
        if (this.#deps.clock.monotonic() + BACKOFF_MAX_MS >= until) return undefined;
        await this.#pause(BACKOFF_MAX_MS);
      }
    }
  }

  /** The group is in the log. */
  #note(group: readonly RecordBytes[]): void {
    const now = this.#deps.clock.monotonic();
    for (const record of group) {
      this.#endLsn += 1;
      this.#backlog.add(this.#endLsn, record, now);
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#deps.clock.schedule(ms, resolve);
    });
  }
}

function refused(cause: unknown): JournalError {
  return new JournalError('journal-unavailable', 'PostgreSQL does not take the journal now.', { cause });
}
