/**
 * Ownership claims: whether a journal may go on with a stream, or is a copy that was left behind. Shard thread.
 *
 * A copied data directory makes two journals of one stream. Up to some LSN both hold the same records. Above it the same LSN
 * may mean different records, and the stream has only one checkpoint. So a directory that takes a stream makes a claim, a
 * random id. The directory and the database both keep it:
 *
 * ```text
 * directory A   c1 ───────────── c3?        what A wrote under c1 above LSN 100 is in A alone
 * directory B      └ copy ─ c2 (LSN 100)    B held A's records up to 100 when it took the stream
 * database      c1, c2 (100)
 * ```
 *
 * Only one directory writes under a claim. Journals with a common claim therefore hold the same records up to where the first
 * later claim begins, on either side. A directory that holds more must not go on: its further records would be taken for
 * those of the other directory, and would be lost or, later, counted twice. A directory that holds nothing more is an older
 * state of the owner's, for example a restored volume, and may go on.
 *
 * A database that fails over to an asynchronous standby, or is restored, forgets claims. The last owner repeats them with its
 * next claim, so that a copy which knows one of them is compared by that claim and not by an earlier one.
 */
import type { Lsn } from '../../core/checkpoint.js';

/** One takeover of a stream by a data directory. */
export interface OwnershipClaim {
  /** A random UUID. */
  readonly id: string;
  /** Records written under this claim have LSNs above this. */
  readonly lsn: Lsn;
}

/**
 * Most ownership claims that a journal keeps up to the last one that the database has, and most that it keeps after
 * that. So it keeps that one however many later claims have failed; nothing was written under those.
 */
export const CLAIMS_KEPT_MAX = 500;

/** Whether a journal was the last owner of its stream. */
export type Ownership =
  /** It was the last owner. `lost`: its claims that the database never had, or lost when it was restored. */
  | { readonly kind: 'last'; readonly lost: readonly OwnershipClaim[] }
  /** Another journal has owned the stream since. Both have the same records up to `sharedLsn`. */
  | { readonly kind: 'earlier'; readonly sharedLsn: Lsn }
  /** Others have owned the stream so often since that the database no longer has a claim of this journal. */
  | { readonly kind: 'unknown' };

/** The checkpoint and the ownership claims of a stream in the database. */
export interface ClaimsInDatabase {
  /** LSN of the checkpoint. */
  readonly lsn: Lsn;
  /** Oldest first. */
  readonly claims: readonly OwnershipClaim[];
  /** False if older claims may have been removed. */
  readonly isComplete: boolean;
}

/** Compares the ownership claims of a journal with those in the database. */
export function ownershipOf(own: readonly OwnershipClaim[], { lsn, claims, isComplete }: ClaimsInDatabase): Ownership {
  const known = new Set(own.map(({ id }) => id));
  const common = claims.findLastIndex(({ id }) => known.has(id));
  const commonId = claims[common]?.id;
  const since = claims.slice(common + 1);
  const lost = own.slice(own.findLastIndex(({ id }) => id === commonId) + 1);
  // A checkpoint above the LSN of a lost claim was moved there by an owner that never saw that claim.
  if (since.length === 0 && lost.every((claim) => lsn <= claim.lsn)) return { kind: 'last', lost };
  if (common < 0 && !isComplete) return { kind: 'unknown' };
  return { kind: 'earlier', sharedLsn: Math.min(...[...since, ...lost].map((claim) => claim.lsn)) };
}
