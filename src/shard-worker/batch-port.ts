/**
 * A front end's port, as group commit uses it. Shard thread.
 */
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import type { BatchAnswer, BatchMessage } from './messages.js';

/** A front end's port as group commit uses it. */
export interface BatchPort {
  /** Calls back with each message that {@link receive} has not taken. */
  listen(callback: (message: BatchMessage) => void): void;
  /** The next message that waits, taken now. */
  receive(): BatchMessage | undefined;
  post(answer: BatchAnswer): void;
  close(): void;
}

/** A MessagePort as group commit uses it. */
export function batchPort(port: MessagePort): BatchPort {
  return {
    listen: (callback) => port.on('message', callback),
    receive: () => (receiveMessageOnPort(port) as { message: BatchMessage } | undefined)?.message,
    post: (answer) => {
      port.postMessage(answer);
    },
    close: () => {
      port.close();
    },
  };
}
