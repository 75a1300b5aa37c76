/**
 * A front end's port, as group commit uses it. Shard thread.
 */
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { BATCH_KINDS, type BatchAnswer, type BatchMessage, type PostedBatch } from './messages.js';

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
  const slots: SharedArrayBuffer[] = [];
  const read = (posted: PostedBatch): BatchMessage => {
    if (typeof posted !== 'number') {
      if (posted.memory instanceof SharedArrayBuffer) slots.push(posted.memory);
      return posted;
    }
    const kind = BATCH_KINDS[posted % BATCH_KINDS.length];
    const memory = slots[Math.floor(posted / BATCH_KINDS.length)];
    if (kind === undefined || memory === undefined) throw new TypeError(`no batch has the number ${posted}`);
    return { kind, memory };
  };
  return {
    listen: (callback) =>
      port.on('message', (posted: PostedBatch) => {
        callback(read(posted));
      }),
    receive: () => {
      const received = receiveMessageOnPort(port) as { message: PostedBatch } | undefined;
      return received === undefined ? undefined : read(received.message);
    },
    post: (answer) => {
      port.postMessage(answer);
    },
    close: () => {
      port.close();
    },
  };
}
