/**
 * What the sqs journal needs of a queue: messages in groups, a group a stream. Shard thread.
 *
 * `sqs-queue.ts` implements it over SQS, the simulation in memory. A group is ordered. While a consumer holds messages of a group,
 * nobody receives later ones of it. Messages that are held and neither deleted nor extended in time are received again.
 */

/** How a send ended, as far as this process can know. */
export type SendOutcome =
  /** The message is in the queue, or was: a copy of one with the same id is swallowed, and answered in the same way. */
  | { readonly kind: 'sent' }
  /** The queue answered: it is not stored, and never will be. `isThrottled`: for want of capacity, and it can be sent again. */
  | { readonly kind: 'refused'; readonly error: unknown; readonly isThrottled: boolean }
  /** No answer came: it is stored, or will be, or not. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/** A message that this process holds. */
export interface QueueMessage {
  /** Its group. */
  readonly stream: string;
  /** Undefined: it was not written by this journal. */
  readonly data: Uint8Array | undefined;
  /** Stands for the message in later calls; each time that it is received it has another one. */
  readonly receipt: string;
}

/** How long a message that was received, or extended, is held. */
export const VISIBILITY_SECONDS = 15;

/**
 * A queue. A call other than `send` rejects with JournalError `journal-unavailable` where the queue does not answer or refuses; what it
 * asked for may have been done. Receipts that are no longer valid are ignored.
 */
export interface Queue {
  /** A message of the same id that the queue took within the last five minutes swallows this one. */
  send(stream: string, deduplicationId: string, data: Uint8Array): Promise<SendOutcome>;

  /** Messages of any groups, in the order of each group. Waits a while for the first one; none where none came. */
  receive(): Promise<readonly QueueMessage[]>;

  /** Holds messages for VISIBILITY_SECONDS from now on. */
  extend(receipts: readonly string[]): Promise<void>;

  /** Lets messages go: they can be received after `seconds`. The last one of a group first, so that the group keeps its order. */
  release(receipts: readonly string[], seconds?: number): Promise<void>;

  /** Deletes messages. */
  delete(receipts: readonly string[]): Promise<void>;

  /** No call may follow. */
  close(): void;
}
