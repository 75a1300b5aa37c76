/**
 * The tokens that this shard has journaled of late, so that a replay is cheap and a mismatch visible. Shard thread.
 *
 * Exactly once does not rest on it: a token that has left the window is journaled again, and its claim in the flush
 * decides. Two generations bound the memory: the older one is dropped when the younger is full, so at least the last
 * {@link TOKENS_REMEMBERED} are here.
 */

/** Fewest of the last tokens that a shard remembers. */
export const TOKENS_REMEMBERED = 100_000;

/** What is known of a token. */
export type KnownToken =
  | 'new'
  /** Journaled before: durable as this journal is. */
  | 'replay'
  /** It stands in the group that is being journaled now, and shares that group's outcome. */
  | 'in-group'
  /** Journaled before with other content. */
  | 'mismatch';

/** Tokens and the digests of their requests, the latter as strings of one character a byte. */
export class TokenWindow {
  #young = new Map<string, string>();
  #old = new Map<string, string>();
  readonly #group = new Set<string>();

  /** Looks a token up and, where it is new, remembers it as part of the group that is being gathered. */
  admit(token: string, digest: string): KnownToken {
    const known = this.#young.get(token) ?? this.#old.get(token);
    if (known === undefined) {
      this.remember(token, digest);
      this.#group.add(token);
      return 'new';
    }
    if (known !== digest) return 'mismatch';
    return this.#group.has(token) ? 'in-group' : 'replay';
  }

  /** Remembers a token whose record is durable. */
  remember(token: string, digest: string): void {
    if (this.#young.size >= TOKENS_REMEMBERED) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(token, digest);
  }

  /** The group is durable, or it is not: then its tokens are forgotten, so that a retry is journaled anew. */
  endGroup(durable: boolean): void {
    if (!durable) {
      for (const token of this.#group) {
        this.#young.delete(token);
        this.#old.delete(token);
      }
    }
    this.#group.clear();
  }
}
