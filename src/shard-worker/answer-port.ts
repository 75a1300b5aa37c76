/**
 * A shard's port, as a front end uses it. Front-end thread.
 */
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import type { BatchAnswer, BatchMessage } from './messages.js';

/** A shard's port as a front end uses it. */
export interface AnswerPort {
  /** Calls back with each answer that {@link receive} has not taken. */
  listen(callback: (answer: BatchAnswer) => void): void;
  /** The next answer that waits, taken now. */
  receive(): BatchAnswer | undefined;
  /** Posts a batch; `buffer` is what it holds, and is the shard's from then on. */
  post(message: BatchMessage, buffer: ArrayBuffer): void;
  close(): void;
}

/** A MessagePort as a front end uses it. */
export function answerPort(port: MessagePort): AnswerPort {
  return {
    listen: (callback) => port.on('message', callback),
    receive: () => (receiveMessageOnPort(port) as { message: BatchAnswer } | undefined)?.message,
    post: (message, buffer) => {
      port.postMessage(message, [buffer]);
    },
    close: () => {
      port.close();
    },
  };
}
