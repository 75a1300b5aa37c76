/**
 * How groups come into the log in PostgreSQL. Shard thread.
 *
 * ```text
 * sent ──in the log──► appended
 *       ├──records with its LSNs are there: in doubt before──► it is this group
 *       │                                   └──never sent──► another writer's: over
 *       └──another writer, or a gap──► over; where it was in doubt the last LSN says whether it is in the log
 * ```
 */
import type { DatabaseTime, Lsn } from '../../../core/checkpoint.js';
import { pauseOn } from '../../../core/clock.js';
import { CounterError } from '../../../core/errors.js';
import {
  SharedStreamWriter,
  type AppendOutcome,
  type AppendTransport,
  type GroupAttempts,
  type SentGroup,
  type StreamEnd,
} from '../shared/shared-stream-writer.js';
import type { StreamWriterDeps } from '../stream-log.js';
import { GroupEncoder, type EncodedGroup } from './postgres-records.js';

/** Between two looks for the last LSN. */
const LOOK_INTERVAL_MS = 500;

/** How an append ended, as far as this process can know. */
export type LogOutcome =
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

/** Where groups are appended. */
export interface AppendLog {
  /** Appends a group whose first record gets `firstLsn`. */
  append(
    stream: string,
    appendEpoch: string,
    time: DatabaseTime,
    firstLsn: Lsn,
    group: EncodedGroup,
  ): Promise<LogOutcome>;
  /** The last LSN that the stream has ever had; undefined where the database does not know the stream any more. */
  lastLsn(stream: string): Promise<Lsn | undefined>;
  /** Gives the word of a writer. False: the stream has another writer, or has ended. */
  advanceAcceptedThrough(stream: string, appendEpoch: string, time: DatabaseTime): Promise<boolean>;
}

/** Where the writer of a stream goes on. */
export interface FencedEnd {
  readonly stream: string;
  /** The last record, which is acknowledged; 0: none. */
  readonly lsn: Lsn;
  readonly appendEpoch: string;
}

/** The writer of a stream in PostgreSQL. */
export function postgresWriter(end: FencedEnd, log: AppendLog, deps: StreamWriterDeps): SharedStreamWriter {
  return new SharedStreamWriter(end, new PostgresTransport(end.appendEpoch, log, deps), deps);
}

class PostgresTransport implements AppendTransport {
  readonly place = 'PostgreSQL';
  readonly burnsLsns = false;
  readonly outdatedBecause = undefined;
  readonly #appendEpoch: string;
  readonly #log: AppendLog;
  readonly #deps: StreamWriterDeps;
  readonly #encoder = new GroupEncoder();

  constructor(appendEpoch: string, log: AppendLog, deps: StreamWriterDeps) {
    this.#appendEpoch = appendEpoch;
    this.#log = log;
    this.#deps = deps;
  }

  /** Statements show that the writer lives, or that nothing can be appended. */
  isBeatDue(): boolean {
    return false;
  }

  advanceAcceptedThrough({ stream }: SharedStreamWriter, time: DatabaseTime): Promise<boolean> {
    return this.#log.advanceAcceptedThrough(stream, this.#appendEpoch, time);
  }

  prepare(group: SentGroup, writer: SharedStreamWriter): GroupAttempts {
    const encoded = this.#encoder.encode(group.records);
    return { isUnsure: false, attempt: () => this.#attempt(encoded, group, writer), giveUp };
  }

  /** Its rows say that it has ended. */
  close(writer: SharedStreamWriter): Promise<boolean> {
    writer.end('it was ended');
    return Promise.resolve(true);
  }

  async #attempt(encoded: EncodedGroup, group: SentGroup, writer: SharedStreamWriter): Promise<AppendOutcome> {
    const outcome = await this.#log.append(writer.stream, this.#appendEpoch, group.time, group.firstLsn, encoded);
    switch (outcome.kind) {
      case 'appended':
      case 'refused':
      case 'unknown':
        return outcome;
      case 'present':
        if (group.isSent) return { kind: 'appended' };
        return { kind: 'over', because: 'it has records that this process did not write', isAppended: false };
      case 'fenced':
      case 'gap':
        return this.#lookUp(outcome.kind === 'gap', group, writer);
    }
  }

  /**
   * The stream has another writer: whether the group in doubt came before that. After a failover that has taken it back, whoever
   * has read it before, and still has the flushes, may count it. Below the LSN of the last acknowledged record, a failover has taken
   * back what is between.
   */
  async #lookUp(isGap: boolean, group: SentGroup, writer: SharedStreamWriter): Promise<AppendOutcome> {
    const because = isGap ? 'the database has gone back' : 'another server has taken it over';
    writer.end(because);
    const last = await this.#lastLsn(writer.stream, group.until);
    const lostAfterLsn = last !== undefined && last < writer.endLsn ? last : undefined;
    const over = { kind: 'over', because, lostAfterLsn } as const;
    if (!group.isSent) return { ...over, isAppended: false };
    if (last !== undefined && last >= group.lastLsn) return { ...over, isAppended: true };
    return { ...over, isAppended: last === undefined || isGap ? undefined : false };
  }

  /** Undefined where the database does not know, or does not answer in time. */
  async #lastLsn(stream: string, until: number): Promise<Lsn | undefined> {
    const { clock, unavailable } = this.#deps;
    for (;;) {
      try {
        return await this.#log.lastLsn(stream);
      } catch (error) {
        if (!(error instanceof CounterError) || error.code !== 'database-unavailable') throw error;
        unavailable(error);
        if (clock.monotonic() + LOOK_INTERVAL_MS >= until) return undefined;
        await pauseOn(clock, LOOK_INTERVAL_MS);
      }
    }
  }
}

function giveUp(): StreamEnd {
  return { because: 'a group of it was in doubt for too long' };
}
