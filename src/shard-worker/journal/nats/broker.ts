/**
 * A broker: ordered messages, each under the subject of a stream. Shard thread.
 *
 * `nats-broker.ts` implements it over JetStream, the simulation in memory.
 */

import type { Lsn } from '../../../core/checkpoint.js';
import type { JournalStore } from '../../protocol/control-messages.js';

/** A message of a stream's subject. A message without data is a fence: it has no LSN, and ends the stream for its writer. */
export interface BrokerMessage {
  /** Greater than the sequence of every earlier message of any subject. Sequences have gaps. */
  readonly sequence: number;
  readonly data: Uint8Array;
  /** The id of the database of its writer; undefined for an earlier version of the server. */
  readonly database?: string | undefined;
  /** Of a fence: the last LSN before it; undefined for an earlier version of the server. */
  readonly endLsn?: Lsn | undefined;
}

/** The outcome of a publish, as far as this process knows it. */
export type PublishOutcome =
  /** The message is stored. */
  | { readonly kind: 'published'; readonly sequence: number }
  /** The subject has another last message than expected, or another publish is in process. */
  | { readonly kind: 'mismatch' }
  /** Nothing was sent: the connection is a new one, and the last message may have changed meanwhile. */
  | { readonly kind: 'reconnected' }
  /** It will never be stored. */
  | { readonly kind: 'refused'; readonly error: unknown }
  /** In doubt: no answer came. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/**
 * A broker. Calls other than `publish` reject with JournalError `journal-unavailable` where the broker does not answer; they
 * may have had their effect.
 */
export interface Broker {
  /** The store behind the last connection. */
  readonly store: JournalStore;
  /** Where it is, for an operator. */
  readonly address: string;

  /** Opens a connection, so that {@link Broker.store} is the one that the next call reaches. */
  connect(): Promise<void>;

  /**
   * `expectedSequence`: of the last message of the subject, as this connection knows it; 0: none. `endLsn`: of a fence.
   */
  publish(stream: string, data: Uint8Array, expectedSequence: number, endLsn?: Lsn): Promise<PublishOutcome>;

  /** The last message of a stream; undefined where its subject is empty. */
  last(stream: string): Promise<BrokerMessage | undefined>;

  /** Messages of a stream from a sequence on, in order, without gaps. Fewer than `messagesMax` where the subject ends. */
  read(stream: string, fromSequence: number, messagesMax: number): Promise<readonly BrokerMessage[]>;

  /** Removes the messages of a stream below a sequence. */
  purge(stream: string, beforeSequence: number): Promise<void>;

  /** The streams with messages, and the number of messages of each. */
  streams(): Promise<ReadonlyMap<string, number>>;

  /** Closes the connection; no call may follow. */
  close(): Promise<void>;
}
