/**
 * What the nats journal needs of a broker: ordered messages, each under the subject of a stream. Shard thread.
 *
 * `nats-broker.ts` implements it over JetStream, the simulation in memory.
 */

/** A message of a stream's subject. Without data it is a fence: it has no LSN, and ends the stream for its writer. */
export interface BrokerMessage {
  /** Its place in the broker: greater than that of every earlier message of any subject. Sequences have gaps. */
  readonly sequence: number;
  readonly data: Uint8Array;
}

/** How a publish ended, as far as this process can know. */
export type PublishOutcome =
  /** The message is stored. */
  | { readonly kind: 'published'; readonly sequence: number }
  /** The last message of the subject is another one than expected, or a publish is still in process. */
  | { readonly kind: 'mismatch' }
  /** Nothing was sent: the connection had to be opened first, and meanwhile the last message may have become another one. */
  | { readonly kind: 'reconnected' }
  /** It is not stored, and never will be. */
  | { readonly kind: 'refused'; readonly error: unknown }
  /** No answer came: it is stored, or will be, or not. */
  | { readonly kind: 'unknown'; readonly error: unknown };

/**
 * A broker. A call other than `publish` rejects with JournalError `journal-unavailable` where the broker does not answer; what
 * it asked for may have been done.
 */
export interface Broker {
  /** `expectedSequence`: of the last message of the subject, as this connection has seen it; 0: it has none. */
  publish(stream: string, data: Uint8Array, expectedSequence: number): Promise<PublishOutcome>;

  /** The last message of a stream; undefined where its subject is empty. */
  last(stream: string): Promise<BrokerMessage | undefined>;

  /** Messages of a stream from a sequence on, in order, none left out. Fewer than `messagesMax` where the subject ends there. */
  read(stream: string, fromSequence: number, messagesMax: number): Promise<readonly BrokerMessage[]>;

  /** Removes the messages of a stream below a sequence. */
  purge(stream: string, beforeSequence: number): Promise<void>;

  /** The streams whose subjects hold something, with the numbers of their messages. */
  streams(): Promise<ReadonlyMap<string, number>>;

  /** Closes the connection; no call may follow. */
  close(): Promise<void>;
}
