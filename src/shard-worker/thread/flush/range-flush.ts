/**
 * Attempts to commit a range, and their outcomes. Shard thread. The flusher decides when to try again.
 *
 * ```text
 * send ──committed, fenced, refused or unreachable──► that is the outcome
 *  ├──a row is poison──► send with poison rows set aside, now and in every further attempt
 *  ├──an error that a row may have caused, for the third time──► send once with poison rows set aside
 *  └──reply lost──► read the row back, now and in every further attempt until that succeeds:
 *                     (my epoch, my target)   committed
 *                     (my epoch, my old LSN)  refused: the same range can be sent again
 *                     anything else           fenced: the owner recovers
 * ```
 */
import type { Checkpoint } from '../../../core/checkpoint.js';
import type { FrozenRange } from '../pending-sums.js';
import type { RejectedKeys } from './poison-search.js';
import type { FlushAttempt, ShardDatabase } from './shard-database.js';

/** The statements that commit a range. */
export type RangeDatabase = Pick<ShardDatabase, 'flush' | 'flushSettingAside' | 'readBack'>;

/** The result of a committed flush, for the stats. In increments unless stated otherwise. */
export interface CommittedFlush {
  /** Rows of `counters` that were written. */
  readonly keys: number;
  readonly increments: number;
  readonly rejected: number;
  /** The keys of these, if PostgreSQL refused any. */
  readonly rejectedKeys?: RejectedKeys;
  /** Idempotent requests that were set aside, because their idempotency keys can no longer be checked. */
  readonly uncovered: { readonly requests: number; readonly increments: number };
  /** Of requests whose idempotency key was recorded before. */
  readonly deduplicated: number;
  /** Idempotency keys recorded. */
  readonly recorded: number;
  /** Idempotency keys that were recorded with other content. */
  readonly mismatches: number;
}

/** The outcome of one attempt. */
export type RangeOutcome =
  | { readonly kind: 'committed'; readonly flush: CommittedFlush }
  /** The stream is not where this process left it. `row`: where it is, if that was read. */
  | { readonly kind: 'fenced'; readonly row: Checkpoint | undefined }
  /** Nothing is committed, and the database answers. */
  | { readonly kind: 'refused'; readonly error: unknown }
  /** Nothing is committed: PostgreSQL refuses a row that the search did not find. */
  | { readonly kind: 'poison'; readonly error: unknown }
  /** Nothing is committed: the database cannot be reached. */
  | { readonly kind: 'unreachable'; readonly error: unknown }
  /** The reply was lost and the row cannot be read: the range may be committed. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/** The rows are searched after this many refusals that a row may have caused. */
const SUSPICIONS_UNTIL_SEARCH = 3;
/** Most refusals between two searches. A row hidden by another cause is found soon after that cause ends. */
const SUSPICIONS_BETWEEN_SEARCHES_MAX = 48;

/** One frozen range on its way to the database. One attempt at a time. */
export class RangeFlush {
  readonly #database: RangeDatabase;
  readonly #range: FrozenRange;
  /** PostgreSQL will never take one of the rows. */
  #isPoisoned = false;
  /** Refusals that a row may have caused. */
  #suspicions = 0;
  /** The rows are searched at this many suspicions. A search without result delays the next, because it is expensive. */
  #searchAt = SUSPICIONS_UNTIL_SEARCH;
  /** The attempt whose reply was lost, until the row has been read back. */
  #lost: LostAttempt | undefined;

  constructor(database: RangeDatabase, range: FrozenRange) {
    this.#database = database;
    this.#range = range;
  }

  /** Sends the range, or settles an attempt whose reply was lost. */
  async attempt(): Promise<RangeOutcome> {
    if (this.#lost !== undefined) return this.#settle(this.#lost);
    let sent = await this.#send();
    if (sent.kind === 'poison' && !this.#isPoisoned) {
      this.#isPoisoned = true;
      sent = await this.#send();
    } else if (sent.kind === 'refused' && sent.mayBePoison === true && !this.#isPoisoned) {
      this.#suspicions += 1;
      if (this.#suspicions === this.#searchAt) {
        this.#searchAt += Math.min(this.#searchAt, SUSPICIONS_BETWEEN_SEARCHES_MAX);
        sent = await this.#database.flushSettingAside(this.#range);
      }
    }
    switch (sent.kind) {
      case 'committed':
        return { kind: 'committed', flush: committedFlush(this.#range, sent) };
      case 'fenced':
        return { kind: 'fenced', row: undefined };
      case 'unknown':
        this.#lost = sent;
        return this.#settle(sent);
      default:
        return sent;
    }
  }

  #send(): Promise<FlushAttempt> {
    return this.#isPoisoned ? this.#database.flushSettingAside(this.#range) : this.#database.flush(this.#range);
  }

  /** Reads the row back and compares it exactly. The range must not be sent again before that. */
  async #settle({ error: cause, setAside }: LostAttempt): Promise<RangeOutcome> {
    const { stream, epoch, fromLsn, toLsn, sums } = this.#range;
    let row: Checkpoint | undefined;
    try {
      row = await this.#database.readBack(stream);
    } catch (error) {
      return { kind: 'unknown', error };
    }
    this.#lost = undefined;
    if (row?.epoch !== epoch) return { kind: 'fenced', row };
    if (row.lsn === toLsn) {
      const committed = { kind: 'committed', keys: sums.size, ...setAside } as const;
      return { kind: 'committed', flush: committedFlush(this.#range, committed) };
    }
    return row.lsn === fromLsn ? { kind: 'refused', error: cause } : { kind: 'fenced', row };
  }
}

type LostAttempt = Extract<FlushAttempt, { readonly kind: 'unknown' }>;
type CommittedAttempt = Extract<FlushAttempt, { readonly kind: 'committed' }>;

/** The result of a range that was committed although the reply was lost. */
export function flushOfCommitted(range: FrozenRange): CommittedFlush {
  return committedFlush(range, { kind: 'committed', keys: range.sums.size });
}

function committedFlush({ sums, idempotent, uncovered }: FrozenRange, attempt: CommittedAttempt): CommittedFlush {
  const { keys, rejected = 0, rejectedKeys, duplicates = [], mismatches = 0 } = attempt;
  let deduplicated = idempotent.duplicates;
  for (const idempotencyKey of duplicates) deduplicated += idempotent.get(idempotencyKey)?.increments ?? 0;
  const increments = sums.increments + idempotent.increments + uncovered.increments;
  return {
    ...{ keys, increments, rejected, ...(rejectedKeys === undefined ? {} : { rejectedKeys }) },
    uncovered: { requests: uncovered.size, increments: uncovered.increments },
    ...{ deduplicated, recorded: idempotent.size - duplicates.length, mismatches },
  };
}
