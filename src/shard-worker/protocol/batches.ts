/**
 * Batches and their answers: the messages between an HTTP thread and a shard. HTTP thread and shard thread.
 *
 * A batch holds the increments of the requests that an HTTP thread has gathered for one shard. It is one piece of
 * memory with the layout of a journal record (`record-layout.ts`).
 */
import type { Refusal } from '../../core/bounds.js';

/**
 * The content of a batch, and the requests that the shard accepts.
 *
 * | kind | content | the shard accepts |
 * | --- | --- | --- |
 * | `plain` | requests without idempotency keys | all |
 * | `onlyPendingKeys` | one request, at MAX_PENDING_KEYS | the request, if all of its keys are pending already |
 * | `idempotent` | idempotent requests | those whose idempotency keys it does not know |
 * | `onlyKnownKeys` | idempotent requests without room | none; it answers those whose idempotency keys it knows |
 */
export const BATCH_KINDS = ['plain', 'onlyPendingKeys', 'idempotent', 'onlyKnownKeys'] as const;
export type BatchKind = (typeof BATCH_KINDS)[number];

/** HTTP thread → shard: a batch. The shard answers batches in the order of their arrival, with {@link BatchAnswer}. */
export interface BatchMessage {
  readonly kind: BatchKind;
  /** The record starts at byte 0. Shared memory belongs to the shard until the answer, other memory for good. */
  readonly memory: ArrayBufferLike;
}

/**
 * A {@link BatchMessage} on the port. Shared memory that has crossed before is a number, which is cheaper to post than an object:
 * memory number × number of kinds + kind.
 */
export type PostedBatch = BatchMessage | number;

/**
 * Shard → HTTP thread: the number of batches that are in the journal; or the number of refused ones, and why; or, for one batch
 * of idempotent requests, the {@link IDEMPOTENT_OUTCOME} of each request in order.
 */
export type BatchAnswer =
  number | { readonly refused: number; readonly refusal: Refusal } | { readonly outcomes: Uint8Array };

/** The outcome of an idempotent request. A refusal is `refused` plus its index in `REFUSALS`. */
export const IDEMPOTENT_OUTCOME = { journaled: 0, replayed: 1, mismatch: 2, refused: 3 } as const;
