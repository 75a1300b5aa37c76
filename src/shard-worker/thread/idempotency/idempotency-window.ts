import { DIGEST_BYTES } from '../../protocol/record-layout.js';

/** Fewest of the last tokens that a shard remembers. */
export const KEYS_REMEMBERED = 100_000;

/** What is known of a token. */
export type KnownKey =
  | 'new'
  /** Journaled before: durable as this journal is. */
  | 'replay'
  /** It stands in the group that is being journaled now, and shares that group's outcome. */
  | 'in-group'
  /** Journaled before with other content. */
  | 'mismatch';

/** A token of a generation: where its digest is. */
class Generation {
  readonly #numbers = new Map<string, number>();
  readonly #digests = new Uint8Array(KEYS_REMEMBERED * DIGEST_BYTES);
  /** Numbers of tokens that were forgotten. */
  readonly #free: number[] = [];

  get isFull(): boolean {
    return this.#numbers.size === KEYS_REMEMBERED;
  }

  /** Whether the token is here, and with that digest. */
  look(idempotencyKey: string, digest: Uint8Array): 'absent' | 'same' | 'other' {
    const number = this.#numbers.get(idempotencyKey);
    if (number === undefined) return 'absent';
    for (let at = 0; at < DIGEST_BYTES; at += 1) {
      if (this.#digests[number * DIGEST_BYTES + at] !== digest[at]) return 'other';
    }
    return 'same';
  }

  add(idempotencyKey: string, digest: Uint8Array): void {
    const number = this.#free.pop() ?? this.#numbers.size;
    this.#digests.set(digest, number * DIGEST_BYTES);
    this.#numbers.set(idempotencyKey, number);
  }

  forget(idempotencyKey: string): void {
    const number = this.#numbers.get(idempotencyKey);
    if (number === undefined) return;
    this.#numbers.delete(idempotencyKey);
    this.#free.push(number);
  }
}

/** Tokens and the digests of their requests. */
export class IdempotencyWindow {
  #young = new Generation();
  #old = new Generation();
  readonly #group = new Set<string>();

  /** Looks a token up. */
  look(idempotencyKey: string, digest: Uint8Array): KnownKey {
    let known = this.#young.look(idempotencyKey, digest);
    if (known === 'absent') known = this.#old.look(idempotencyKey, digest);
    if (known === 'absent') return 'new';
    if (known === 'other') return 'mismatch';
    return this.#group.has(idempotencyKey) ? 'in-group' : 'replay';
  }

  /**
   * Looks a token up and, where it is new, remembers it as part of the group that is being gathered. `digest` has
   * {@link DIGEST_BYTES} bytes.
   */
  admit(idempotencyKey: string, digest: Uint8Array): KnownKey {
    const known = this.look(idempotencyKey, digest);
    if (known !== 'new') return known;
    if (this.#young.isFull) {
      this.#old = this.#young;
      this.#young = new Generation();
    }
    this.#young.add(idempotencyKey, digest);
    this.#group.add(idempotencyKey);
    return known;
  }

  /** The group is durable, or it is not: then its tokens are forgotten, so that a retry is journaled anew. */
  endGroup(durable: boolean): void {
    if (!durable) {
      for (const idempotencyKey of this.#group) {
        this.#young.forget(idempotencyKey);
        this.#old.forget(idempotencyKey);
      }
    }
    this.#group.clear();
  }
}
