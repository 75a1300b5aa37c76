/** A connection to the simulated broker, as the product uses one to JetStream: see `nats-broker.ts`. */
import { JournalError } from '#product/core/errors.js';
import type { Broker, BrokerMessage, PublishOutcome } from '#product/shard-worker/journal/nats/broker.js';
import type { Life } from './scheduler.js';
import { BrokerUnavailable, type SimulatedBroker } from './simulated-broker.js';

/** The thread at the other end. */
export interface BrokerClient {
  readonly life: Life;
  /** It does something that is visible from outside; false if it ends there. */
  readonly step: () => boolean;
  /** Nothing passes between it and the broker. */
  readonly isCut: () => boolean;
}

/** Opens the connection of a thread. */
export function connectToBroker(broker: SimulatedBroker, { life, step, isCut }: BrokerClient): Broker {
  const connection = broker.connect(life);
  const ask = async <T>(question: () => Promise<T>): Promise<T> => {
    if (!step()) return new Promise(() => undefined);
    try {
      const answer = isCut() ? undefined : { is: await question() };
      if (answer !== undefined && !isCut()) return answer.is;
      await broker.timeout(life);
      throw new BrokerUnavailable('the network is down');
    } catch (error) {
      throw new JournalError('journal-unavailable', 'NATS is unavailable', { cause: error });
    }
  };
  return {
    async publish(stream, data, expectedSequence, endLsn): Promise<PublishOutcome> {
      if (!step()) return new Promise(() => undefined);
      const outcome = isCut() ? undefined : await connection.publish(stream, data, expectedSequence, endLsn);
      if (outcome !== undefined && !isCut()) return outcome;
      await broker.timeout(life);
      return { kind: 'unknown', error: new BrokerUnavailable('the network is down') };
    },
    store: connection.store,
    address: connection.address,
    connect: () => connection.connect(),
    last: (stream) => ask(() => connection.last(stream)),
    /** One by one: others may store and purge in between. */
    async read(stream, fromSequence, messagesMax) {
      const messages: BrokerMessage[] = [];
      for (let from = fromSequence; messages.length < messagesMax;) {
        const [message] = await ask(() => connection.read(stream, from, 1));
        if (message === undefined) break;
        messages.push(message);
        from = message.sequence + 1;
      }
      return messages;
    },
    purge: (stream, beforeSequence) => ask(() => connection.purge(stream, beforeSequence)),
    streams: () => ask(() => connection.streams()),
    close: () => connection.close(),
  };
}
