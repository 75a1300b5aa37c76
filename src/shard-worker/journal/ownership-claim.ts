/**
 * Ownership claims: whether a journal may continue a stream, or is an outdated copy. Shard thread.
 *
 * A copied data directory makes two journals of one stream. Up to some LSN both have the same records. Above it the same LSN
 * may mean different records, and the stream has only one checkpoint. So a directory that takes a stream makes a claim, a
 * random id. The directory and the database both keep it:
 *
 * ```text
 * directory A   c1 ───────────── c3?        only A has what it wrote under c1 above LSN 100
 * directory B      └ copy ─ c2 (LSN 100)    B had A's records up to 100 when it took the stream
 * database      c1, c2 (100)
 * ```
 *
 * Only one directory writes under a claim. Journals with a common claim therefore have the same records up to the first later
 * claim of the other. A directory with more records must not continue: they would be taken for those of the other directory,
 * and would be lost or, later, counted twice. A directory without more records is an older state of the owner's, for example
 * a restored volume, and may continue.
 *
 * A directory stores the id of a claim before the database does, and notes the claim, with its epoch, once the database has
 * answered. So it knows each of its claims, also one that commits late. Only a noted claim proves that the directory knows
 * what others did before it. A copy made between the two steps has an id that only the original uses. The copy recognises
 * that: of its own claims, one stored before a noted one has an earlier epoch, because both locked the row.
 *
 * A database that fails over to an asynchronous standby, or is restored, loses claims. The last owner repeats them with its
 * next claim. A copy that knows one of them is then compared by that claim, and not by an earlier one.
 */
import type { Lsn } from '../../core/checkpoint.js';

/** One taking of a stream by a data directory. */
export interface OwnershipClaim {
  /** A random UUID. */
  readonly id: string;
  /**
   * The end of the claimant's journal or the checkpoint, whichever is higher. Records written under this claim have LSNs above
   * it.
   */
  readonly lsn: Lsn;
}

/** A claim in the directory. */
export interface KeptClaim extends OwnershipClaim {
  /** The epoch from the database. Undefined: not noted, because no reply came. 0: written by a version without epochs. */
  readonly epoch: number | undefined;
}

/** A claim in the database. */
export interface ClaimInDatabase extends OwnershipClaim {
  readonly epoch: number;
}

/**
 * The state of a stream's row, as the directory knows it.
 *
 * - `unregistered`: the row may not exist;
 * - `open`: it exists, and delays the pruning of idempotency keys;
 * - `closed`: it was closed or retired, or is about to be.
 */
export type StreamMark = 'unregistered' | 'open' | 'closed';

/** The ownership of a stream, as the directory stores it. */
export interface StreamOwnership {
  readonly mark: StreamMark;
  /** The stream whose open row covers idempotent requests in this one, until this one has a row. */
  readonly cover: string | undefined;
  /** Oldest first. */
  readonly claims: readonly KeptClaim[];
}

/** The ownership of a new stream. */
export function newOwnership(cover: string | undefined): StreamOwnership {
  return { mark: 'unregistered', cover, claims: [] };
}

/**
 * Most noted claims of a journal, and most that are not noted. Beyond them a start may not find a claim that the database has,
 * and cannot tell who owned the stream.
 */
export const CLAIMS_KEPT_MAX = 500;

/** The claims with one more, within {@link CLAIMS_KEPT_MAX}. */
export function withClaim(claims: readonly KeptClaim[], claim: KeptClaim): readonly KeptClaim[] {
  const all = [...claims.filter(({ id }) => id !== claim.id), claim];
  const excess = (isNoted: boolean): ReadonlySet<KeptClaim> => {
    const kind = all.filter(({ epoch }) => (epoch !== undefined) === isNoted);
    return new Set(kind.slice(0, Math.max(0, kind.length - CLAIMS_KEPT_MAX)));
  };
  const [noted, others] = [excess(true), excess(false)];
  return all.filter((kept) => !noted.has(kept) && !others.has(kept));
}

/** Whether a journal was the last owner of its stream. */
export type Ownership =
  /** It was the last owner. `lost`: noted claims that the database does not have, because it was restored or tampered with. */
  | { readonly kind: 'last'; readonly lost: readonly OwnershipClaim[] }
  /** Another journal has owned the stream since. Both have the same records up to `sharedLsn`. */
  | { readonly kind: 'earlier'; readonly sharedLsn: Lsn; readonly lost: readonly OwnershipClaim[] }
  /** The claims of the database do not tell, because some were pruned or deleted. */
  | { readonly kind: 'unknown' };

/** The row and the ownership claims of a stream in the database. */
export interface ClaimsInDatabase {
  /** Epoch of the row; undefined if there is none. */
  readonly epoch: number | undefined;
  /** LSN of the checkpoint; 0 if there is no row. */
  readonly lsn: Lsn;
  /** In the order of their epochs. */
  readonly claims: readonly ClaimInDatabase[];
  /** False if older claims may have been removed. */
  readonly isComplete: boolean;
}

/** Compares the ownership claims of a journal with those in the database. */
export function ownershipOf(
  own: readonly KeptClaim[],
  { epoch, lsn, claims, isComplete }: ClaimsInDatabase,
): Ownership {
  const noted = own.filter((claim) => claim.epoch !== undefined);
  const notedIds = new Set(noted.map(({ id }) => id));
  const common = claims.findLastIndex(({ id }) => notedIds.has(id));
  const commonId = claims[common]?.id;
  const lost = noted.slice(noted.findLastIndex(({ id }) => id === commonId) + 1);
  const others = claims.slice(common + 1).filter((claim) => !isMine(own, claim));
  const last = noted.at(-1);
  // Nobody has taken the row since, whatever became of the claims.
  if (epoch !== undefined && epoch > 0 && last?.epoch === epoch) return { kind: 'last', lost };
  if (others.length > 0) {
    if (common < 0 && !isComplete) return { kind: 'unknown' };
    return { kind: 'earlier', sharedLsn: Math.min(...[...others, ...lost].map((claim) => claim.lsn)), lost };
  }
  if (epoch === undefined) return { kind: 'last', lost };
  // A checkpoint above a claim that is lost was moved there by an owner who made a claim, which is lost as well.
  const isTold = noted.length === 0 || common >= 0 || claims.some((claim) => isMine(own, claim));
  return isTold && lost.every((claim) => lsn <= claim.lsn) ? { kind: 'last', lost } : { kind: 'unknown' };
}

/** Whether others than this journal have taken the stream since the claim with this epoch. */
export function isTakenByOthers(own: readonly KeptClaim[], epoch: number, claims: readonly ClaimInDatabase[]): boolean {
  return claims.some((claim) => claim.epoch > epoch && !isMine(own, claim));
}

/** Whether this directory made a claim, noted or not. */
function isMine(own: readonly KeptClaim[], { id, epoch }: ClaimInDatabase): boolean {
  const at = own.findLastIndex((claim) => claim.id === id);
  if (at < 0) return false;
  if (own[at]?.epoch !== undefined) return true;
  return !own.slice(at + 1).some((later) => later.epoch !== undefined && later.epoch < epoch);
}
