/**
 * Appends groups to `increment_log`. Shard thread.
 *
 * ```text
 * sent ──inserted──► appended
 *       ├──records with its LSNs exist: in doubt before──► appended
 *       │                               └──never sent──► written by another process: over
 *       └──fenced, or a gap──► over; where it was in doubt the last LSN tells whether it is appended
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

/** The outcome of an append, as far as this process knows it. */
export type LogOutcome =
  /** The group is in the journal. */
  | { readonly kind: 'appended' }
  /** The journal has records with these LSNs: this group, if it was sent before. */
  | { readonly kind: 'present' }
  /** Nothing is appended: the stream is fenced or retired. */
  | { readonly kind: 'fenced' }
  /** Nothing is appended: a failover has undone the record before the group. */
  | { readonly kind: 'gap' }
  /** Nothing of this attempt is appended. */
  | { readonly kind: 'refused'; readonly error: unknown }
  /** In doubt: it was sent and no answer came. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/** Appends groups. */
export interface AppendLog {
  /** Appends a group whose first record gets `firstLsn`. */
  append(
    stream: string,
    appendEpoch: string,
    time: DatabaseTime,
    firstLsn: Lsn,
    group: EncodedGroup,
  ): Promise<LogOutcome>;
  /** The last LSN that the stream ever had; undefined where the stream has no row. */
  lastLsn(stream: string): Promise<Lsn | undefined>;
  /** Advances the `accepted_through` of an idle writer. False: the stream is fenced or retired. */
  advanceAcceptedThrough(stream: string, appendEpoch: string, time: DatabaseTime): Promise<boolean>;
}

/** The end of a stream, where its writer continues. */
export interface FencedEnd {
  readonly stream: string;
  /** The last acknowledged record; 0: none. */
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

  /** Heartbeats are statements. Where they fail, appends fail, too. */
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

  /** Its rows record the end. */
  close(writer: SharedStreamWriter): Promise<boolean> {
    writer.end('it was closed');
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
   * The stream is fenced: looks whether the group in doubt was appended before. After a failover, a flusher that had read the group
   * may still count it, so its outcome stays unknown. A last LSN below the last acknowledged one means that a failover has undone
   * the records between.
   */
  async #lookUp(isGap: boolean, group: SentGroup, writer: SharedStreamWriter): Promise<AppendOutcome> {
    const because = isGap ? 'the database has gone back to an earlier state' : 'another server has fenced it';
    writer.end(because);
    const last = await this.#lastLsn(writer.stream, group.until);
    const lostAfterLsn = last !== undefined && last < writer.endLsn ? last : undefined;
    const over = { kind: 'over', because, lostAfterLsn } as const;
    if (!group.isSent) return { ...over, isAppended: false };
    if (last !== undefined && last >= group.lastLsn) return { ...over, isAppended: true };
    return { ...over, isAppended: last === undefined || isGap ? undefined : false };
  }

  /** Undefined where the stream has no row, or the database does not answer in time. */
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
