/** A connection to the simulated broker, as the product uses one to JetStream: see `nats-broker.ts`. */
import { JournalError } from '#product/core/errors.js';
import type { Broker, BrokerMessage } from '#product/shard-worker/journal/nats/broker.js';
import type { Life } from './scheduler.js';
import type { SimulatedBroker } from './simulated-broker.js';

/** The connection of a thread. `step`: the thread does something that is visible from outside; false if it ends there. */
export function connectToBroker(broker: SimulatedBroker, life: Life, step: () => boolean): Broker {
  const connection = broker.connect(life);
  const ask = async <T>(question: () => Promise<T>): Promise<T> => {
    if (!step()) return new Promise(() => undefined);
    try {
      return await question();
    } catch (error) {
      throw new JournalError('journal-unavailable', 'NATS is unavailable', { cause: error });
    }
  };
  return {
    publish: (stream, data, expectedSequence) =>
      step() ? connection.publish(stream, data, expectedSequence) : new Promise(() => undefined),
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
