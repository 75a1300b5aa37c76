/**
 * A shard's port, as a front end uses it. Front-end thread.
 */
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { BATCH_KINDS, type BatchAnswer, type BatchMessage, type PostedBatch } from './messages.js';

/** A shard's port as a front end uses it. */
export interface AnswerPort {
  /** Calls back with each answer that {@link receive} has not taken. */
  listen(callback: (answer: BatchAnswer) => void): void;
  /** The next answer that waits, taken now. */
  receive(): BatchAnswer | undefined;
  /** Posts a batch, whose memory is the shard's from then on: until the answer where it is shared, else for good. */
  post(message: BatchMessage): void;
  close(): void;
}

/** A MessagePort as a front end uses it. */
export function answerPort(port: MessagePort): AnswerPort {
  const slots: ArrayBufferLike[] = [];
  return {
    listen: (callback) => port.on('message', callback),
    receive: () => (receiveMessageOnPort(port) as { message: BatchAnswer } | undefined)?.message,
    post: (message) => {
      const { kind, memory } = message;
      const slot = slots.indexOf(memory);
      if (slot >= 0) {
        port.postMessage((slot * BATCH_KINDS.length + BATCH_KINDS.indexOf(kind)) satisfies PostedBatch);
      } else if (memory instanceof SharedArrayBuffer) {
        slots.push(memory);
        port.postMessage(message satisfies PostedBatch);
      } else {
        port.postMessage(message satisfies PostedBatch, [memory]);
      }
    },
    close: () => {
      port.close();
    },
  };
}
