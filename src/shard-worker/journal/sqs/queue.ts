/**
 * A FIFO queue: messages in groups, one group for each stream. Shard thread.
 *
 * `sqs-queue.ts` implements it over SQS, the simulation in memory. While received messages of a group are not deleted,
 * nobody receives later ones of it. A received message that is neither deleted nor extended in time is received again.
 */

import type { JournalStore } from '../../protocol/control-messages.js';

/** The outcome of a send, as far as this process knows it. */
export type SendOutcome =
  /** The message is, or was, in the queue. The queue drops a second message with the same id, and answers alike. */
  | { readonly kind: 'sent' }
  /** The message will never be in the queue. `isThrottled`: for lack of capacity; it can be sent again. */
  | { readonly kind: 'refused'; readonly error: unknown; readonly isThrottled: boolean }
  /** In doubt: no answer came. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/** A received message. */
export interface QueueMessage {
  /** Its group. */
  readonly stream: string;
  /** Its id in the queue. */
  readonly id: string;
  readonly body: string;
  /** The id of the database of its writer; undefined for an earlier version of the server. */
  readonly database?: string | undefined;
  /** Names the message in later calls. Each receive gives another one. */
  readonly receipt: string;
}

/** How long nobody else receives a message after it was received or extended. */
export const VISIBILITY_SECONDS = 10;

/**
 * A queue. Calls other than `send` reject with JournalError `journal-unavailable` where the queue does not answer or refuses;
 * they may have had their effect. Expired receipts are ignored.
 */
export interface Queue {
  readonly store: JournalStore;
  /** Where it is, for an operator. */
  readonly address: string;

  /** The queue drops a message whose id it has accepted within the last five minutes. */
  send(stream: string, deduplicationId: string, data: Uint8Array): Promise<SendOutcome>;

  /** Messages of any groups, in the order of each group. Waits a while; may return none. */
  receive(): Promise<readonly QueueMessage[]>;

  /** Keeps messages from others for VISIBILITY_SECONDS from now. */
  extend(receipts: readonly string[]): Promise<void>;

  /** Others receive the messages after `seconds`. The last one of a group comes first, so that the group keeps its order. */
  release(receipts: readonly string[], seconds?: number): Promise<void>;

  /** Deletes messages. */
  delete(receipts: readonly string[]): Promise<void>;

  /** No call may follow. */
  close(): void;
}
