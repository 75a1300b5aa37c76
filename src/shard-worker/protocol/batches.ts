/**
 * Batches: the messages between an HTTP thread and a shard. Both sides.
 *
 * A batch is one piece of memory with the layout of a journal record (`record-layout.ts`): the increments of the requests
 * that an HTTP thread has gathered for one shard.
 */
import type { ErrorCode } from '../../core/errors.js';

/**
 * How a batch is to be taken: as it is; or, one request at the key bound, only if all of its keys are pending already;
 * or, requests with tokens, without those that the shard knows; or, requests with tokens for which there is no room, none
 * but those that it knows.
 */
export const BATCH_KINDS = ['plain', 'onlyPendingKeys', 'idempotent', 'onlyKnownKeys'] as const;
export type BatchKind = (typeof BATCH_KINDS)[number];

/** Front end → shard: a batch. Each is answered, in the order of their arrival, by {@link BatchAnswer}. */
export interface BatchMessage {
  readonly kind: BatchKind;
  /** The record begins at its start; shared memory is the shard's until the answer, any other for good. */
  readonly memory: ArrayBufferLike;
}

/**
 * A {@link BatchMessage} as it crosses the port, to be as cheap as can be. Memory is given whole the first time and, where
 * it is shared, known by its number from then on, in the order of its first appearance: number × kinds + kind.
 */
export type PostedBatch = BatchMessage | number;

/**
 * Shard → front end: that many batches are in the journal; or that many were refused with a code; or, for one batch of
 * requests with tokens, the {@link IDEMPOTENT_OUTCOME} of each in order.
 */
export type BatchAnswer =
  number | { readonly refused: number; readonly code: ErrorCode } | { readonly outcomes: Uint8Array };

/** What became of a request with a token; `refused` plus a code's index in the catalogue is a refusal. */
export const IDEMPOTENT_OUTCOME = { journaled: 0, replayed: 1, mismatch: 2, refused: 3 } as const;
