/**
 * The two ends of the port between an HTTP thread and a shard. HTTP thread and shard thread.
 *
 * Shared memory crosses the port with its first batch only. Both ends number it in the order of first appearance, and
 * later batches in it cross as that number.
 */
import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { BATCH_KINDS, type BatchAnswer, type BatchMessage, type PostedBatch } from './batches.js';

/** The port to a shard: batches go out, answers come in. HTTP thread. */
export interface ShardPort {
  /** Calls back with each answer, except those that {@link receive} takes. */
  listen(callback: (answer: BatchAnswer) => void): void;
  /** Takes the next waiting answer; undefined if there is none. */
  receive(): BatchAnswer | undefined;
  /** Posts a batch. The shard then owns its memory: shared memory until the answer, other memory for good. */
  post(message: BatchMessage): void;
  close(): void;
}

/** Wraps a MessagePort to a shard. */
export function shardPort(port: MessagePort): ShardPort {
  const slots: ArrayBufferLike[] = [];
  return {
    listen: (callback) => port.on('message', callback),
    receive: () => {
      const received: { message: BatchAnswer } | undefined = receiveMessageOnPort(port);
      return received?.message;
    },
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

/** The port to an HTTP server: batches come in, answers go out. Shard thread. */
export interface HttpServerPort {
  /** Calls back with each batch, except those that {@link receive} takes. */
  listen(callback: (message: BatchMessage) => void): void;
  /** Takes the next waiting batch; undefined if there is none. */
  receive(): BatchMessage | undefined;
  post(answer: BatchAnswer): void;
  close(): void;
}

/** Wraps a MessagePort to an HTTP server. */
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
      const received: { message: PostedBatch } | undefined = receiveMessageOnPort(port);
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
