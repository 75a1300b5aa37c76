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
import type { Clock } from '../../../core/clock.js';
import { CounterError, JournalError } from '../../../core/errors.js';
import { readUint64, RECORD_OFFSET } from '../../protocol/record-layout.js';
import type { RecordBytes } from '../journal.js';
import type { BegunStream, IncrementLog } from './increment-log.js';
import { GroupEncoder, type EncodedGroup } from './log-records.js';

const BACKOFF_FIRST_MS = 25;
const BACKOFF_MAX_MS = 500;
/** Records that came within this time are one part of the backlog. */
const PART_MS = 250;
/** Flushed parts whose counts are kept, should a failover take them back: those of five minutes. */
const FLUSHED_PARTS_MAX = 1_200;

/** What the writer needs of its shard. */
export interface LogWriterDeps {
  readonly incrementLog: Pick<IncrementLog, 'append' | 'lastLsn'>;
  readonly clock: Clock;
  /** How long a group may be in doubt. */
  readonly doubtMaxMs: number;
  /** The database did not take a group, or does not answer. */
  readonly unavailable: (error: unknown) => void;
}

/** Records above the checkpoint that came one after the other. */
interface BacklogPart {
  lastLsn: Lsn;
  readonly acceptedAtMs: number;
  readonly beganAtMs: number;
  bytes: number;
  increments: number;
}

/** The writer of one stream. */
export class LogWriter {
  readonly stream: string;
  readonly appendEpoch: string;
  readonly #deps: LogWriterDeps;
  readonly #encoder = new GroupEncoder();
  readonly #backlog: BacklogPart[] = [];
  /** The last parts that left the backlog, oldest first. */
  readonly #flushed: BacklogPart[] = [];
  #bytes = 0;
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

  /** The last LSN that is known to be in the log. */
  get endLsn(): Lsn {
    return this.#endLsn;
  }

  /** Appends nothing more. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Why it is over, for the log. */
  get endedBecause(): string {
    return this.#endedBecause;
  }

  /** A group is under way, or its outcome is not known. */
  get isAppending(): boolean {
    return this.#isAppending;
  }

  /** An attempt to append the group under way got no answer. */
  get isInDoubt(): boolean {
    return this.#isInDoubt;
  }

  /** Bytes of records above the last known checkpoint. */
  get bytes(): number {
    return this.#bytes;
  }

  /** When the oldest of these was accepted, ms since 1970; infinite where there is none. */
  get oldestAcceptedAtMs(): number {
    return this.#backlog[0]?.acceptedAtMs ?? Number.POSITIVE_INFINITY;
  }

  /** What a failover has taken back, where that was found: everything above this LSN. */
  get lostAfterLsn(): Lsn | undefined {
    return this.#lostAfterLsn;
  }

  /**
   * Increments of records above an LSN: those above the last known checkpoint, and those that were flushed within the last
   * minutes. Exact to the records of a part.
   */
  incrementsAfter(lsn: Lsn): { readonly pending: number; readonly flushed: number } {
    return { pending: incrementsOf(this.#backlog, lsn), flushed: incrementsOf(this.#flushed, lsn) };
  }

  /** The checkpoint is at `lsn`. */
  noteCheckpoint(lsn: Lsn): void {
    let flushed = 0;
    for (const part of this.#backlog) {
      if (part.lastLsn > lsn) break;
      this.#bytes -= part.bytes;
      flushed += 1;
    }
    if (flushed === 0) return;
    this.#flushed.push(...this.#backlog.splice(0, flushed));
    if (this.#flushed.length > FLUSHED_PARTS_MAX) this.#flushed.splice(0, this.#flushed.length - FLUSHED_PARTS_MAX);
  }

  /** Ends the stream for this writer. A group under way is settled first, if that is possible. */
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
      const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
      const increments = view.getUint32(RECORD_OFFSET.increments, true);
      this.#endLsn += 1;
      this.#bytes += record.byteLength;
      const part = this.#backlog.at(-1);
      if (part !== undefined && now - part.beganAtMs < PART_MS) {
        part.lastLsn = this.#endLsn;
        part.bytes += record.byteLength;
        part.increments += increments;
        continue;
      }
      const acceptedAtMs = readUint64(view, RECORD_OFFSET.acceptedAt);
      const bytes = record.byteLength;
      this.#backlog.push({ lastLsn: this.#endLsn, acceptedAtMs, beganAtMs: now, bytes, increments });
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#deps.clock.schedule(ms, resolve);
    });
  }
}

function incrementsOf(parts: readonly BacklogPart[], lsn: Lsn): number {
  return parts.reduce((total, { lastLsn, increments }) => total + (lastLsn > lsn ? increments : 0), 0);
}

function refused(cause: unknown): JournalError {
  return new JournalError('journal-unavailable', 'PostgreSQL does not take the journal now.', { cause });
}
