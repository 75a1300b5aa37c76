/**
 * The idempotency keys that this shard journaled lately. Makes duplicates cheap and mismatches visible. Shard thread.
 *
 * Exactly-once does not depend on it. A request whose key has left the window is journaled again, and the flush decides whether
 * it counts. Two generations bound the memory: when the younger one is full, it replaces the older one. So at least the last
 * {@link KEYS_REMEMBERED} keys are here.
 */
import { DIGEST_BYTES } from '../../protocol/record-layout.js';

/** A shard remembers at least this many of its last idempotency keys. */
export const KEYS_REMEMBERED = 100_000;

/** What is known of an idempotency key. */
export type KnownKey =
  | 'new'
  /** Journaled before, and as durable as this journal makes it. */
  | 'duplicate'
  /** Part of the group that is being journaled, whose outcome it shares. */
  | 'in-group'
  /** Journaled before with other content. */
  | 'mismatch';

/** Idempotency keys with the digests of their requests. */
class Generation {
  readonly #numbers = new Map<string, number>();
  readonly #digests = new Uint8Array(KEYS_REMEMBERED * DIGEST_BYTES);
  /** Numbers of forgotten keys. */
  readonly #free: number[] = [];

  get isFull(): boolean {
    return this.#numbers.size === KEYS_REMEMBERED;
  }

  /** Whether the idempotency key is here, with the same digest or another. */
  look(idempotencyKey: string, digest: Uint8Array): 'missing' | 'same' | 'other' {
    const number = this.#numbers.get(idempotencyKey);
    if (number === undefined) return 'missing';
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

/** The window of one shard. */
export class IdempotencyWindow {
  #young = new Generation();
  #old = new Generation();
  readonly #group = new Set<string>();

  /** Forgets every key. */
  clear(): void {
    this.#young = new Generation();
    this.#old = new Generation();
    this.#group.clear();
  }

  /** Looks an idempotency key up. */
  look(idempotencyKey: string, digest: Uint8Array): KnownKey {
    let known = this.#young.look(idempotencyKey, digest);
    if (known === 'missing') known = this.#old.look(idempotencyKey, digest);
    if (known === 'missing') return 'new';
    if (known === 'other') return 'mismatch';
    return this.#group.has(idempotencyKey) ? 'in-group' : 'duplicate';
  }

  /** Looks an idempotency key up. Remembers a new one as part of the current group. `digest` has {@link DIGEST_BYTES} bytes. */
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

  /** The group has an outcome. If it is not durable, its idempotency keys are forgotten, and a retry is journaled again. */
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
