/** A connection to the simulated queue, as the product uses one to SQS: see `sqs-queue.ts`. */
import { JournalError } from '#product/core/errors.js';
import type { Queue, SendOutcome } from '#product/shard-worker/journal/sqs/queue.js';
import type { Life } from './scheduler.js';
import { STORE } from './simulated-broker.js';
import { BATCH_MAX, QueueUnavailable, type SimulatedQueue } from './simulated-queue.js';

/** The thread at the other end. */
export interface QueueClient {
  readonly life: Life;
  /** It does something that is visible from outside; false if it ends there. */
  readonly step: () => boolean;
  /** Nothing passes between it and the queue. */
  readonly isCut: () => boolean;
  /** A message is sent. */
  readonly sent: (stream: string, data: Uint8Array) => void;
}

/** Times of the queue's client, in ms. */
export interface QueueClientTimes {
  /** How long what was received, or extended, is held. */
  readonly visibilityMs: number;
  /** How long a receive waits for a message. */
  readonly waitMs: number;
}

/** Opens the connection of a thread. */
export function connectToQueue(
  queue: SimulatedQueue,
  { life, step, isCut, sent }: QueueClient,
  { visibilityMs, waitMs }: QueueClientTimes,
): Queue {
  const connection = queue.connect(life);
  const gone = <T>(): Promise<T> => new Promise(() => undefined);
  const ask = async <T>(question: () => Promise<T>): Promise<T> => {
    if (!step()) return gone();
    try {
      const answer = isCut() ? undefined : { is: await question() };
      if (answer !== undefined && !isCut()) return answer.is;
      await queue.timeout(life);
      throw new QueueUnavailable('the network is down');
    } catch (error) {
      throw new JournalError('journal-unavailable', 'SQS is unavailable', { cause: error });
    }
  };
  const changeVisibility = async (receipts: readonly string[], ms: number): Promise<void> => {
    for (const batch of batchesOf(receipts)) await ask(() => connection.changeVisibility(batch, ms));
  };
  return {
    store: STORE,
    address: 'simulated',
    async send(stream, deduplicationId, data): Promise<SendOutcome> {
      if (!step()) return gone();
      if (isCut()) {
        await queue.timeout(life);
        const error = new QueueUnavailable('no connection was made');
        return { kind: 'refused', error, isThrottled: false };
      }
      sent(stream, data);
      const body = Buffer.from(data.buffer, data.byteOffset, data.length).toString('base64');
      const outcome = await connection.send({ group: stream, deduplicationId, body });
      if (isCut()) {
        await queue.timeout(life);
        return { kind: 'unknown', error: new QueueUnavailable('the network is down') };
      }
      return outcome.kind === 'refused' ? { ...outcome, isThrottled: true } : outcome;
    },
    async receive() {
      const messages = await ask(() => connection.receive({ messagesMax: BATCH_MAX, waitMs, visibilityMs }));
      return messages.map(({ group, body, receipt }) => ({
        stream: group,
        id: receipt,
        body,
        database: STORE.databaseId,
        receipt,
      }));
    },
    extend: (receipts) => changeVisibility(receipts, visibilityMs),
    release: (receipts, seconds = 0) => changeVisibility(receipts, 1000 * seconds),
    async delete(receipts) {
      for (const batch of batchesOf(receipts)) await ask(() => connection.delete(batch));
    },
    close: () => undefined,
  };
}

function batchesOf(receipts: readonly string[]): readonly (readonly string[])[] {
  const batches: (readonly string[])[] = [];
  for (let at = 0; at < receipts.length; at += BATCH_MAX) batches.push(receipts.slice(at, at + BATCH_MAX));
  return batches;
}
