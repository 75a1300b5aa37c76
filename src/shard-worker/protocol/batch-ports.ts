/**
 * The two ends of the port between an HTTP thread and a shard. Both sides.
 *
 * A batch in shared memory crosses whole the first time and as the number of its memory from then on. Both ends number
 * shared memory in the order of its first appearance.
 */
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { BATCH_KINDS, type BatchAnswer, type BatchMessage, type PostedBatch } from './batches.js';

/** The port to a shard, as an HTTP server uses it. */
export interface ShardPort {
  /** Calls back with each answer that {@link receive} has not taken. */
  listen(callback: (answer: BatchAnswer) => void): void;
  /** The next answer that waits, taken now. */
  receive(): BatchAnswer | undefined;
  /** Posts a batch, whose memory is the shard's from then on: until the answer where it is shared, else for good. */
  post(message: BatchMessage): void;
  close(): void;
}

/** A MessagePort to a shard. */
export function shardPort(port: MessagePort): ShardPort {
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

/** The port to an HTTP server, as group commit uses it. */
export interface HttpServerPort {
  /** Calls back with each message that {@link receive} has not taken. */
  listen(callback: (message: BatchMessage) => void): void;
  /** The next message that waits, taken now. */
  receive(): BatchMessage | undefined;
  post(answer: BatchAnswer): void;
  close(): void;
}

/** A MessagePort to an HTTP server. */
export function httpServerPort(port: MessagePort): HttpServerPort {
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
