/**
 * Whether a journal may go on with a stream, or is a copy that has been left behind. Shard thread.
 *
 * A data directory that is copied makes two journals of one stream. They hold the same records up to some LSN, and above
 * it the same LSNs may mean different records, while the stream has one checkpoint only. So each time that a directory takes
 * the stream over it makes a claim, a random name, which it keeps, as well as the database does:
 *
 * ```text
 * directory A   c1 ───────────── c3?        what A wrote under c1 above LSN 100 is in A alone
 * directory B      └ copy ─ c2 (LSN 100)    B held what A had written up to 100 when it took over
 * database      c1, c2 (100)
 * ```
 *
 * Only one directory writes under a claim, so journals with a common claim hold the same records up to where the first
 * of the claims after it begins, on either side. A directory that holds more must not go on: its records above would be
 * taken for those of the other, which means lost or, later, counted twice. One that holds nothing more is an older state
 * of the owner's, a restored volume for example, and may.
 *
 * A database that fails over to an asynchronous standby, or is restored, forgets claims. The last owner tells it of them
 * with its next claim, so that a copy which knows one of them is measured by that one and not by an earlier.
 */
import type { Lsn } from '../../core/increment.js';

/** A time that a journal took its stream over. */
export interface OwnershipClaim {
  /** A random UUID. */
  readonly id: string;
  /** Records of this claim have LSNs above this. */
  readonly lsn: Lsn;
}

/**
 * Claims that a journal keeps up to the last one that the database has, and as many after that. It never forgets that one,
 * however many attempts to make another have failed: nothing was written under those.
 */
export const CLAIMS_KEPT_MAX = 500;

/** How a journal stands to the stream's last owner. */
export type Ownership =
  /** It was the last owner. `lost`: claims of its own that the database never had, or has gone back from. */
  | { readonly kind: 'last'; readonly lost: readonly OwnershipClaim[] }
  /** Another journal has owned the stream since. Up to `sharedLsn` both have the same records. */
  | { readonly kind: 'earlier'; readonly sharedLsn: Lsn }
  /** Others have owned it so often since that the database has forgotten when this one did. */
  | { readonly kind: 'unknown' };

/** What the database has of a stream. */
export interface ClaimsInDatabase {
  /** The checkpoint. */
  readonly lsn: Lsn;
  /** Oldest first. */
  readonly claims: readonly OwnershipClaim[];
  /** False where older claims may have been forgotten. */
  readonly isComplete: boolean;
}

/** Compares the claims that a journal keeps with those in the database. */
export function ownershipOf(own: readonly OwnershipClaim[], { lsn, claims, isComplete }: ClaimsInDatabase): Ownership {
  const known = new Set(own.map(({ id }) => id));
  const common = claims.findLastIndex(({ id }) => known.has(id));
  const commonId = claims[common]?.id;
  const since = claims.slice(common + 1);
  const lost = own.slice(own.findLastIndex(({ id }) => id === commonId) + 1);
  // A checkpoint beyond where a lost claim begins was moved there by somebody who never heard of that claim.
  if (since.length === 0 && lost.every((claim) => lsn <= claim.lsn)) return { kind: 'last', lost };
  if (common < 0 && !isComplete) return { kind: 'unknown' };
  return { kind: 'earlier', sharedLsn: Math.min(...[...since, ...lost].map((claim) => claim.lsn)) };
}
