import type { Checkpoint, Lsn } from '../../../core/checkpoint.js';
import type { ClaimsInDatabase, OwnershipClaim } from '../../journal/ownership-claim.js';
import type { FrozenRange, PendingSums } from '../pending-sums.js';

/** How a flush attempt ended, as far as this process can know. */
export type FlushAttempt =
  /** The statement committed. */
  | {
      readonly kind: 'committed';
      /** Rows written. */
      readonly keys: number;
      /** Increments of rows that were set aside. */
      readonly rejected?: number;
      /** Tokens of the range that were claimed before. */
      readonly unclaimed?: readonly string[];
      /** Of those, how many came with other content. */
      readonly mismatches?: number;
    }
  /** The statement ran and the compare-and-set matched nothing. */
  | { readonly kind: 'fenced'; readonly row?: Checkpoint | undefined }
  /** It certainly did not commit; the same range can be sent again. */
  | { readonly kind: 'refused'; readonly error: unknown }
  /** It certainly did not commit: a row of it can never be written. */
  | { readonly kind: 'poison'; readonly error: unknown }
  /** It was not sent: the database cannot be reached. */
  | { readonly kind: 'unreachable'; readonly error: unknown }
  /** It was sent and no reply came. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/** The row as recovery sees it. */
export interface OwnedRow extends Checkpoint {
  /** No more records will come; the row is a tombstone. */
  readonly retired: boolean;
}

/** The row and who has owned the stream. */
export interface ClaimedRow extends OwnedRow, ClaimsInDatabase {}

/** The database as the flusher needs it. Methods other than `flush` reject with CounterError `database-unavailable`. */
export interface FlushTarget {
  flush(pendingSums: PendingSums, range: FrozenRange): Promise<FlushAttempt>;
  /** As `flush`, for a range with rows that PostgreSQL refuses: finds them and sets them aside in the same transaction. */
  flushSettingAside(pendingSums: PendingSums, range: FrozenRange): Promise<FlushAttempt>;
  readBack(stream: string): Promise<Checkpoint | undefined>;
  /** Moves `accepted_through`, if a time is given. False: the row is not where this ledger left it. */
  touch(pendingSums: PendingSums, acceptedThroughMs: number | undefined): Promise<boolean>;
}

/** The database as a shard needs it. Methods reject with CounterError `database-unavailable` where it cannot be reached. */
export interface ShardDatabase extends FlushTarget {
  /** The database's id; also waits until migrations are there. */
  databaseId(): Promise<string>;
  /** Makes the checkpoint row, at epoch 0 and LSN 0, unless it is there. */
  ensureStream(stream: string): Promise<void>;
  /** Makes the row unless it is there, and reads it with its claims. */
  readClaims(stream: string): Promise<ClaimedRow>;
  /**
   * Raises the epoch and writes down by which claim, the last one given; those before it are earlier ones of the same
   * journal that the database does not have. Undefined: the row is not at (epoch, lsn).
   */
  claimStream(stream: string, at: Checkpoint, claims: readonly OwnershipClaim[]): Promise<OwnedRow | undefined>;
  /** Marks a finished stream; the row stays as a tombstone. False: the row is not at (epoch, lsn). */
  retire(stream: string, epoch: number, lsn: Lsn): Promise<boolean>;
  close(): Promise<void>;
}
