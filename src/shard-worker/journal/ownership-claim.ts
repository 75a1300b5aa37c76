import type { Lsn } from '../../core/checkpoint.js';

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
