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
 * later claim of the other begins. A directory that holds more must not go on: its further records would be taken for those
 * of the other directory, and would be lost or, later, counted twice. A directory that holds nothing more is an older state
 * of the owner's, for example a restored volume, and may go on.
 *
 * A directory keeps the id of a claim before the database gets it, and notes the claim, with its epoch, once the database has
 * answered. So it knows each of its claims, also one that commits late. Only a noted claim says that what others did before it
 * is known here. A directory that is copied between the two gives its copy an id that only the original uses. The copy sees
 * that: a claim of its own that was kept before one that it has noted has an earlier epoch, because both locked the row.
 *
 * A database that fails over to an asynchronous standby, or is restored, forgets claims. The last owner repeats them with its
 * next claim, so that a copy which knows one of them is compared by that claim and not by an earlier one.
 */
import type { Lsn } from '../../core/checkpoint.js';

/** One taking of a stream by a data directory. */
export interface OwnershipClaim {
  /** A random UUID. */
  readonly id: string;
  /**
   * Where the claim ends what came before: the end of the claimant's journal or the checkpoint, whichever is higher. Records
   * written under this claim have LSNs above this.
   */
  readonly lsn: Lsn;
}

/** A claim as the directory keeps it. */
export interface KeptClaim extends OwnershipClaim {
  /** The epoch that the database gave it. Undefined: not noted, because no reply came. 0: from before epochs were kept. */
  readonly epoch: number | undefined;
}

/** A claim as the database has it. */
export interface ClaimInDatabase extends OwnershipClaim {
  readonly epoch: number;
}

/**
 * What the directory says of a stream's row.
 *
 * - `unregistered`: it is not known whether there is one;
 * - `open`: it is there, and holds the pruning of idempotency keys up for this stream;
 * - `closed`: it was closed or retired, or is about to be.
 */
export type StreamMark = 'unregistered' | 'open' | 'closed';

/** What the directory keeps of the ownership of a stream. */
export interface StreamOwnership {
  readonly mark: StreamMark;
  /** The stream whose open row covers idempotent requests in this one, until this one has a row. */
  readonly cover: string | undefined;
  /** Oldest first. */
  readonly claims: readonly KeptClaim[];
}

/** What is kept of a stream that is new. */
export function newOwnership(cover: string | undefined): StreamOwnership {
  return { mark: 'unregistered', cover, claims: [] };
}

/**
 * Most noted claims that a journal keeps, and most that are not noted. With more takings since the last claim that the
 * database has, a start cannot tell any more who owned the stream.
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
  /** The database has no claim that tells: too many, or they were deleted. */
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
