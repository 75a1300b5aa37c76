/**
 * Ownership claims: proof that a data directory took a stream over. The directory and the database keep them, and their
 * comparison tells copies of a directory apart. Shard thread.
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
 * Most ownership claims that a journal keeps up to the last one that the database has, and most that it keeps after that.
 * So it keeps that one however many later claims have failed; nothing was written under those.
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
